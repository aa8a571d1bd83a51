"""What a model answers through worker slots, compared with the plain engine and by itself."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from mmekit_runtime.wire import encode_request

ANSWERS = """
import numpy as np
from djl_python import Output

class OutOfMemoryError(Exception):
    pass

def handle(inputs):
    if inputs.is_empty():
        return Output(message="ready").add_property("loaded", "yes")
    return globals()[inputs.get_as_string()](inputs)

def last(inputs):
    return Output(message="the last word")

def nothing(inputs):
    return None

def text(inputs):
    return "just a text"

def number(inputs):
    return 7

def json(inputs):
    return Output().add_as_json({"values": np.arange(3), "umlaut": "ä"})

def properties(inputs):
    return Output().add_as_json({k: str(v) for k, v in inputs.get_properties().items()
                                 if k != "output_formatter"})

def parts(inputs):
    output = Output(code=202, message="two parts").add_property("X-Count", 2)
    return output.add(b"one", key="first").add("two", key="second")

def stream(inputs):
    return Output().add_property("X", "y").add_stream_content(iter(["a", "b"]))

def own_stream(inputs):
    return Output().add_stream_content(iter([b"a", "b", {"c": 1}]), output_formatter=None)

def broken_stream(inputs):
    def chunks():
        yield b"a"
        raise ValueError("the end")
    return Output().add_stream_content(chunks(), output_formatter=None)

def formatters(inputs):
    return Output().add_as_json([str(inputs.get_property("output_formatter").__name__)])

def my_formatter(inputs):
    pass

my_formatter.is_output_formatter = True

def error(inputs):
    return Output().error("my reason", code=418, message="a teapot")

def fails(inputs):
    raise ValueError("no such value: ä")

def memory(inputs):
    raise MemoryError("9 GiB")

def gpu_memory(inputs):
    raise OutOfMemoryError("CUDA")

def cuda(inputs):
    raise RuntimeError("CUDA error: out of memory")

def cache(inputs):
    raise RuntimeError("No available memory for the cache blocks")

def finalizes(inputs):
    return Output().add("x").finalize(print, "finalized")

def finalizes_badly(inputs):
    return Output().add("x").finalize(int, "no number")
"""

_FUNCTIONS = [line[4:].split("(")[0] for line in ANSWERS.splitlines() if line.startswith("def ")]
KINDS = [name for name in _FUNCTIONS if name not in ("handle", "last", "my_formatter")]


def read_raw(worker, request):
    """Send a request and one that ends it all; return what comes up to the end of that."""
    worker.sock.sendall(request)
    worker.sock.sendall(encode_request({"handler": "handle"}, (("data", b"last"),)))
    data = b""
    while not data.endswith(b"the last word\0\0\0\0"):
        data += worker.sock.recv(1 << 16)
    return data


@pytest.fixture(scope="module")
def both(shared_slots, shared_model):
    """A slot and a plain worker of the same model."""
    folder = shared_model(ANSWERS)
    slot = shared_slots.start(folder)
    plain = shared_slots.start(folder, MMEKIT_WORKER_SLOTS="off")
    assert (slot.is_slot, plain.is_slot) == (True, False)
    return slot, plain


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_answer_is_the_plain_engine_s_to_the_byte(both, kind):
    request = encode_request({"handler": "handle", "X-Header": "1"}, (("data", kind.encode()),))

    answers = [read_raw(worker, request) for worker in both]

    assert answers[0] == answers[1]


def test_a_handler_that_knows_only_handle_is_called_in_the_order_of_arrival(
    shared_slots, model, tmp_path, until
):
    busy, *others = shared_slots.start_many(5, model())
    gate = tmp_path / "gate"
    busy.send(f"hold({str(gate)!r})")
    until(lambda: busy.unread() == 0)
    first, second, third, fourth = others
    order = [third, first, fourth, second]

    for worker in order:
        worker.send("random.__dict__.setdefault('seen', []).append(1) or len(random.seen)")
    gate.touch()

    assert [worker.receive().body for worker in order] == [b"1", b"2", b"3", b"4"]


def test_the_initialisation_reaches_a_model_once(shared_slots, model):
    workers = [shared_slots.launch(folder) for folder in [model()] * 3]

    for worker in workers:
        worker.connect()
    answers = [worker.initialise(colour=str(number)) for number, worker in enumerate(workers)]

    assert {answer.status for answer in answers} == {204}
    seen = {worker.value("[one['colour'] for one in initialised]") for worker in workers}
    assert seen == {"['0']"}


def test_later_workers_get_the_recorded_answer_of_the_initialisation(shared_slots, model):
    code = ANSWERS.replace(
        'Output(message="ready")', 'Output(message=str(__import__("time").time_ns()))'
    )
    first, second = (shared_slots.launch(folder) for folder in [model(code)] * 2)
    first.connect()
    second.connect()

    assert first.initialise() == second.initialise()


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 200_000, 6 << 20])
def test_requests_of_any_size_arrive(shared_slots, model, size, echo):
    body = os.urandom(size)

    assert echo.ask(body).body == body


@pytest.fixture(scope="module")
def echo(shared_slots, shared_model):
    code = """
from djl_python import Output
def handle(inputs):
    return None if inputs.is_empty() else Output().add(inputs.get_as_bytes())
"""
    return shared_slots.start(shared_model(code, name="echo"))


def test_a_request_that_comes_byte_by_byte_arrives_while_others_are_answered(shared_slots, model):
    slow, other = shared_slots.start_many(2, model())
    request = encode_request({"handler": "handle"}, (("data", b"1 + 1"),))

    for index in range(len(request)):
        slow.sock.sendall(request[index : index + 1])
        assert other.value("2 + 2") == "4"

    assert slow.receive().body == b"2"


@pytest.mark.parametrize("size", [16_000, 17_000, 300_000, 20 << 20])
def test_answers_of_any_size_arrive(shared_slots, model, size, generous):
    assert generous.ask(str(size)).body == b"x" * size


@pytest.fixture(scope="module")
def generous(shared_slots, shared_model):
    code = """
from djl_python import Output
def handle(inputs):
    return None if inputs.is_empty() else Output().add(b"x" * int(inputs.get_as_string()))
"""
    return shared_slots.start(shared_model(code, name="generous"))


def test_garbage_on_a_worker_s_connection_ends_that_worker_alone(shared_slots, model):
    confused, other = shared_slots.start_many(2, model())

    confused.sock.sendall(struct.pack(">h", -5))

    assert confused.process.wait(60) == 1
    assert other.value("1 + 1") == "2"


def test_a_server_that_leaves_in_the_middle_of_an_answer_harms_nobody(shared_slots, model):
    leaving, other = shared_slots.start_many(2, model())

    leaving.send("'x' * 20_000_000")
    leaving.sock.recv(10)
    leaving.sock.shutdown(socket.SHUT_RDWR)
    leaving.hang_up()

    assert other.value("1 + 1") == "2"
    assert leaving.process.wait(60) == 1
