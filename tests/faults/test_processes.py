"""Processes that are killed under load."""

from __future__ import annotations

import os
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import gone, kill

DIES_ONCE = """
import os
import signal
import sys

if {where} and os.path.exists({trap!r}):
    os.unlink({trap!r})
    os.kill(os.getpid(), signal.SIGKILL)
"""

STREAMS = """

evaluate = handle

def broken(gate):
    yield "first"
    hold(gate)
    os._exit(3)

def handle(inputs):
    text = "" if inputs.is_empty() else inputs.get_as_string()
    if text.startswith("/"):
        return Output().add_stream_content(broken(text), None)
    return evaluate(inputs)
"""


def test_a_killed_model_process_takes_only_the_requests_that_it_had(server, model, traffic, until):
    hit = server.loaded(model("hit", minWorkers=4, maxWorkers=4))
    other = server.loaded(model("other", minWorkers=2, maxWorkers=2))
    on_hit, on_other = traffic(server, hit), traffic(server, other, clients=2)

    for _ in range(2):
        kill(server.described(hit)["processes"][0]["pid"])
        on_hit.more()
    on_other.more()

    assert set(on_hit.outcomes) <= {200, 503}
    assert on_hit.failures <= 2 * 4
    assert on_other.failures == 0
    assert server.client.get("/ping").status_code == 200


def test_a_killed_worker_takes_only_the_request_that_it_had(server, model, traffic, until):
    hit = server.loaded(model("hit", slots=False, minWorkers=2, maxWorkers=2))
    on_hit = traffic(server, hit)

    for _ in range(2):
        workers = server.described(hit)["workerGroups"][0]["workers"]
        kill(workers[0]["pid"])
        on_hit.more()
        until(lambda: server.described(hit)["status"] == "Healthy")

    assert set(on_hit.outcomes) <= {200, 503}
    assert on_hit.failures <= 2
    assert server.client.get("/ping").status_code == 200


def test_a_killed_fork_server_takes_no_request_at_all(server, model, traffic, until):
    name = server.loaded(model("hit", minWorkers=4, maxWorkers=4))
    running = traffic(server, name)
    (fork_server,) = server.fork_servers()

    kill(fork_server.pid)
    running.more()
    assert running.failures == 0

    # The next model, and the successor of this one's process, come from another fork server.
    server.loaded(model("next"))
    kill(server.described(name)["processes"][0]["pid"])
    running.more()
    assert set(running.outcomes) <= {200, 503}
    until(lambda: server.described(name)["status"] == "Healthy")
    assert server.client.get("/ping").status_code == 200


def test_killed_template_processes_take_no_request_and_no_load(server, model, traffic, until):
    name = server.loaded(model("hit", minWorkers=2, maxWorkers=2))
    running = traffic(server, name, clients=2)
    (process,) = server.described(name)["processes"]
    (fork_server,) = server.fork_servers()

    for template in fork_server.children():
        if template.pid != process["pid"]:
            kill(template.pid)
    running.more()
    server.loaded(model("next"))

    assert running.failures == 0
    assert server.fork_servers() == [fork_server]


@pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])
def test_a_replacement_that_dies_while_it_starts_is_followed_by_another(
    server, model, tmp_path, slots
):
    folder, trap = model(slots=slots, minWorkers=1, maxWorkers=1), tmp_path / "trap"
    with (folder / "model.py").open("a") as file:
        file.write(DIES_ONCE.format(where=True, trap=str(trap)))
    name = server.loaded(folder)
    pid = server.value(name, "os.getpid()")
    # With a fork server the model's process would be replaced without a further worker.
    for fork_server in server.fork_servers():
        kill(fork_server.pid)

    trap.touch()
    kill(pid)

    outcomes = [server.invoke(name, "1 + 1").status_code for _ in range(3)]
    assert not trap.exists()
    # The first may have been on its way to the process that died.
    assert outcomes[1:] == [200, 200]
    assert server.client.get("/ping").status_code == 200


def test_a_fork_server_that_is_killed_while_it_starts_is_followed_by_another(
    start, model, tmp_path
):
    where, trap = "'mmekit_runtime.slots.forkserver' in sys.orig_argv", tmp_path / "trap"
    code = DIES_ONCE.format(where=where, trap=str(trap))
    (tmp_path / "sitecustomize.py").write_text(code)
    server = start(environment={"PYTHONPATH": str(tmp_path)})

    trap.touch()
    name = server.loaded(model())

    assert not trap.exists()
    assert server.value(name, "1 + 1") == "2"
    server.wait_for("was killed by signal 9")
    assert "plain engine" not in server.log


@pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])
def test_the_log_says_why_a_model_is_given_up_and_when_its_processes_died(server, model, slots):
    name = server.loaded(model(slots=slots, minWorkers=1, maxWorkers=1))

    assert [server.invoke(name, "os._exit(3)").status_code for _ in range(4)] == [503] * 4

    assert server.invoke(name, "1").json()["message"] == f"Model is not ready: {name}"
    server.wait_for("is marked as failed")
    (line,) = (one for one in server.log.splitlines() if "is marked as failed" in one)
    assert f"model {name} is marked as failed: " in line
    assert " died 4 times within 60 s " in line if slots else line.count(" s ago ") == 4


@pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])
def test_a_killed_server_leaves_nothing_that_the_next_start_does_not_remove(
    start, model, until, monkeypatch, slots
):
    with tempfile.TemporaryDirectory(prefix="k-") as temporary:
        killed = start(environment={"TMPDIR": temporary})
        name = killed.loaded(model(slots=slots))
        assert killed.value(name, "1 + 1") == "2"
        children = killed.children()
        (folder,) = Path(temporary).glob("mme-*")

        kill(killed.pid)
        killed.process.wait(30)
        until(lambda: all(gone(child.pid) for child in children))
        assert folder.exists()
        following = start(environment={"TMPDIR": temporary})

        assert not folder.exists()
        assert len(list(Path(temporary).glob("mme-*"))) == 1
        assert following.value(following.loaded(model("next", slots=slots)), "1 + 1") == "2"


STARTS = """

import subprocess

def start(*arguments, **options):
    return subprocess.Popen(["sleep", "3600"], *arguments, **options).pid

def start_afar():
    # As a daemon does: its parent is gone, and its session is its own.
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.write(writer, str(start()).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reader, 100))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])
def test_what_a_model_has_started_ends_with_the_server(start, model, until, slots, number):
    server = start()
    folder = model(slots=slots)
    with (folder / "model.py").open("a") as file:
        file.write(STARTS)
    name = server.loaded(folder)
    ways = ["start()", "start(start_new_session=True)", "start_afar()"]
    if slots:
        # In the group of its model's process; it could not be told otherwise.
        ways.append("start(env={})")
    pids = [server.value(name, way) for way in ways]
    assert not any(gone(pid) for pid in pids)

    os.kill(server.pid, number)
    server.process.wait(60)

    until(lambda: all(gone(pid) for pid in pids))


def test_what_a_model_has_started_ends_with_a_server_whose_fork_server_died_before(
    server, model, until
):
    folder = model()
    with (folder / "model.py").open("a") as file:
        file.write(STARTS)
    name = server.loaded(folder)
    pids = [server.value(name, way) for way in ("start()", "start(env={})", "start_afar()")]
    kill(server.fork_servers()[0].pid)
    server.wait_for("the fork server ended")
    assert server.value(name, "1 + 1") == "2"

    kill(server.pid)

    until(lambda: all(gone(pid) for pid in pids))


def test_a_server_ends_nothing_that_another_has_started(start, model, until):
    first, second = start(), start()
    pids = []
    for server in (first, second):
        folder = model(f"of-{server.port}")
        with (folder / "model.py").open("a") as file:
            file.write(STARTS)
        pids.append(server.value(server.loaded(folder), "start_afar()"))

    kill(first.pid)

    until(lambda: gone(pids[0]))
    assert not gone(pids[1])
    assert second.value(f"of-{second.port}", "1 + 1") == "2"


def test_the_folder_of_a_server_that_runs_is_left_to_it(start, model):
    with tempfile.TemporaryDirectory(prefix="k-") as temporary:
        first = start(environment={"TMPDIR": temporary})
        name = first.loaded(model())
        start(environment={"TMPDIR": temporary})

        assert len(list(Path(temporary).glob("mme-*"))) == 2
        first.loaded(model("next"))
        assert first.value(name, "1 + 1") == "2"


def test_a_worker_in_the_middle_of_a_request_ends_with_its_killed_server(
    server, model, tmp_path, until
):
    name = server.loaded(model(slots=False))
    (worker,) = server.described(name)["workerGroups"][0]["workers"]
    slotted = server.loaded(model("slotted"))
    (process,) = server.described(slotted)["processes"]
    gate, marks = tmp_path / "gate", [tmp_path / "one", tmp_path / "two"]
    for one, mark in zip((name, slotted), marks, strict=True):
        expression = f"open({str(mark)!r}, 'w').close() or hold({str(gate)!r})"
        with pytest.raises(Exception, match="timed out"):
            server.client.post(f"/models/{one}/invoke", content=expression, timeout=1)
    assert all(mark.exists() for mark in marks)

    kill(server.pid)
    server.process.wait(30)
    until(lambda: gone(worker["pid"]))
    gate.touch()
    # A model process may have other connections: it notices when it is done with the request.
    until(lambda: gone(process["pid"]))


@pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])
def test_who_waits_behind_a_request_that_kills_gets_its_own_answer(
    server, model, tmp_path, until, slots
):
    name = server.loaded(model(slots=slots, minWorkers=1, maxWorkers=1))
    gate = tmp_path / "gate"
    # To a worker that answers quickly the server may send the next request before it is free.
    server.value(name, "1 + 1")

    with ThreadPoolExecutor(4) as threads:
        kills = threads.submit(server.invoke, name, f"hold({str(gate)!r}) and os._exit(3)")
        until(lambda: server.described(name)["requestInQueue"] == 0)
        waiting = []
        for number in range(3):
            waiting.append(threads.submit(server.invoke, name, f"'answer {number}'"))
            until(lambda: server.described(name)["requestInQueue"] == len(waiting))
        gate.touch()

        assert kills.result().status_code == 503
        assert [one.result().text for one in waiting] == ["answer 0", "answer 1", "answer 2"]


@pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])
def test_who_waits_behind_a_stream_that_breaks_gets_its_own_answer(
    server, model, tmp_path, until, slots
):
    folder = model(slots=slots, minWorkers=1, maxWorkers=1)
    with (folder / "model.py").open("a") as file:
        file.write(STREAMS)
    name, gate = server.loaded(folder), tmp_path / "gate"
    server.value(name, "'quick'")

    with ThreadPoolExecutor(2) as threads:
        with server.client.stream("POST", f"/models/{name}/invoke", content=str(gate)) as stream:
            chunks = stream.iter_text()
            assert next(chunks) == "first"
            waiting = []
            for number in range(2):
                waiting.append(threads.submit(server.invoke, name, f"'answer {number}'"))
                until(lambda: server.described(name)["requestInQueue"] == len(waiting))
            gate.touch()
            with pytest.raises(httpx.RemoteProtocolError):
                list(chunks)

        assert [one.result().text for one in waiting] == ["answer 0", "answer 1"]


def test_a_fork_server_that_was_stopped_is_replaced_after_a_while(server, model, until):
    first = server.loaded(model("first"))
    pid = server.value(first, "os.getpid()")
    (stopped,) = server.fork_servers()

    stopped.suspend()
    names = [model(f"next-{number}") for number in range(3)]
    with ThreadPoolExecutor(3) as threads:
        loads = list(threads.map(lambda folder: server.load(folder.name, folder), names))

    assert {load.status_code for load in loads} == {200}
    assert len(server.fork_servers()) == 2
    server.wait_for(f"fork server {stopped.pid} has not answered for")
    assert server.log.count("another one is started") == 1
    assert "plain engine" not in server.log
    # Those that it has go on.
    assert server.value(first, "os.getpid()") == pid
    stopped.resume()
    assert server.unload(first).status_code == 200
    until(lambda: gone(pid))
    assert [server.value(folder.name, "1 + 1") for folder in names] == ["2"] * 3


@pytest.mark.thorough
def test_fork_servers_that_are_stopped_again_and_again_leave_the_plain_engine(
    start, model, tmp_path
):
    # Each stops itself when it has begun to listen.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'mmekit_runtime.slots.forkserver' in sys.orig_argv:\n"
        "    from mmekit_runtime.slots.loop import Loop\n"
        "    Loop.turn = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    server = start(environment={"PYTHONPATH": str(tmp_path)})

    name = server.loaded(model())

    assert server.value(name, "1 + 1") == "2"
    server.wait_for("plain engine, no worker slots")
