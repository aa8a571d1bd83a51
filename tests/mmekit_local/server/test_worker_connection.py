"""The connection to a worker, and what it owes to whoever owns it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from mmekit_local.server.worker_connection import NeverBegun, WorkerConnection, WorkerFailure


def run(story, **options):
    async def scenario():
        told = []
        link = WorkerConnection(lambda failure: told.append(failure) or failure, **options)
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(lambda: link, sock=ours)
            try:
                await story(link, told)
            finally:
                transport.abort()
                await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_request_on_a_connection_that_closes_was_never_begun():
    async def story(link, told):
        link.close()
        answer = link.ask(b"x", 60)

        assert link.has_failed
        assert len(told) == 1
        with pytest.raises(NeverBegun):
            await answer

    run(story)


def test_a_request_that_was_written_may_have_begun_when_the_next_one_cannot_be():
    async def story(link, told):
        first = link.ask(b"x", 60)
        link.close()
        second = link.ask(b"y", 60)

        assert len(told) == 1
        with pytest.raises(WorkerFailure, match="disconnected") as failed:
            await first
        assert not isinstance(failed.value, NeverBegun)
        with pytest.raises(NeverBegun):
            await second

    run(story)


def test_a_request_that_cannot_be_written_is_the_end_of_its_connection():
    async def story(link, told):
        first = link.ask(b"x", 60)
        second = link.ask(None, 60)  # which no transport writes

        assert len(told) == 1
        for answer in (first, second):
            with pytest.raises(WorkerFailure, match="Failed to send data to python"):
                await answer

    run(story)


def test_a_patience_that_cannot_be_told_is_at_its_end():
    async def story(link, told):
        with pytest.raises(WorkerFailure, match="ValueError: mmap closed"):
            await link.ask(b"x", 0.01)

        assert len(told) == 1

    def time_left(timeout_s, since):
        raise ValueError("mmap closed")

    run(story, time_left=time_left)
