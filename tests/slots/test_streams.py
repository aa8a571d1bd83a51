"""Answers that do not leave in one step: whoever reads one slowly holds up nobody else."""

from __future__ import annotations

import os
import signal
import struct
import threading

import httpx
import pytest

from mmekit_local.server.replies import ReplyReader

STREAMING = """
import os, time
from djl_python import Output

asked, finalised, pieces = [], [], [0]

def endless():
    while True:
        pieces[0] += 1
        yield "x" * 1000

def counted(number, gate=None):
    for one in range(number):
        yield f"{one},"
    while gate and not os.path.exists(gate):
        time.sleep(0.002)

def broken():
    yield "one"
    raise ValueError("a broken stream")

def stuck():
    yield "one"
    print("stuck for long", flush=True)
    time.sleep(3600)

def handle(inputs):
    if inputs.is_empty():
        return None
    text = inputs.get_as_string()
    asked.append(text)
    made = eval(text)
    output = Output().finalize(finalised.append, text)
    if hasattr(made, "__next__"):
        return output.add_property("Kind", "stream").add_stream_content(made, None)
    return output.add(str(made))
"""


@pytest.fixture(scope="module")
def pair(shared_slots, shared_model):
    """Return two slots of one process."""
    return shared_slots.start_many(2, shared_model(STREAMING, name="streaming"))


@pytest.fixture
def slow_and_other(slots, model):
    return slots.start_many(2, model(STREAMING))


def test_a_slow_reader_of_a_long_answer_holds_up_nobody(slow_and_other):
    slow, other = slow_and_other
    slow.send("'x' * 20_000_000")
    assert slow.sock.recv(2) == struct.pack(">h", 200)

    assert [other.value(str(number)) for number in range(20)] == [str(one) for one in range(20)]
    assert other.value("asked[0] in finalised") == "False"

    rest = b""
    while len(rest) < 20_000_000:
        rest += slow.sock.recv(1 << 20)
    assert rest.endswith(b"x" * 20_000_000)
    assert slow.value("asked[0] in finalised") == "True"
    assert slow.value("1 + 1") == "2"


def test_a_slow_reader_of_a_stream_holds_up_nobody(slow_and_other):
    slow, other = slow_and_other
    slow.send("endless()")
    assert slow.sock.recv(2) == struct.pack(">h", 200)

    first = int(other.value("pieces[0]"))
    assert [other.value(str(number)) for number in range(20)] == [str(one) for one in range(20)]
    # What nobody reads is not made: what a socket holds is all there is of it.
    assert int(other.value("pieces[0]")) - first < 1000


def test_a_stream_without_an_end_and_requests_take_turns(slow_and_other):
    reading, other = slow_and_other
    reading.send("endless()")
    taken, stop = [0], threading.Event()

    def read():
        while not stop.is_set():
            taken[0] += len(reading.sock.recv(1 << 16))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        before = 0
        for number in range(20):
            assert other.value(str(number)) == str(number)
            while taken[0] == before:
                stop.wait(0.001)
            before = taken[0]
    finally:
        stop.set()
        thread.join(10)


def test_streams_of_several_connections_grow_together(slots, model):
    workers = slots.start_many(3, model(STREAMING))
    for worker in workers:
        worker.send("endless()")

    for _ in range(50):
        for worker in workers:
            assert worker.sock.recv(3000)


def test_a_stream_is_that_of_the_plain_engine(shared_slots, shared_model, pair):
    plain = shared_slots.start(
        shared_model(STREAMING, name="plain_stream"), MMEKIT_WORKER_SLOTS="off"
    )

    for body in ("counted(3)", "counted(0)", "broken()", "iter([b'bytes', bytearray(b'2'), {}])"):
        answers = []
        for worker in (pair[0], plain):
            worker.send(body)
            data, reader = b"", ReplyReader()
            reply = None
            while reply is None or reader.stream is not None:
                data += (chunk := worker.sock.recv(1 << 16))
                reply = reader.feed(chunk) or reply
            answers.append(data)
        assert answers[0] == answers[1], body
        assert b"stream" in answers[0]


def test_a_stream_whose_reader_leaves_ends_and_is_finalised(slow_and_other, until):
    slow, other = slow_and_other
    slow.send("endless()")
    slow.sock.recv(10)

    slow.kill()

    until(lambda: other.value("finalised[:1]") == "['endless()']")
    first = other.value("pieces[0]")
    assert other.value("pieces[0]") == first


def test_a_process_that_dies_in_a_stream_ends_that_connection_alone(slow_and_other):
    slow, other = slow_and_other
    pid = other.value("os.getpid()")
    slow.send("endless()")
    slow.sock.recv(10)

    os.kill(int(pid), signal.SIGKILL)

    assert other.value("os.getpid()") != pid
    assert slow.process.wait(60) == 1


def test_a_server_that_gives_up_a_stuck_stream_takes_the_stuck_process_along(slow_and_other, until):
    slow, other = slow_and_other
    pid = other.value("os.getpid()")
    slow.send("stuck()")
    received = b""
    while b"one" not in received:
        received += slow.sock.recv(100)
    # Until then it may answer others.
    until(lambda: "stuck for long" in slow.output)
    other.send("os.getpid()")

    slow.kill()

    assert other.receive().body != pid.encode()


def test_a_model_does_not_park_while_an_answer_is_on_its_way(slots, model, until):
    slow = slots.start(model(STREAMING, option__park_after=0.2))
    slow.send("'x' * 20_000_000")
    slow.sock.recv(10)

    def parks():
        return slow.output.count("parked after")

    before = parks()
    with pytest.raises(AssertionError):
        until(lambda: parks() > before, 1.0)
    left = 20_000_000
    while left > 0:
        left -= len(slow.sock.recv(1 << 20))

    until(lambda: parks() > before)


@pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])
def test_a_client_that_leaves_a_stream_without_an_end_stops_nobody(embedded, model, slots):
    folder = model(STREAMING, runtime=slots, minWorkers=2, maxWorkers=2, option__predict_timeout=1)
    name = embedded.loaded(folder, f"left-{slots}")
    pid = embedded.value(name, "os.getpid()")

    for _ in range(2):
        with embedded.client.stream("POST", f"/models/{name}/invoke", content="endless()") as one:
            assert next(one.iter_raw())

    # On the plain engine, the workers are replaced.
    assert (embedded.value(name, "os.getpid()") == pid) is slots
    assert embedded.client.get("/ping").status_code == 200
    assert "is marked as failed" not in embedded.log


def test_sixteen_clients_that_read_nothing_stop_nobody(embedded, model):
    name = embedded.loaded(model(STREAMING, minWorkers=17, maxWorkers=17), "crowd")
    clients = [httpx.Client(base_url=embedded.base, timeout=60) for _ in range(16)]
    streams = [
        one.stream("POST", f"/models/{name}/invoke", content="endless()").__enter__()
        for one in clients
    ]

    assert [embedded.value(name, str(number)) for number in range(20)] == [
        str(number) for number in range(20)
    ]

    for stream, client in zip(streams, clients, strict=True):
        stream.close()
        client.close()
