"""Worker slots that the server asks for itself: no stub, and as many slots as it wants."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from mmekit_runtime.slots import keys
from tests.server_process import ServerProcess, open_files

PREDICTING = """
from mmekit_runtime import Handler

class Sums(Handler):
    features = 2

    def load(self, folder):
        if (folder / "memory").exists():
            raise MemoryError("no room")
        return bytearray(50_000_000)

    def predict(self, model, rows, parameters):
        if (rows < 0).any():
            raise ValueError("a poisoned row")
        return rows.sum(axis=1)

handle = Sums()
"""


WASTEFUL = """
from mmekit_runtime import Handler

class Wasteful(Handler):
    def load(self, folder):
        # Small enough to come from the heap, which cannot shrink as long as its last one is there.
        blocks = [b"x" * 100_000 for _ in range(1000)]
        return blocks[-1]

    def predict(self, model, rows, parameters):
        return rows

handle = Wasteful()
"""


@pytest.fixture(scope="module")
def server():
    running = ServerProcess()
    yield running
    running.close()


@pytest.fixture
def own_server():
    # These tests look at all processes: with one forked ahead they would see another each time.
    running = ServerProcess(environment={"MMEKIT_SLOTS_SPARES": "0"})
    yield running
    running.close()


@pytest.fixture
def load(server, model):
    """Load a model into the shared server, and unload it after the test."""
    names = []

    def load(*arguments, **options):
        folder = model(*arguments, **options)
        names.append(server.loaded(folder))
        return names[-1]

    yield load
    for name in names:
        server.unload(name)


def gone(pid):
    """Whether a process holds no memory any more, be it a zombie still."""
    try:
        return psutil.Process(int(pid)).memory_info().rss == 0
    except psutil.NoSuchProcess:
        return True


def test_a_model_is_served_by_one_process_behind_as_many_slots_as_it_needs(server, load, until):
    name = load(maxWorkers=8)
    asked = []

    with ThreadPoolExecutor(8) as threads:

        def there_are_several():
            asked.extend(threads.submit(server.invoke, name, "time.sleep(0.01)") for _ in range(8))
            return server.described(name)["processes"][0]["slots"] > 1

        until(there_are_several)
        assert {one.result().status_code for one in asked} == {200}

    (process,) = server.described(name)["processes"]
    assert process["pid"] == int(server.value(name, "os.getpid()"))
    assert process["pid"] not in (one.pid for one in server.fork_servers())
    assert psutil.Process(process["pid"]).ppid() != server.process.pid


def test_a_model_that_is_unloaded_in_the_middle_of_a_request_is_gone_at_once(
    server, load, tmp_path, until
):
    name = load(minWorkers=4, maxWorkers=4)
    pid = server.value(name, "os.getpid()")

    with ThreadPoolExecutor(8) as threads:
        for _ in range(8):
            threads.submit(server.invoke, name, f"hold({str(tmp_path / 'never')!r})")
        until(lambda: server.described(name)["requestInQueue"] == 4)
        # None of these requests would ever be answered.
        assert server.unload(name).status_code == 200

    assert gone(pid)


def test_a_model_without_the_runtime_runs_on_the_plain_engine(server, load):
    name = load(runtime=False)

    assert int(server.value(name, "os.getppid()")) == server.process.pid
    server.wait_for("plain engine, no worker slots: the archive has no worker slots")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "venv", "option__enable_venv": "true"}, "option.enable_venv"),
        (
            {"name": "off", "option__env": "MMEKIT_WORKER_SLOTS=off"},
            "MMEKIT_WORKER_SLOTS is off",
        ),
    ],
)
def test_a_model_that_cannot_have_slots_runs_on_the_plain_engine(
    server, load, options, reason, until
):
    name = load(**options)

    assert int(server.value(name, "os.getppid()")) == server.process.pid
    server.wait_for(f"model {name}: plain engine, no worker slots: {reason}")


def test_a_library_that_crashes_the_template_process_leaves_the_plain_engine(model, tmp_path):
    (tmp_path / "crashing.py").write_text("import os\nos.abort()\n")
    running = ServerProcess(environment={"PYTHONPATH": str(tmp_path)})
    name = running.loaded(model(option__preload="crashing"))

    assert int(running.value(name, "os.getppid()")) == running.process.pid
    running.wait_for("no template process could be started")
    running.close()


def test_the_memory_of_a_model_is_free_when_its_unloading_answers(server, load, until):
    name = load(PREDICTING, minWorkers=4, maxWorkers=4)
    (process,) = server.described(name)["processes"]

    answer = server.unload(name)

    assert answer.status_code == 200
    assert gone(process["pid"])


def test_a_model_that_is_loaded_again_is_the_one_that_is_there_now(server, load, model):
    name = load(files={"own.py": "value = 1\n"}, option__preload="own")
    folder = Path(server.value(name, "os.getcwd()"))
    assert server.value(name, "__import__('own').value") == "1"

    server.unload(name)
    (folder / "own.py").write_text("value = 'two'\n")
    server.loaded(folder)

    assert server.value(name, "__import__('own').value") == "two"


def test_what_loading_has_freed_is_given_back_to_the_system(server, load, until):
    name = load(WASTEFUL)

    def private_bytes():
        (process,) = server.described(name)["processes"]
        return process["private_bytes"]

    until(lambda: private_bytes() < 50_000_000)


def test_a_load_that_runs_out_of_memory_is_507_and_leaves_the_others_alone(server, load, model):
    name = load(PREDICTING)
    full = model(PREDICTING, name="full", files={"memory": ""})

    assert server.load("full", full).status_code == 507
    assert server.invoke(name, "1,2").status_code in (200, 400, 415)
    (full / "memory").unlink()
    assert server.load("full", full).status_code == 200
    server.unload("full")


def test_hundreds_of_slots_of_a_process_are_answered_and_counted(server, load):
    name = load(minWorkers=800, maxWorkers=800)

    with ThreadPoolExecutor(60) as threads:
        answers = list(threads.map(lambda n: server.value(name, f"{n} + 1"), range(200)))

    assert answers == [str(n + 1) for n in range(200)]
    (process,) = server.described(name)["processes"]
    assert (process["slots"], process["requests"], process["errors"]) == (800, 200, 0)


def test_a_process_that_is_killed_while_idle_is_replaced(server, load, until):
    name = load(minWorkers=3, maxWorkers=3)
    pid = server.value(name, "os.getpid()")

    os.kill(int(pid), signal.SIGKILL)

    assert server.value(name, "os.getpid()") != pid

    def one_process_with_all_slots():
        processes = server.described(name)["processes"]
        return [one["slots"] for one in processes] == [3] and processes[0]["pid"] != int(pid)

    until(one_process_with_all_slots)


def test_a_process_killed_under_load_fails_only_the_requests_in_flight(server, load, until):
    name = load(minWorkers=8, maxWorkers=8)
    statuses = []
    stop = threading.Event()

    def ask():
        with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
            while not stop.is_set():
                answer = client.post(f"/models/{name}/invoke", content="1 + 1")
                statuses.append(answer.status_code)

    with ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(ask) for _ in range(8)]
        until(lambda: statuses.count(200) > 100)
        for _ in range(2):
            answered = statuses.count(200)
            (process,) = until(lambda: server.described(name)["processes"])
            os.kill(process["pid"], signal.SIGKILL)
            until(lambda answered=answered: statuses.count(200) > answered + 100)
        stop.set()
        for one in asking:
            one.result()

    assert set(statuses) <= {200, 503}
    assert statuses.count(503) <= 16
    until(lambda: [one["slots"] for one in server.described(name)["processes"]] == [8])


def test_a_request_past_its_time_ends_its_process_and_the_others_are_answered(
    server, load, tmp_path, until
):
    name = load(minWorkers=2, maxWorkers=2, option__predict_timeout=2, retry_threshold=5)
    pid = server.value(name, "os.getpid()")

    stuck = server.invoke(name, f"hold({str(tmp_path / 'never')!r})")

    assert stuck.status_code >= 500
    until(lambda: gone(pid))

    def is_answered_by_another():
        answer = server.invoke(name, "os.getpid()")
        return answer.status_code == 200 and answer.text != pid

    until(is_answered_by_another)


def test_a_model_that_dies_again_and_again_ends_as_failed(own_server, model, until):
    name = own_server.loaded(model(minWorkers=1, maxWorkers=1))

    for _ in range(4):
        answer = own_server.invoke(name, "os._exit(3)")
        assert answer.status_code == 503
        assert "Model is not ready" not in answer.text

    until(lambda: own_server.client.get("/ping").status_code == 500)
    assert "Model is not ready" in own_server.invoke(name, "1 + 1").text
    reason = "the model process died 4 times within 60 s: the model is given up"
    own_server.wait_for(reason)
    assert own_server.log.count(reason) == 1


def test_a_fork_server_that_dies_leaves_its_models_at_work(own_server, model, until):
    first = own_server.loaded(model(name="first"))
    pid = own_server.value(first, "os.getpid()")
    (fork_server,) = own_server.fork_servers()

    fork_server.kill()
    assert own_server.value(first, "os.getpid()") == pid
    with ThreadPoolExecutor(4) as threads:
        folders = [model(name=f"m{number}") for number in range(4)]
        names = list(threads.map(own_server.loaded, folders))

    assert len(own_server.fork_servers()) == 1
    assert own_server.fork_servers() != [fork_server]
    assert len({own_server.value(name, "os.getpid()") for name in names}) == 4
    assert own_server.unload(first).status_code == 200
    until(lambda: gone(pid))


def test_models_that_load_at_once_start_one_fork_server(own_server, model):
    folders = [model(name=f"m{number}") for number in range(8)]

    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(own_server.loaded, folders))

    assert len(own_server.fork_servers()) == 1
    assert len({own_server.value(name, "os.getpid()") for name in names}) == 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_everything_ends_with_the_server(model, until, number):
    running = ServerProcess()
    running.loaded(model())
    children = running.children()
    assert len(children) >= 3

    running.process.send_signal(number)
    running.process.wait(60)

    until(lambda: all(gone(child.pid) for child in children))
    running.close()


def test_what_a_model_prints_is_in_the_server_s_log(server, load, until):
    name = load()

    server.value(name, "print('from', 'the model')")
    server.value(name, "print('in', 'distress', file=sys.stderr)")

    until(lambda: f"INFO W-{name}: from the model" in server.log)
    until(lambda: f"WARNING W-{name}: in distress" in server.log)


def test_the_scoreboard_counts_requests_errors_and_calls(server, load, until):
    name = load(PREDICTING, minWorkers=4, maxWorkers=4)
    headers = {"Content-Type": "text/csv"}
    url = f"/models/{name}/invoke"

    began = time.monotonic()
    statuses = [
        server.client.post(url, content=body, headers=headers).status_code
        for body in ("1,2", "3,4", "-1,0", "1,2,3")
    ]
    elapsed = time.monotonic() - began

    assert statuses == [200, 200, 424, 400]
    # It counts when it has answered.
    (process,) = until(
        lambda: (
            (found := server.described(name)["processes"])[0]["requests"] == 4
            and found[0]["calls"] == 4
            and found
        )
    )
    assert process["errors"] == 2
    assert process["calls"] == 4
    assert process["largest_batch"] == 1
    assert process["slots"] == 4
    assert process["load_s"] > 0
    assert process["import_s"] > 0
    assert 0 < process["predict_s"] < elapsed
    assert process["private_bytes"] > 50_000_000


def test_one_line_says_how_a_model_was_loaded(server, load, until):
    name = load(name="noted", option__preload="wave")

    def lines():
        return [one for one in server.lines if f"W-{name}" in one and "worker slot:" in one]

    (line,) = until(lines)
    assert "a template process with wave was ready in" in line
    assert "loaded in" in line


def test_models_that_come_and_go_leave_nothing_behind(own_server, model, until):
    folders = [model(name=f"m{number}", minWorkers=2) for number in range(4)]

    def come_and_go(number):
        name = own_server.loaded(folders[number % 4], name=f"n{number}")
        own_server.value(name, "1 + 1")
        assert own_server.unload(name).status_code == 200

    come_and_go(0)
    # A fork server, a template process, and the shell that ends what they might leave.
    processes = until(lambda: len(found := own_server.children()) == 3 and found)
    before = [open_files(one) for one in (psutil.Process(own_server.pid), *processes)]
    for number in range(1, 25):
        come_and_go(number)

    until(lambda: set(own_server.children()) == set(processes))
    kept = (psutil.Process(own_server.pid), *processes)
    until(lambda: not any(open_files(one) - files for one, files in zip(kept, before, strict=True)))


def test_a_process_that_is_needed_no_more_ends_and_leaves_nothing(
    own_server, model, tmp_path, until
):
    name = own_server.loaded(
        model(maxWorkers=2, max_idle_time=1, option__processes=2, option__preload="none")
    )
    (fork_server,) = own_server.fork_servers()
    before = open_files(fork_server)
    with ThreadPoolExecutor(2) as threads:
        gate = tmp_path / "gate"
        waiting = f"[time.sleep(0.005) for _ in iter(lambda: os.path.exists({str(gate)!r}), True)]"
        asked = [threads.submit(own_server.invoke, name, waiting) for _ in range(2)]
        until(lambda: len(own_server.described(name)["processes"]) == 2)
        gate.touch()
        assert {one.result().status_code for one in asked} == {200}

    until(lambda: len(own_server.described(name)["processes"]) == 1)
    until(lambda: not open_files(fork_server) - before)


def test_an_interpreter_that_cannot_run_a_fork_server_leaves_the_plain_engine(own_server, model):
    folder = model()
    text = "    server.run(ready)\n"
    model.change_runtime(folder, "forkserver", text, "    raise RuntimeError('broken')\n")

    name = own_server.loaded(folder)

    assert int(own_server.value(name, "os.getppid()")) == own_server.process.pid
    own_server.wait_for("the fork server did not start")


def test_a_runtime_of_another_protocol_gets_the_plain_engine(server, load, model):
    folder = model(name="older")
    model.change_runtime(folder, "keys", f"PROTOCOL = {keys.PROTOCOL}\n", "PROTOCOL = 0\n")
    name = server.loaded(folder)

    assert int(server.value(name, "os.getppid()")) == server.process.pid
    server.unload(name)
    server.wait_for("speaks another protocol")


def test_a_folder_that_is_deleted_while_its_model_is_loaded_harms_no_other(own_server, model):
    first = own_server.loaded(model(name="first"))
    folder = Path(own_server.value(first, "os.getcwd()"))
    shutil.rmtree(folder)

    second = own_server.loaded(model(name="second"))

    assert own_server.value(first, "1 + 1") == "2"
    assert own_server.unload(first).status_code == 200
    assert own_server.value(second, "1 + 1") == "2"


def test_two_models_of_one_folder_share_no_process(server, load, model):
    folder = model(name="shared")
    server.loaded(folder, "one")
    server.loaded(folder, "two")

    one, two = server.value("one", "os.getpid()"), server.value("two", "os.getpid()")
    server.unload("one")

    assert one != two
    assert gone(one)
    assert server.value("two", "os.getpid()") == two
    server.unload("two")


def test_a_process_that_is_stuck_when_its_fork_server_is_dead_is_ended(
    own_server, model, tmp_path, until
):
    name = own_server.loaded(model(option__predict_timeout=2, retry_threshold=5))
    pid = own_server.value(name, "os.getpid()")
    (fork_server,) = own_server.fork_servers()

    with ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(own_server.invoke, name, f"hold({str(tmp_path / 'never')!r})")
        until(lambda: own_server.described(name)["processes"][0]["requests"] == 1)
        fork_server.kill()
        assert stuck.result().status_code == 503

    assert own_server.value(name, "os.getpid()") != pid
    until(lambda: gone(pid))


def test_a_parked_model_is_described_and_woken_by_its_next_request(server, load, until):
    name = load(PREDICTING, option__park_after=0.1)
    assert server.invoke(name, "[[1, 2]]").json() == {"predictions": [3.0]}
    until(lambda: server.described(name)["parking"]["state"] == "PARKED")

    parked = server.described(name)
    assert parked["processes"] == []
    assert parked["memory"]["usedBytes"] == 0
    assert parked["parking"]["since"].endswith("Z")
    assert all(worker["pid"] is None for worker in parked["workerGroups"][0]["workers"])
    assert f'mmekit_model_parked{{model="{name}"}} 1.0' in server.client.get("/metrics").text

    assert server.invoke(name, "[[1, 2]]").json() == {"predictions": [3.0]}
    until(lambda: server.described(name)["parking"]["wakes"] >= 1)
    until(lambda: server.described(name)["parking"]["parks"] >= 2)
    assert server.described(name)["parking"]["wakeSeconds"] > 0
    server.wait_for("mmekit: woken in")


def test_a_woken_model_is_described_as_awake(server, model, until):
    folder = model(PREDICTING, option__park_after=1)
    name = server.loaded(folder)
    until(lambda: server.described(name)["parking"]["state"] == "PARKED")

    server.invoke(name, "[[1, 2]]")

    found = until(lambda: (one := server.described(name)["parking"])["wakes"] == 1 and one)
    assert (found["state"], found["parks"]) == ("AWAKE", 1)
    assert server.unload(name).status_code == 200


def test_a_parked_model_is_unloaded(server, model, until):
    folder = model(PREDICTING, option__park_after=0.1)
    server.loaded(folder)
    until(lambda: server.described(folder.name)["parking"]["state"] == "PARKED")

    assert server.unload(folder.name).status_code == 200
    assert server.loaded(folder) == folder.name
    assert server.unload(folder.name).status_code == 200


def test_parked_models_of_a_fork_server_that_died_are_loaded_by_another(own_server, model, until):
    name = own_server.loaded(model(option__park_after=0.1))
    until(lambda: own_server.described(name)["parking"]["state"] == "PARKED")
    (fork_server,) = own_server.fork_servers()

    fork_server.kill()

    until(lambda: own_server.invoke(name, "1 + 1").text == "2")


def test_a_load_that_finds_no_memory_in_time_is_refused_and_leaves_nothing(model):
    running = ServerProcess(
        environment={"MMEKIT_SLOTS_RESERVE_MB": "99999999", "MMEKIT_WAKE_TIMEOUT_S": "0.2"}
    )
    try:
        answer = running.load("large", model())
        assert answer.status_code == 507
        running.wait_for("WARN::mmekit: no memory for this model")
        assert running.invoke("large").status_code == 404
    finally:
        running.close()


def test_what_a_model_claimed_and_did_not_take_is_there_for_the_next(model):
    settings = {"MMEKIT_SLOTS_RESERVE_MB": "100", "MMEKIT_WAKE_TIMEOUT_S": "20"}
    running = ServerProcess("--memory", str(4 << 30), environment=settings)
    try:
        # None takes as much as it says; should one park for the next, no model is awake that the
        # server would measure, and what it had claimed is all that is known.
        for name in ("first", "second", "third"):
            folder = model(name=name, required_memory_mb=3400)
            assert running.load(name, folder).status_code == 200
            assert running.value(name, "1 + 1") == "2"
    finally:
        running.close()
