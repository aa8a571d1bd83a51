"""The stub: how a worker of DJL Serving becomes a slot, and when it does not."""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mmekit_runtime.slots.stub import unsupported

NOBODY = 65534


def fall_back(worker, because):
    """See that a worker runs on the plain engine, says why in one line, and answers."""
    worker.connect()
    assert worker.initialise().status == 204
    assert not worker.is_slot
    assert int(worker.value("os.getpid()")) == worker.process.pid
    said = [line for line in worker.lines if "plain engine" in line]
    assert len(said) == 1
    assert because in said[0]


def test_a_worker_becomes_a_shell_that_waits_and_another_process_answers(shared_slots, model):
    worker = shared_slots.start(model())

    assert worker.is_slot
    assert int(worker.value("os.getpid()")) != worker.process.pid
    assert psutil.Process(worker.process.pid).memory_full_info().uss < 1 << 20
    assert shared_slots.folder.stat().st_mode & 0o777 == 0o700


def test_all_workers_of_a_model_share_a_process_and_models_never_do(shared_slots, model):
    first, second = shared_slots.start_many(2, model(name="one"))
    other = shared_slots.start(model(name="other"))

    assert first.value("os.getpid()") == second.value("os.getpid()")
    assert other.value("os.getpid()") != first.value("os.getpid()")


def test_the_pid_beside_the_socket_is_that_of_the_process_that_the_server_started(
    shared_slots, model
):
    worker = shared_slots.start(model())

    assert Path(f"{worker.path}.pid").read_text() == str(worker.process.pid)


def test_a_worker_that_the_server_kills_takes_its_slot_along(shared_slots, model, until):
    first, second = shared_slots.start_many(2, model())
    process = psutil.Process(int(first.value("os.getpid()")))

    first.kill()

    until(lambda: not Path(first.path).exists())
    until(lambda: not Path(f"{first.path}.pid").exists())
    assert second.value("os.getpid()") == str(process.pid)
    second.kill()
    until(lambda: not process.is_running())


def test_a_connection_that_the_server_closes_ends_the_worker(shared_slots, model):
    worker = shared_slots.start(model())

    worker.hang_up()

    assert worker.process.wait(60) == 1


def test_many_workers_that_start_at_once_start_one_fork_server(slots, model):
    folders = [model(name=f"m{number}") for number in range(4)]

    workers = [slots.launch(folder) for folder in folders for _ in range(4)]
    for worker in workers:
        worker.connect()
        assert worker.initialise().status == 204

    assert all(worker.is_slot for worker in workers)
    assert len({worker.value("os.getpid()") for worker in workers}) == 4
    assert [process.pid for process in slots.roots()] == [slots.fork_server().pid]


def test_a_fork_server_ends_when_nobody_has_used_it_for_a_while(impatient_slots, model, until):
    worker = impatient_slots.start(model())
    server = impatient_slots.fork_server()
    worker.kill()

    until(lambda: not impatient_slots.processes())
    assert server not in impatient_slots.processes()
    assert not any(path.is_socket() for path in impatient_slots.folder.iterdir())

    assert impatient_slots.start(model(name="later")).is_slot


def test_a_fork_server_with_a_model_does_not_count_as_idle(impatient_slots, model, until):
    worker = impatient_slots.start(model())
    server = impatient_slots.fork_server()

    def is_at_rest():
        before = sum(server.cpu_times()[:2])
        # Longer than the fork server waits for a second model.
        worker.value("time.sleep(0.5)")
        return sum(server.cpu_times()[:2]) - before < 0.1

    until(is_at_rest)
    assert server.is_running()


def test_the_off_switch_runs_the_plain_engine(shared_slots, model):
    worker = shared_slots.launch(model(), MMEKIT_WORKER_SLOTS="off")

    fall_back(worker, "MMEKIT_WORKER_SLOTS is off")


@pytest.mark.parametrize("setting", ["option.enable_venv=true", "option.enable_venv : True"])
def test_a_model_with_an_environment_of_its_own_runs_on_the_plain_engine(
    shared_slots, model, setting
):
    folder = model()
    (folder / "serving.properties").write_text(f"engine=Python\n{setting}\n")

    fall_back(shared_slots.launch(folder), "option.enable_venv")


def test_an_environment_of_its_own_that_is_commented_out_or_off_does_not_count(shared_slots, model):
    folder = model(option__enable_venv="false")
    with (folder / "serving.properties").open("a") as file:
        file.write("# option.enable_venv=true\n")

    assert shared_slots.start(folder).is_slot


def test_a_worker_in_asynchronous_mode_runs_on_the_plain_engine(shared_slots, model):
    worker = shared_slots.launch(model(), "--async-mode")

    worker.wait_for("Python engine started.")
    assert "option.async_mode" in worker.wait_for("plain engine")
    assert not worker.is_slot


def test_a_worker_without_a_shell_runs_on_the_plain_engine(shared_slots, model):
    folder = model()
    model.change_runtime(folder, "stub", 'SHELL = "/bin/sh"', 'SHELL = "/nowhere/sh"')

    fall_back(shared_slots.launch(folder), "/nowhere/sh is missing")


def test_a_folder_for_sockets_that_others_may_enter_is_not_used(slots, model):
    slots.folder.mkdir(mode=0o755)

    fall_back(slots.launch(model()), "is not a folder that this user alone may enter")
    assert list(slots.folder.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of another user")
def test_a_folder_for_sockets_of_another_user_is_not_used(slots, model):
    slots.folder.mkdir(mode=0o700)
    os.chown(slots.folder, NOBODY, NOBODY)

    fall_back(slots.launch(model()), "is not a folder that this user alone may enter")


def test_a_link_in_place_of_the_folder_for_sockets_is_not_followed(slots, model, tmp_path):
    slots.folder.symlink_to(tmp_path)

    fall_back(slots.launch(model()), "is not a folder that this user alone may enter")


def test_a_fork_server_that_cannot_start_leaves_the_plain_engine(slots, model, until):
    folder = model()
    text = "    server.run(ready)\n"
    model.change_runtime(folder, "forkserver", text, "    raise RuntimeError('broken')\n")

    fall_back(slots.launch(folder), "the fork server did not start")
    until(lambda: "RuntimeError: broken" in slots.log)


def test_a_fork_server_that_does_not_answer_in_time_leaves_the_plain_engine(slots, model):
    slots.start(model(name="first"))
    folder = model(name="second")
    model.change_runtime(folder, "stub", "_HEARD_TIMEOUT_S = 10.0", "_HEARD_TIMEOUT_S = 0.3")
    server = slots.fork_server()

    os.kill(server.pid, signal.SIGSTOP)
    try:
        fall_back(slots.launch(folder), "the fork server does not answer")
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_an_archive_without_the_runtime_runs_on_the_plain_engine(shared_slots, model):
    worker = shared_slots.start(model(runtime=False))

    assert not worker.is_slot
    assert worker.line("mmekit") is None


def test_an_archive_whose_runtime_is_incomplete_runs_on_the_plain_engine(shared_slots, model):
    folder = model()
    model.change_runtime(folder, "stub", "def enter() -> None:", "def entrance() -> None:")

    fall_back(shared_slots.launch(folder), "cannot import name 'enter'")


def test_arguments_of_the_engine_that_slots_do_not_know_are_named(model):
    usual = ["djl_python_engine.py", "--sock-type", "unix", "--model-dir", str(model())]

    assert unsupported(usual) is None
    assert unsupported([*usual, "--tensor-parallel-degree", "2"]) == "tensor parallelism"
    assert "Unix socket" in unsupported(["djl_python_engine.py", "--sock-type", "tcp"])


def test_models_of_other_libraries_get_a_fork_server_of_their_own(slots, model, tmp_path):
    one = slots.start(model(name="one"))
    two = slots.start(model(name="two"), OMP_NUM_THREADS="2")

    assert one.is_slot
    assert two.is_slot
    assert len(slots.roots()) == 2


def test_a_model_that_cannot_be_imported_ends_its_worker_as_the_engine_does(shared_slots, model):
    worker = shared_slots.launch(model("import no_such_module\n"))

    assert worker.process.wait(60) == 1
    assert "No module named 'no_such_module'" in worker.wait_for("ModuleNotFoundError")


def test_garbage_and_strange_messages_do_no_harm_to_the_fork_server(shared_slots, model):
    worker = shared_slots.start(model())
    server = shared_slots.fork_server()
    (path,) = [path for path in shared_slots.folder.iterdir() if path.is_socket()]
    messages = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 70_000,
        b"\0\0\0\x05\xff\xff\xff\xff\xff",
        *(
            len(body := marshal.dumps(message)).to_bytes(4, "big") + body
            for message in (
                7,
                {},
                {"fds": "many"},
                {"fds": 0},
                {"fds": -1, "key": "x"},
                {"fds": 1, "ask": "worker"},
            )
        ),
    ]
    for message in messages:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(path))
            client.sendall(message)
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(4096):
                    pass

    assert shared_slots.fork_server() == server
    assert worker.value("1 + 1") == "2"
    assert shared_slots.start(model(name="next")).is_slot


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_connection_of_another_user_is_refused(slots, model, until):
    slots.start(model())
    (path,) = [path for path in slots.folder.iterdir() if path.is_socket()]
    for folder in (slots.folder.parent, slots.folder):
        folder.chmod(0o755)
    path.chmod(0o777)
    # A program, because this process has threads and must not fork.
    program = (
        "import os, socket, sys\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "client.connect(sys.argv[1])\n"
        "client.settimeout(60)\n"
        "print(client.recv(10))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    slots.folder.chmod(0o700)

    assert done.stdout == "b''\n", done.stderr
    until(lambda: f"a connection of user {NOBODY} was refused" in slots.log)
