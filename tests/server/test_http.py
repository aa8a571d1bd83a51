"""The HTTP server by itself: time limits, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from mmekit.server.exchange import HttpLimits, Responder, Response
from mmekit.server.front import no_request
from mmekit.server.http import HttpServer
from mmekit.server.registry import Registry


async def echo(request):
    return Response(200, "OK", [], request.body)


async def until(condition):
    while not condition():  # noqa: ASYNC110  the server under test has no such event
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def serving(answer=echo, **limits):
    """Run a server in this loop; yield it and a function that connects to it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = HttpServer(Responder(answer, no_request), HttpLimits(**limits))
    await server.start(listener)
    writers = []

    async def connect():
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writers.append(writer)
        return reader, writer

    try:
        yield server, connect
    finally:
        await server.close(drain_s=0)
        for writer in writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.parametrize(
    "part",
    [
        b"POST /x HT",
        b"POST /x HTTP/1.1\r\nA: b\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nab",
    ],
    ids=["line", "headers", "body"],
)
def test_a_request_that_does_not_become_whole_is_408(part):
    async def scenario():
        async with serving(request_s=0.1) as (_, connect):
            reader, writer = await connect()
            writer.write(part)
            return await reader.read()

    answer = asyncio.run(scenario())

    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b'"message": "The request was not whole within 0.1 s."' in answer


def test_the_time_limit_is_for_one_request_not_for_the_connection():
    async def scenario():
        async with serving(request_s=0.1) as (_, connect):
            reader, writer = await connect()
            answers = []
            for _ in range(3):
                writer.write(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na")
                await asyncio.sleep(0)
                writer.write(b"b")
                head = await reader.readuntil(b"\r\n\r\n")
                answers.append((head[:12], await reader.readexactly(2)))
            # Idle for longer than a request may take.
            await asyncio.wait({asyncio.create_task(reader.read(1))}, timeout=0.25)
            return answers, reader.at_eof()

    assert asyncio.run(scenario()) == ([(b"HTTP/1.1 200", b"ab")] * 3, False)


def test_a_client_that_reads_nothing_is_let_go():
    async def large(_):
        return Response(200, "OK", [], bytes(50 << 20))

    async def scenario():
        async with serving(large, stall_s=0.1) as (server, connect):
            _, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            writer.transport.pause_reading()
            await until(lambda: server.connections)
            await until(lambda: not server.connections)

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_the_end_waits_for_what_is_under_way_and_not_for_idle_connections():
    async def scenario():
        go_on = asyncio.Event()
        asked = asyncio.Event()

        async def slow(request):
            asked.set()
            await go_on.wait()
            return Response(200, "OK", [], b"done")

        async with serving(slow) as (server, connect):
            idle, _ = await connect()
            busy, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await asked.wait()
            closing = asyncio.create_task(server.close(drain_s=20))
            assert await idle.read() == b""
            assert not closing.done()
            go_on.set()
            answer = await busy.read()
            await closing
            return answer

    answer = asyncio.run(scenario())

    assert answer.endswith(b"connection: close\r\n\r\ndone")


def test_whoever_answers_is_told_that_the_client_went_away():
    async def scenario():
        gone = asyncio.Event()
        asked = asyncio.Event()

        async def wait(request):
            request.if_gone = gone.set
            asked.set()
            await gone.wait()
            return Response(200, "OK", [], b"for nobody")

        async with serving(wait) as (_, connect):
            _, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await asked.wait()
            writer.close()
            await gone.wait()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_there_is_an_end_to_the_number_of_models(tmp_path):
    from mmekit.engine import engine_folder
    from mmekit.server.memory import Memory
    from mmekit.server.refusal import Refusal

    (tmp_path / "model.py").write_text("def handle(inputs): return None")
    (tmp_path / "serving.properties").write_text("engine=Python\nminWorkers=0\n")

    async def scenario():
        registry = Registry(engine_folder(), tmp_path, Memory(), max_models=1)
        await registry.load("first", str(tmp_path))
        try:
            with pytest.raises(Refusal) as refused:
                await registry.load("second", str(tmp_path))
            await registry.unload("first")
            await registry.load("second", str(tmp_path))
        finally:
            await registry.close()
        return refused.value

    refusal = asyncio.run(scenario())

    assert (refusal.status, refusal.kind) == (507, "WlmOutOfMemoryException")
    assert refusal.what == "No more than 1 models are loaded at once."
