"""Workers: minimum to maximum, first in first out, batches, time-outs and deaths."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
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
        for index, single in enumerate(inputs.get_batches()):
            output.add(f"{inputs.get_batch_size()}:{single.get_as_string()}", batch_index=index)
        return output
    wish = inputs.get_as_string()
    if wish == "exit":
        os._exit(3)
    if wish.startswith("hold "):
        while not Path(wish[5:]).exists():
            time.sleep(0.005)
    return Output().add(f"{os.getpid()}:{wish}").add_property("X-Count", next(count))
"""


def until(condition, timeout=20.0):
    """Wait for a condition; its last value is returned, or the test fails."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)
    return value


def workers(server, name="waiter"):
    (described,) = server.client.get(f"/models/{name}").json()
    return described["models"][0]["workerGroups"][0]["workers"]


def in_queue(server):
    (described,) = server.client.get("/models/waiter").json()
    return described["models"][0]["requestInQueue"]


@pytest.fixture
def load(server, model_folder):
    def load(**properties):
        answer = server.load("waiter", model_folder(WAITER, **properties))
        assert answer.status_code == 200, answer.text

    yield load
    server.client.delete("/models/waiter")


@pytest.fixture
def threads():
    with ThreadPoolExecutor(20) as pool:
        yield pool


def test_the_minimum_of_workers_is_there_after_the_load(server, load):
    load(minWorkers=2, maxWorkers=2)

    assert len(workers(server)) == 2


def test_waiting_requests_are_answered_in_the_order_of_their_arrival(
    server, load, threads, tmp_path
):
    load(minWorkers=1, maxWorkers=1)
    gate = tmp_path / "gate"
    asked = [threads.submit(server.invoke, "waiter", f"hold {gate}")]
    for number in range(5):
        asked.append(threads.submit(server.invoke, "waiter", str(number)))
        until(lambda number=number: in_queue(server) == number + 1)
    gate.touch()

    assert [int(one.result().headers["x-count"]) for one in asked] == [0, 1, 2, 3, 4, 5]


def test_workers_are_added_under_load_and_end_when_idle(server, load, threads, tmp_path):
    load(minWorkers=1, maxWorkers=2, max_idle_time=1)
    gate = tmp_path / "gate"

    asked = [threads.submit(server.invoke, "waiter", f"hold {gate}") for _ in range(8)]
    until(lambda: len(workers(server)) == 2)
    pids = [worker["pid"] for worker in workers(server)]
    gate.touch()

    assert {int(one.result().text.partition(":")[0]) for one in asked} == set(pids)
    until(lambda: len(workers(server)) == 1)
    until(lambda: sum(psutil.pid_exists(pid) for pid in pids) == 1)


def test_a_full_queue_is_503(server, load, threads, tmp_path):
    load(minWorkers=1, maxWorkers=1, job_queue_size=2)
    gate = tmp_path / "gate"
    asked = [threads.submit(server.invoke, "waiter", f"hold {gate}") for _ in range(3)]
    until(lambda: in_queue(server) == 2)

    refused = server.invoke("waiter", "x")
    gate.touch()

    assert refused.status_code == 503
    assert refused.json()["type"] == "WlmCapacityException"
    assert [one.result().status_code for one in asked] == [200] * 3


def test_requests_are_batched_up_to_the_size_or_the_delay(server, load, threads):
    load(minWorkers=1, maxWorkers=1, batch_size=4, max_batch_delay=300)

    full = [threads.submit(server.invoke, "waiter", str(number)) for number in range(4)]
    assert {one.result().text for one in full} == {f"4:{number}" for number in range(4)}

    pair = [threads.submit(server.invoke, "waiter", str(number)) for number in range(2)]
    assert {one.result().text for one in pair} == {"2:0", "2:1"}


def test_a_worker_that_dies_in_a_request_fails_only_that_and_is_replaced(server, load):
    load(minWorkers=1, maxWorkers=1)

    died = server.invoke("waiter", "exit")

    assert died.status_code == 503
    assert "Python worker disconnected." in died.json()["message"]
    assert server.invoke("waiter", "x").status_code == 200


def test_an_idle_worker_that_is_killed_is_replaced(server, load):
    load(minWorkers=1, maxWorkers=1)
    (worker,) = workers(server)

    os.kill(worker["pid"], signal.SIGKILL)
    until(lambda: [one["pid"] for one in workers(server)] not in ([], [worker["pid"]]))

    assert server.invoke("waiter", "x").status_code == 200


def test_a_model_whose_workers_die_again_and_again_is_given_up(server, load):
    load(minWorkers=1, maxWorkers=1)

    statuses = [server.invoke("waiter", "exit").status_code for _ in range(4)]

    assert statuses == [503] * 4
    assert server.invoke("waiter", "x").json()["message"] == "Model is not ready: waiter"
    assert server.client.get("/ping").status_code == 500


def test_a_request_past_its_time_fails_the_model_as_djl_serving_does(server, load, tmp_path):
    load(minWorkers=1, maxWorkers=1, option__predict_timeout=1)
    (worker,) = workers(server)

    late = server.invoke("waiter", f"hold {tmp_path / 'never'}")

    assert late.status_code == 503
    assert late.json()["message"] == "java.util.concurrent.TimeoutException"
    until(lambda: not psutil.pid_exists(worker["pid"]))
    assert server.client.get("/ping").status_code == 500
    assert server.client.get("/models").json()["models"][0]["status"] == "FAILED"


def test_a_model_that_does_not_load_in_time_is_given_up(server, model_folder, tmp_path):
    code = "import time\ndef handle(inputs):\n    time.sleep(60)\n"
    folder = model_folder(code, option__model_loading_timeout=1)

    answer = server.load("slow", folder)

    assert answer.status_code == 500
    assert answer.json()["message"] == "java.util.concurrent.TimeoutException"


def test_the_memory_of_a_model_is_free_when_its_unloading_answers(server, load):
    load(minWorkers=2, maxWorkers=2)
    pids = [worker["pid"] for worker in workers(server)]

    server.client.delete("/models/waiter")

    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_request_that_waits_when_its_model_is_unloaded_is_answered(
    server, load, threads, tmp_path
):
    load(minWorkers=1, maxWorkers=1)
    waiting = threads.submit(server.invoke, "waiter", f"hold {tmp_path / 'never'}")
    until(lambda: server.client.get("/models").json()["models"])
    threads.submit(server.invoke, "waiter", "x")
    until(lambda: in_queue(server) == 1)

    server.client.delete("/models/waiter")

    assert waiting.result().status_code == 503


def test_the_initialisation_carries_the_properties(server, model_folder):
    code = """
from djl_python import Output
seen = None
def handle(inputs):
    global seen
    if inputs.is_empty():
        seen = dict(inputs.get_properties())
        return None
    return Output().add_as_json(seen)
"""
    properties = {"option__foo": "bar", "option__env": "A=1,B=2", "max_idle_time": 30}
    assert server.load("seen", model_folder(code, **properties)).status_code == 200

    seen = json.loads(server.invoke("seen", "x").content)
    server.client.delete("/models/seen")

    # What DJL Serving 0.36.0 hands over for the same file.
    assert {name: seen[name] for name in ("engine", "foo", "handler", "max_idle_time")} == {
        "engine": "Python",
        "foo": "bar",
        "handler": "handle",
        "max_idle_time": "30",
    }
    assert "env" not in seen


def test_the_environment_of_a_package_reaches_its_workers(server, model_folder):
    code = """
import os
from djl_python import Output
def handle(inputs):
    return None if inputs.is_empty() else Output().add(os.environ["MINE"] + os.getcwd())
"""
    folder = model_folder(code, option__env="MINE=yes")
    assert server.load("env", folder).status_code == 200

    answer = server.invoke("env", "x").text
    server.client.delete("/models/env")

    assert answer == f"yes{Path(folder).resolve()}"
