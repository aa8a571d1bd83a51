"""A plain model's only worker has its next request in its socket before it answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmekit_local.server.worker_connection import NeverBegun, WorkerConnection, WorkerFailure
from mmekit_runtime.wire import WireAnswer, encode_answer
from tests.server_process import wait_until

MODEL = """
import os
import select
import socket
import time
from pathlib import Path
from djl_python import Output

def connection():
    for fd in range(3, 100):  # output goes to sockets too
        try:
            one = socket.socket(fileno=os.dup(fd))
            one.getpeername()
            return one
        except OSError:
            pass

def handle(inputs):
    if inputs.is_empty():
        return None
    wish, _, gate = inputs.get_as_string().partition(" ")
    with open("calls", "a") as calls:
        calls.write(wish + "\\n")
    if wish == "hold":
        while not Path(gate).exists():
            time.sleep(0.005)
    if wish in ("look", "die"):
        ahead, _, _ = select.select([connection()], [], [], 60)
        if wish == "die":
            os._exit(3)
        return Output().add("one ahead" if ahead else "nothing")
    return Output().add(wish)
"""


@pytest.fixture
def threads():
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def folder(server, model_folder):
    folder = model_folder(MODEL, minWorkers=1, maxWorkers=1, job_queue_size=3)
    answer = server.load("ahead", folder)
    assert answer.status_code == 200, answer.text
    wait_until(lambda: quickly_answered(server))
    (folder / "calls").unlink()
    yield folder
    server.client.delete("/models/ahead")


def quickly_answered(server):
    """Ask for something quick; only behind a quick answer is the next request sent ahead."""
    began = time.monotonic()
    assert server.invoke("ahead", "quick").text == "quick"
    return time.monotonic() - began < 0.01


def requests_in_queue(server):
    (described,) = server.client.get("/models/ahead").json()
    return described["models"][0]["requestInQueue"]


def test_the_next_request_is_there_before_the_first_is_answered(server, folder, threads):
    first = threads.submit(server.invoke, "ahead", "look")
    wait_until((folder / "calls").exists)
    second = threads.submit(server.invoke, "ahead", "second")

    assert first.result().text == "one ahead"
    assert second.result().text == "second"


def test_what_was_sent_ahead_is_answered_by_the_next_worker_when_the_first_dies(
    server, folder, threads
):
    first = threads.submit(server.invoke, "ahead", "die")
    wait_until((folder / "calls").exists)
    second = threads.submit(server.invoke, "ahead", "second")

    assert first.result().status_code == 503
    assert second.result().text == "second"
    assert (folder / "calls").read_text().split() == ["die", "second"]


def test_what_was_sent_ahead_counts_as_waiting(server, folder, threads, tmp_path):
    gate = tmp_path / "gate"
    asked = [threads.submit(server.invoke, "ahead", f"hold {gate}")]
    wait_until((folder / "calls").exists)
    for waiting in (1, 2):
        asked.append(threads.submit(server.invoke, "ahead", str(waiting)))
        wait_until(lambda waiting=waiting: requests_in_queue(server) == waiting)

    # The last place of the queue stays free while the worker is busy, as in DJL Serving.
    surplus = server.invoke("ahead", "3")
    gate.touch()

    assert surplus.status_code == 503
    assert [one.result().text for one in asked] == ["hold", "1", "2"]


@contextlib.asynccontextmanager
async def linked():
    """Yield a link, the worker's end of it, and what it says of its failures."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    failures = []
    link = WorkerConnection(lambda failure: failures.append(failure) or failure)
    with theirs:
        await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
        yield link, theirs, failures
        link.close()


def answer(text):
    return encode_answer(WireAnswer(200, "OK", (), ((None, text),)))


def test_replies_that_come_together_go_to_those_who_asked():
    async def scenario():
        loop = asyncio.get_running_loop()
        async with linked() as (link, worker, _):
            asked = [link.ask(b"request", 60) for _ in range(3)]
            both = answer(b"one") + answer(b"two") + answer(b"three")
            await loop.sock_sendall(worker, both[:-4])
            first = [(await one).body for one in asked[:2]]
            await loop.sock_sendall(worker, both[-4:])
            return [*first, (await asked[2]).body]

    assert asyncio.run(scenario()) == [b"one", b"two", b"three"]


def test_the_time_of_a_request_begins_with_its_turn():
    async def scenario():
        loop = asyncio.get_running_loop()
        async with linked() as (link, worker, failures):
            patient, hasty = link.ask(b"request", 3600), link.ask(b"request", 0.01)
            await asyncio.sleep(0.05)  # what is shown is that nothing happens meanwhile
            assert not patient.done()
            assert not hasty.done()
            await loop.sock_sendall(worker, answer(b"one"))
            assert (await patient).body == b"one"
            with pytest.raises(WorkerFailure, match="TimeoutException") as raised:
                await hasty
            assert not isinstance(raised.value, NeverBegun)
            assert len(failures) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("answered", [0, 1])
def test_only_the_request_whose_turn_it_was_is_lost_with_its_worker(answered):
    async def scenario():
        loop = asyncio.get_running_loop()
        async with linked() as (link, worker, failures):
            asked = [link.ask(b"request", 60) for _ in range(3)]
            await loop.sock_sendall(worker, answer(b"x") * answered)
            worker.shutdown(socket.SHUT_WR)
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert len(failures) == 1
            return [type(one) for one in results[answered:]]

    first, *others = asyncio.run(scenario())
    assert first is WorkerFailure
    assert set(others) == {NeverBegun}


@pytest.mark.parametrize("surplus", [answer(b"two"), b"\x00\xc8"], ids=["a reply", "a piece"])
def test_bytes_that_nobody_asked_for_end_the_link(surplus):
    async def scenario():
        loop = asyncio.get_running_loop()
        async with linked() as (link, worker, failures):
            asked = link.ask(b"request", 60)
            await loop.sock_sendall(worker, answer(b"one") + surplus)
            assert (await asked).body == b"one"
            return str(failures[0])

    assert asyncio.run(scenario()) == "the worker answered without having been asked"
