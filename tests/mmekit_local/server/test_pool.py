"""What the workers of the embedded server do of its own; tests/contract has the rest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from mmekit_local.server.pool import PoolSize, WorkerPool
from mmekit_local.server.worker_connection import NeverBegun
from tests.server_process import give_slots, has_ended, wait_until

STARTS_ANOTHER = """
import subprocess
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    return Output().add(str(subprocess.Popen(["sleep", "600"]).pid))
"""

WAITER = """
import os
import time
from pathlib import Path
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    wish = inputs.get_as_string()
    if wish == "exit":
        os._exit(3)
    if wish.startswith("hold "):
        while not Path(wish[5:]).exists():
            time.sleep(0.005)
    return Output().add(str(os.getpid()))
"""


STREAMER = """
from djl_python import Output

def endless():
    while True:
        yield "x" * 100_000

def handle(inputs):
    if inputs.is_empty():
        return None
    if inputs.is_batch():
        return Output().add_stream_content(endless(), None)
    return Output().add("alone")
"""


def workers(server):
    (described,) = server.client.get("/models/waiter").json()
    return described["models"][0]["workerGroups"][0]["workers"]


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


def test_workers_are_added_one_by_one_under_load_and_end_when_idle(server, load, threads, tmp_path):
    load(minWorkers=1, maxWorkers=2, max_idle_time=1)
    gate = tmp_path / "gate"

    asked = [threads.submit(server.invoke, "waiter", f"hold {gate}") for _ in range(8)]
    wait_until(lambda: [one["status"] for one in workers(server)] == ["READY"] * 2)
    pids = [worker["pid"] for worker in workers(server)]
    processes = [psutil.Process(pid) for pid in pids]
    gate.touch()

    assert {int(one.result().text) for one in asked} == set(pids)
    wait_until(lambda: len(workers(server)) == 1)
    wait_until(lambda: sum(not has_ended(process) for process in processes) == 1)


def test_a_model_whose_workers_die_again_and_again_is_given_up(server, load):
    load(minWorkers=1, maxWorkers=1)

    statuses = [server.invoke("waiter", "exit").status_code for _ in range(4)]

    assert statuses == [503] * 4
    assert server.invoke("waiter", "x").json()["message"] == "Model is not ready: waiter"
    assert server.client.get("/ping").status_code == 500


def test_the_worker_of_a_request_that_was_late_is_ended(server, load, tmp_path):
    load(minWorkers=1, maxWorkers=1, option__predict_timeout=1)
    (worker,) = workers(server)
    process = psutil.Process(worker["pid"])

    assert server.invoke("waiter", f"hold {tmp_path / 'never'}").status_code == 503

    wait_until(lambda: has_ended(process))


def test_the_memory_of_a_model_is_free_when_its_unloading_answers(server, load):
    load(minWorkers=2, maxWorkers=2)
    processes = [psutil.Process(worker["pid"]) for worker in workers(server)]

    server.client.delete("/models/waiter")

    assert all(map(has_ended, processes))


@pytest.mark.parametrize("slots", [False, True], ids=["plain", "slots"])
def test_a_stream_for_several_requests_is_nobody_s_and_costs_no_worker(
    own_server, model_folder, threads, slots
):
    properties = {"batch_size": 2, "max_batch_delay": 500, "option__predict_timeout": 1}
    folder = model_folder(STREAMER, minWorkers=1, maxWorkers=1, **properties)
    if slots:
        give_slots(folder)
    name = own_server.loaded(folder)

    for _ in range(2):
        both = [threads.submit(own_server.invoke, name, "x") for _ in range(2)]

        for one in both:
            assert "Batch output size mismatch" in one.result().json()["message"]
        assert own_server.value(name, "x") == "alone"


@pytest.mark.parametrize("slots", [False, True], ids=["plain", "slots"])
def test_what_a_model_started_ends_with_it(own_server, model_folder, slots):
    folder = model_folder(STARTS_ANOTHER)
    if slots:
        give_slots(folder)
    name = own_server.loaded(folder)
    other = psutil.Process(int(own_server.value(name, "x")))
    assert other.is_running()
    assert own_server.unload(name).status_code == 200
    wait_until(lambda: has_ended(other))


def test_a_batch_that_no_worker_has_begun_waits_again_in_its_order():
    pool = WorkerPool("model", PoolSize(1, 1, batch_size=3), launcher=None)
    pool._queue.append("later")
    pool._fail_batch(["first", "second", "third"], NeverBegun("the connection was closing"))
    assert [*pool._queue] == ["first", "second", "third", "later"]
