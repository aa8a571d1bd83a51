"""Workers: minimum to maximum, batches, time-outs, full queues and deaths."""

from __future__ import annotations

from pathlib import Path

import pytest

WAITER = """
import itertools
import os
import time
from pathlib import Path
from djl_python import Output

count = itertools.count()

def handle(inputs):
    if inputs.is_empty():
        return None
    if inputs.is_batch():
        output = Output()
        batch = inputs.get_batches()
        for index, single in enumerate(batch):
            text = single.get_as_string()
            if text == "raise":
                raise ValueError("one of them")
            if text == "keep back" and len(batch) > 1:
                continue
            hold(text)
            output.add(f"{len(batch)}:{text}", batch_index=index)
        return output
    wish = inputs.get_as_string()
    if wish == "exit":
        os._exit(3)
    hold(wish)
    return Output().add(f"{os.getpid()}:{wish}").add_property("X-Count", next(count))

def hold(wish):
    if wish == "nap":
        time.sleep(0.02)
    if wish.startswith("hold "):
        Path(wish[5:] + ".held").touch()
        while not Path(wish[5:]).exists():
            time.sleep(0.005)
"""


class Gate:
    """A file that requests wait for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return f"hold {self._path}"

    def is_held(self) -> bool:
        return Path(f"{self._path}.held").exists()

    def open(self) -> None:
        self._path.touch()


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


@pytest.fixture
def load(server, model_folder):
    def load(**properties):
        answer = server.load("waiter", model_folder(WAITER, **properties))
        assert answer.status_code == 200, answer.text

    return load


def in_queue(server):
    return server.describe("waiter")["requestInQueue"]


def test_the_minimum_of_workers_is_there_after_the_load(server, load):
    load(minWorkers=2, maxWorkers=2)

    assert [worker["status"] for worker in server.workers("waiter")] == ["READY", "READY"]
    assert len({worker["id"] for worker in server.workers("waiter")}) == 2


def test_workers_are_added_under_load_and_end_when_idle(server, load, threads, until):
    load(maxWorkers=2, max_idle_time=1)
    asked = []

    def there_are_two():
        asked.extend(threads.submit(server.invoke, "waiter", "nap") for _ in range(8))
        return len(server.workers("waiter")) == 2

    until(there_are_two)

    assert {one.result().status_code for one in asked} == {200}

    def ready():
        return [one for one in server.workers("waiter") if one["status"] == "READY"]

    until(lambda: len(ready()) == 1)


def test_a_full_queue_is_503(server, load, threads, until, gate, says):
    load(job_queue_size=3)
    asked = [threads.submit(server.invoke, "waiter", str(gate))]
    until(gate.is_held)
    asked += [threads.submit(server.invoke, "waiter", str(gate)) for _ in range(2)]
    until(lambda: in_queue(server) == 2)

    refused = server.invoke("waiter", "x")
    gate.open()

    message = "Worker queue capacity exceeded for model: waiter"
    says(refused, 503, "WlmCapacityException", message)
    assert [one.result().status_code for one in asked] == [200] * 3


def test_a_queue_of_one_is_for_an_idle_worker(server, load, threads, until, gate):
    load(job_queue_size=1)
    asked = threads.submit(server.invoke, "waiter", str(gate))
    until(gate.is_held)

    assert server.invoke("waiter", "x").status_code == 503
    gate.open()
    assert asked.result().status_code == 200


def test_a_model_without_workers_refuses_the_request_that_starts_one(server, load, until, says):
    load(minWorkers=0, maxWorkers=1)
    assert server.client.get("/ping").json() == {"waiter": {"status": "Healthy"}}

    first = server.invoke("waiter", "x")

    message = "Worker queue capacity exceeded for model: waiter"
    says(first, 503, "WlmCapacityException", message)
    until(lambda: server.invoke("waiter", "x").status_code == 200)


def test_requests_are_batched_up_to_the_size(server, load, threads):
    load(batch_size=4, max_batch_delay=60_000)

    full = [threads.submit(server.invoke, "waiter", str(number)) for number in range(4)]

    assert {one.result().text for one in full} == {f"4:{number}" for number in range(4)}


def test_requests_are_batched_up_to_the_delay(server, load, threads, until, gate):
    load(batch_size=4, max_batch_delay=100)
    busy = threads.submit(server.invoke, "waiter", str(gate))
    until(gate.is_held)

    pair = [threads.submit(server.invoke, "waiter", str(number)) for number in range(2)]
    until(lambda: in_queue(server) == 2)
    gate.open()
    assert busy.result().status_code == 200
    assert {one.result().text for one in pair} == {"2:0", "2:1"}

    alone = server.invoke("waiter", "alone").text
    assert alone.endswith(":alone")
    assert not alone.startswith("1:")


def test_a_request_past_its_time_fails_the_model(server, load, says, tmp_path):
    load(option__predict_timeout=1)

    late = server.invoke("waiter", f"hold {tmp_path / 'never'}")

    assert late.status_code == 503
    assert late.json()["type"] == "WlmException"
    assert late.json()["message"] == "java.util.concurrent.TimeoutException"
    ping = server.client.get("/ping")
    assert (ping.status_code, ping.json()) == (500, {"waiter": {"status": "FAILED"}})
    assert server.client.get("/models").json()["models"][0]["status"] == "FAILED"
    says(server.invoke("waiter", "x"), 503, "WlmException", "Model is not ready: waiter")
    assert server.unload("waiter").status_code == 200
    assert server.client.get("/ping").status_code == 200


def test_a_request_whose_worker_dies_is_503(server, load):
    load()

    died = server.invoke("waiter", "exit")

    assert died.status_code == 503
    if not server.slots:  # which answer themselves
        assert died.json()["type"] == "WlmException"
        assert "Python worker disconnected." in died.json()["message"]


def test_a_request_that_waits_when_its_model_is_unloaded_is_answered(
    server, load, threads, until, gate
):
    load()
    running = threads.submit(server.invoke, "waiter", str(gate))
    until(gate.is_held)

    server.unload("waiter")

    assert running.result().status_code == 503
    assert server.client.get("/models").json() == {"models": []}


def test_a_request_whose_client_has_gone_is_not_answered(server, load, threads, until, post, gate):
    load()
    running = threads.submit(server.invoke, "waiter", str(gate))
    until(gate.is_held)
    gone = server.connect()
    gone.send(post("/models/waiter/invoke", b"gone"))
    until(lambda: in_queue(server) == 1)
    gone.close()
    after = threads.submit(server.invoke, "waiter", "after")
    until(lambda: in_queue(server) == 2)

    gate.open()

    first, second = running.result().headers["x-count"], after.result().headers["x-count"]
    assert int(second) == int(first) + 1
