"""Resources that run out: disks, descriptors, memory, time that jumps."""

from __future__ import annotations

import re
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mmekit_local.server.memory import MIB
from mmekit_local.server.worker import MAX_CRASHES
from tests.faults.conftest import fill, kill

STEPPING = """
import time
real = time.time

def stepped():
    try:
        with open({path!r}) as file:
            return real() + float(file.read() or 0)
    except OSError:
        return real()

time.time = stepped
"""

SLOTS = pytest.mark.parametrize(
    "slots",
    [pytest.param(True, id="slots"), pytest.param(False, id="plain", marks=pytest.mark.thorough)],
)


@SLOTS
def test_a_full_disk_harms_no_loaded_model_and_no_load_afterwards(
    start, model, traffic, small_folder, slots
):
    server = start(environment={"TMPDIR": str(small_folder)})
    name = server.loaded(model("first", slots=slots, minWorkers=2, maxWorkers=2))
    running = traffic(server, name, clients=2)

    full = fill(small_folder)
    loaded = server.load("second", model("second", slots=slots))
    assert loaded.status_code in (200, 500), loaded.text
    if loaded.status_code == 500 and "No space left on device" not in loaded.text:
        # Said in the log, by a worker that could not write its files.
        server.wait_for("No space left on device")
    write = f"open({str(small_folder / 'more')!r}, 'wb', buffering=0).write(bytes(1 << 20))"
    failed = server.invoke(name, write)
    assert failed.status_code == 424
    assert "No space left on device" in failed.text
    running.more()
    full.unlink()

    if loaded.status_code == 500:
        server.loaded(model("third", slots=slots), "second")
    assert server.value("second", "1 + 1") == "2"
    assert running.failures == 0


def test_a_server_starts_on_a_full_disk(start, model, small_folder):
    fill(small_folder)

    server = start(environment={"TMPDIR": str(small_folder)})

    assert server.value(server.loaded(model()), "1 + 1") == "2"


def test_an_engine_that_does_not_fit_on_the_disk_is_one_clear_message(start, small_folder):
    from mmekit.engine import ENGINE_SCRIPT

    fill(small_folder)
    environment = {"XDG_CACHE_HOME": str(small_folder), "MMEKIT_DJL_PYTHON": ""}

    with pytest.raises(RuntimeError) as error:
        start(environment=environment)

    if "could not be fetched" in str(error.value):
        pytest.skip("the engine can only be fetched with a network")
    assert "Traceback" not in str(error.value)
    assert "could not be stored: No space left on device" in str(error.value)
    assert "free space on that disk" in str(error.value)
    assert not list(small_folder.rglob(ENGINE_SCRIPT))


def test_without_descriptors_new_connections_wait_and_open_ones_go_on(start, model, traffic, until):
    server = start()
    name = server.loaded(model())
    running = traffic(server, name, clients=2)
    used = psutil.Process(server.pid).num_fds()
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + 20, 20_000))

    opened = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    until(lambda: "no connection can be accepted: Too many open files" in server.log)
    running.more()
    assert running.failures == 0
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(httpx.get, f"{server.base}/ping", timeout=120)
        running.more()
        assert not waiting.done()
        for one in opened:
            one.close()
        assert waiting.result().status_code == 200

    until(lambda: "connections are accepted again" in server.log)
    assert server.log.count("no connection can be accepted") == 1


@SLOTS
def test_without_descriptors_a_load_fails_alone_and_leaves_none_open(
    start, model, traffic, until, slots
):
    server = start()
    # One worker: a second, for the traffic, would take descriptors whenever it comes.
    name = server.loaded(model(slots=slots, minWorkers=1, maxWorkers=1))
    running = traffic(server, name, clients=2)
    process = psutil.Process(server.pid)
    used = process.num_fds()

    for more in (1, 10, 25, 60):
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + more, 20_000))
        answer = server.load(f"m{more}", model(f"m{more}", slots=slots))
        assert answer.status_code == (200 if more == 60 else 507), answer.text
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (20_000, 20_000))
    running.more()

    server.unload("m60")
    assert running.failures == 0
    until(lambda: process.num_fds() <= used)


@SLOTS
def test_a_model_that_died_without_descriptors_comes_back_with_them(start, model, until, slots):
    server = start()
    name = server.loaded(model(slots=slots, minWorkers=2, maxWorkers=2))
    pids = {worker["pid"] for worker in server.described(name)["workerGroups"][0]["workers"]}
    # With a fork server the process would be replaced without a descriptor of the server's.
    for fork_server in server.fork_servers():
        kill(fork_server.pid)

    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (10, 20_000))
    for pid in pids:
        kill(pid)
    # More often than a model's workers may die.
    until(lambda: server.log.count("did not start: Too many open files") > 2 * MAX_CRASHES)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (20_000, 20_000))

    assert server.value(name, "1 + 1") == "2"
    assert server.client.get("/ping").status_code == 200
    assert ("plain engine" in server.log) != slots


def test_a_model_that_would_not_fit_is_507_and_the_next_that_does_is_loaded(start, model, traffic):
    server = start("--memory", str(1500 * MIB), forked=False)
    name = server.loaded(model("first", required_memory_mb=100, reserved_memory_mb=100))
    running = traffic(server, name, clients=2)

    large = model("large", required_memory_mb=1400, reserved_memory_mb=100)
    small = model("small", required_memory_mb=100, reserved_memory_mb=100)
    answer = server.load("large", large)
    server.loaded(small)

    assert answer.status_code == 507
    assert answer.json()["type"] == "WlmOutOfMemoryException"
    running.more()
    assert running.failures == 0


def test_of_loads_at_once_only_as_many_are_admitted_as_fit(start, model, tmp_path):
    server = start("--memory", str(1000 * MIB), forked=False)
    all_asked = tmp_path / "all asked"
    waits = f"import os, time\nwhile not os.path.exists({str(all_asked)!r}): time.sleep(0.01)\n"

    def load(number):
        folder = model(f"m{number}", slots=False, required_memory_mb=400, reserved_memory_mb=0)
        code = folder / "model.py"
        code.write_text(waits + code.read_text())
        content = {"model_name": folder.name, "url": folder.as_uri()}
        return httpx.post(f"{server.base}/models", timeout=60, json=content).status_code

    with ThreadPoolExecutor(4) as threads:
        answers = as_completed([threads.submit(load, number) for number in range(4)])
        try:
            # The others are under way for as long as nobody lets them be loaded.
            assert [next(answers).result() for _ in range(2)] == [507, 507]
        finally:
            all_asked.touch()
        assert [answer.result() for answer in answers] == [200, 200]


def test_what_a_model_uses_stands_beside_what_it_was_admitted_for(server, model):
    name = server.loaded(model(required_memory_mb=100))

    memory = server.described(name)["memory"]
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    metrics = {one.name: one.value for family in families for one in family.samples}

    assert memory["admittedBytes"] == 100 * MIB
    assert 0 < memory["usedBytes"] < 500 * MIB
    assert metrics["mmekit_model_admitted_bytes"] == 100 * MIB
    assert 0 < metrics["mmekit_model_used_bytes"] < 500 * MIB
    assert 0 < metrics["mmekit_memory_limit_bytes"] <= psutil.virtual_memory().total
    assert metrics["mmekit_memory_loading_bytes"] == 0


@pytest.mark.parametrize(
    # With slots it is not looked at whether the clock has jumped.
    "slots",
    [pytest.param(True, id="slots", marks=pytest.mark.thorough), pytest.param(False, id="plain")],
)
def test_a_clock_that_jumps_changes_nothing(start, model, traffic, tmp_path, slots):
    # The calendar's, in the server and in its workers: no test may set the machine's own.
    step = tmp_path / "step"
    (tmp_path / "sitecustomize.py").write_text(STEPPING.format(path=str(step)))
    server = start(environment={"PYTHONPATH": str(tmp_path)})
    name = server.loaded(
        model(slots=slots, minWorkers=2, maxWorkers=2, max_idle_time=60, option__predict_timeout=30)
    )
    pids = {worker["pid"] for worker in server.described(name)["workerGroups"][0]["workers"]}
    running = traffic(server, name, clients=2)

    for seconds in (86_400, -86_400, 0):
        step.write_text(str(seconds))
        if not slots:
            assert abs(float(server.value(name, "time.time()")) - time.time() - seconds) < 60
        running.more()

    assert running.failures == 0
    assert pids == {
        worker["pid"] for worker in server.described(name)["workerGroups"][0]["workers"]
    }


@SLOTS
def test_a_model_that_prints_without_end_is_cut_short_and_stops_nobody(
    server, model, traffic, slots
):
    noisy = server.loaded(model("noisy", slots=slots))
    other = server.loaded(model("other"))
    running = traffic(server, other, clients=2)

    code = "[print('line', number) for number in range(300_000)][:0]"
    assert server.value(noisy, code) == "[]"
    server.wait_for("line 299999")
    running.more()

    shown = len(re.findall(r"W-.*noisy: line \d+$", server.log, re.MULTILINE))
    left_out = re.findall(r"W-.*noisy: mmekit: (\d+) lines left out", server.log)
    assert shown + sum(map(int, left_out)) == 300_000
    assert shown < 100_000
    assert running.failures == 0
