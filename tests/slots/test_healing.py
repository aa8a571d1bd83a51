"""Processes that end when nobody asked them to."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest

from mmekit_runtime.wire import encode_request
from tests.server_process import open_files

SLOW_LOAD = """
import os
from pathlib import Path
from mmekit_runtime import Handler

class Dying(Handler):
    def load(self, folder):
        if (folder / "die").exists():
            os._exit(7)
        return os.getpid()

    def predict(self, model, rows, parameters):
        return [model] * len(rows)

handle = Dying()
"""


class Load:
    """Connections that ask as fast as they are answered, each on a thread of its own."""

    def __init__(self, workers, body, until):
        self.statuses = Counter()
        self.lost = []
        self._until = until
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(one, body)) for one in workers]
        for thread in self._threads:
            thread.start()

    def _ask(self, worker, body):
        while not self._stop.is_set():
            try:
                status = worker.ask(body).status
            except OSError as error:
                self.lost.append(error)
                return
            with self._lock:
                self.statuses[status] += 1

    def more(self, count=100):
        """Wait until that many more requests were answered with 200."""
        wanted = self.statuses[200] + count
        self._until(lambda: self.statuses[200] >= wanted)

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def load(until):
    running = []

    def start(workers, body):
        running.append(Load(workers, body, until))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def kill(pid):
    os.kill(int(pid), signal.SIGKILL)


def ended(pid):
    try:
        return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_process_that_is_killed_while_idle_is_replaced_before_the_next_request_notices(
    shared_slots, model
):
    workers = shared_slots.start_many(3, model())
    before = workers[0].value("os.getpid()")

    kill(before)
    answers = [worker.value("os.getpid()") for worker in workers]

    assert len(set(answers)) == 1
    assert answers[0] != before
    assert all(worker.is_slot for worker in workers)
    workers[0].wait_for(f"model process {before} ended: killed by SIGKILL")


def test_the_replacement_is_initialised_as_its_predecessor_was(shared_slots, model):
    worker = shared_slots.launch(model())
    worker.connect()
    worker.initialise(colour="green")

    kill(worker.value("os.getpid()"))

    assert worker.value("len(initialised), initialised[0]['colour']") == "(1, 'green')"


def test_a_process_killed_under_load_fails_only_the_requests_in_flight(slots, model, load, until):
    workers = slots.start_many(8, model())
    running = load(workers, "os.getpid()")
    running.more()

    for deaths in (1, 2):
        (process,) = until(lambda: len(found := slots.model_processes()) == 1 and found)
        kill(process.pid)
        running.more()
        assert set(running.statuses) <= {200, 503}
        assert running.statuses[503] <= 8 * deaths
    running.stop()

    assert running.lost == []
    assert all(worker.value("1") == "1" for worker in workers)
    assert all(worker.is_slot for worker in workers)


def test_the_answer_for_a_request_that_died_with_its_process_says_so(shared_slots, model):
    worker = shared_slots.start(model())

    answer = worker.ask("os.kill(os.getpid(), signal.SIGKILL)")

    assert answer.status == 503
    assert b"the model process died in this request" in answer.body
    assert worker.value("1 + 1") == "2"


def test_a_request_that_crashes_the_interpreter_fails_alone(shared_slots, model, tmp_path):
    first, second = shared_slots.start_many(2, model())

    answer = first.ask("__import__('ctypes').string_at(0)")

    assert answer.status == 503
    assert second.value("1 + 1") == "2"
    assert first.value("1 + 1") == "2"
    first.wait_for("killed by SIGSEGV")


def test_a_request_that_waits_while_another_kills_the_process_is_answered(
    shared_slots, model, tmp_path
):
    first, second = shared_slots.start_many(2, model())
    gate = tmp_path / "gate"

    first.send(f"hold({str(gate)!r}), os._exit(1)")
    second.send("1 + 1")
    gate.touch()

    assert first.receive().status == 503
    assert second.receive().body == b"2"


def test_a_model_that_dies_again_and_again_is_given_up(shared_slots, model):
    first, second = shared_slots.start_many(2, model())

    for _ in range(3):
        assert first.ask("os._exit(3)").status == 503
        assert second.value("1 + 1") == "2"
    first.send("os._exit(3)")

    assert first.receive().status == 503
    assert first.process.wait(60) == 1
    assert second.process.wait(60) == 1
    reason = "the model process died 4 times within 60 s: the model is given up"
    assert reason in first.wait_for("ERROR::mmekit")
    assert reason in second.wait_for("ERROR::mmekit")


def test_a_model_that_ends_its_process_while_it_loads_is_not_tried_again(shared_slots, model):
    worker = shared_slots.launch(model(SLOW_LOAD, files={"die": ""}))
    worker.connect()

    assert worker.initialise().status == 503
    assert worker.process.wait(60) == 1
    worker.wait_for("the model process ended while it loaded the model")


def test_a_model_that_cannot_be_loaded_again_is_given_up(shared_slots, model):
    folder = model(SLOW_LOAD)
    worker = shared_slots.start(folder)
    body = '{"instances": [[1]]}'
    answer = worker.ask(body, Content_Type="application/json").body.decode()
    pid = answer.partition("[")[2].partition("]")[0]
    (folder / "die").touch()

    kill(pid)

    assert worker.process.wait(60) == 1


def test_a_worker_that_the_server_kills_in_a_request_takes_the_stuck_process_along(
    shared_slots, model, tmp_path, until
):
    stuck, waiting, idle = shared_slots.start_many(3, model())
    pid = idle.value("os.getpid()")
    stuck.send("hold('/nowhere')")
    until(lambda: stuck.unread() == 0)
    waiting.send("os.getpid()")

    # What DJL Serving does past predict_timeout.
    stuck.kill()

    assert waiting.receive().body != pid.encode()
    assert idle.value("os.getpid()") != pid
    assert ended(pid)


def test_a_request_of_which_only_a_part_was_read_ends_its_worker_alone(shared_slots, model, until):
    slow, other = shared_slots.start_many(2, model())
    pid = other.value("os.getpid()")
    request = encode_request({"handler": "handle"}, (("data", b"1" * 200_000),))
    slow.sock.sendall(request[:150_000])
    until(lambda: slow.unread() == 0)

    kill(pid)

    assert other.value("os.getpid()") != pid
    assert slow.process.wait(60) == 1
    assert other.is_slot


def test_a_process_that_dies_in_the_middle_of_a_long_answer_ends_that_worker(
    shared_slots, model, until
):
    reading, other = shared_slots.start_many(2, model())
    pid = other.value("os.getpid()")
    # More than a socket holds: the process waits until we read.
    reading.send("'x' * 20_000_000")
    reading.sock.recv(1000)

    kill(pid)
    rest = b"".join(iter(lambda: reading.sock.recv(1 << 20), b""))

    assert 0 < len(rest) < 20_000_000
    assert set(rest) == {ord("x")}
    assert other.value("os.getpid()") != pid
    assert reading.process.wait(60) == 1


def test_a_fork_server_that_dies_leaves_its_models_at_work(slots, model, until):
    first, second = slots.start_many(2, model())
    pid = first.value("os.getpid()")
    server = slots.fork_server()
    templates = [process for process in slots.processes() if str(process.pid) != pid]

    kill(server.pid)
    until(lambda: not any(process in slots.processes() for process in templates))

    assert first.value("os.getpid()") == pid
    assert second.value("os.getpid()") == pid
    assert first.is_slot
    first.wait_for("the fork server ended")

    further = slots.start(model(name="further"))
    assert further.is_slot
    assert slots.fork_server().pid != server.pid

    first.kill()
    assert second.value("1 + 1") == "2"
    second.kill()
    until(lambda: ended(pid))


def test_a_worker_of_a_model_whose_fork_server_died_gets_a_process_of_the_next_one(slots, model):
    folder = model()
    first = slots.start(folder)
    kill(slots.fork_server().pid)

    second = slots.start(folder)

    assert second.is_slot
    assert first.value("os.getpid()") != second.value("os.getpid()")


def test_template_processes_that_die_are_made_anew(slots, model, until):
    worker = slots.start(model(name="first", option__preload="wave"))
    pid = worker.value("os.getpid()")
    server = slots.fork_server()
    templates = [one for one in slots.processes() if one != server and str(one.pid) != pid]

    for template in templates:
        kill(template.pid)
    until(lambda: not any(template in slots.processes() for template in templates))

    assert worker.value("os.getpid()") == pid
    assert slots.start(model(name="second", option__preload="wave")).is_slot
    kill(pid)
    assert worker.value("os.getpid()") != pid
    assert slots.fork_server() == server


@pytest.mark.parametrize("stopped", ["templates", "fork server"])
def test_a_template_process_that_dies_when_it_is_asked_to_fork_is_replaced(
    slots, model, until, stopped
):
    slots.start(model(name="first"))
    (server,) = slots.roots()
    (template,) = (one for one in slots.processes() if one.cwd() == "/" and one != server)
    asleep = server if stopped == "fork server" else template
    sockets = open_files(server)["socket"]

    os.kill(asleep.pid, signal.SIGSTOP)
    worker = slots.launch(model(name="second"))
    if asleep is server:
        until(slots.waiting_connections)
    else:
        # Of its worker, and of the process to be.
        until(lambda: open_files(server)["socket"] == sockets + 2)
    kill(template.pid)
    if asleep is server:
        os.kill(server.pid, signal.SIGCONT)
    worker.connect()

    assert worker.initialise().status == 204
    assert worker.is_slot


def test_template_processes_that_cannot_fork_leave_the_plain_engine(slots, model, until):
    folder = model()
    old = "        return os.fork()\n    except OSError as error:"
    new = "        raise OSError(11, 'no processes left')\n    except OSError as error:"
    model.change_runtime(folder, "template_process", old, new)

    worker = slots.launch(folder)
    worker.connect()

    assert worker.initialise().status == 204
    assert not worker.is_slot
    assert "no process could be forked" in worker.wait_for("plain engine")
    until(lambda: "no processes left" in slots.log)


def test_a_fork_server_without_descriptors_leaves_the_plain_engine(slots, model, until):
    first = slots.start(model(name="first"))
    (server,) = slots.roots()
    used = server.num_fds()
    # Too few to accept a connection, to receive its descriptors, to make a process.
    for more in (-4, 0, 2, 4):
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + more, 4096))
        worker = slots.start(model(name=f"limit{more}"))
        assert not worker.is_slot
        assert worker.line("plain engine")

    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (4096, 4096))
    assert slots.start(model(name="fourth")).is_slot
    until(lambda: "no descriptors are left" in slots.log)
    assert first.value("1 + 1") == "2"


def test_a_fork_server_whose_runtime_was_deleted_serves_on_until_it_needs_it(slots, model, until):
    first = slots.start(model(name="first"))
    folder = model(name="gone")
    # The runtime that the fork server itself runs.
    shutil.rmtree(Path(first.value("os.getcwd()")))
    first.kill()
    second = slots.start(folder)
    assert second.is_slot
    server = slots.fork_server()

    for template in slots.templates():
        kill(template.pid)
    until(lambda: not slots.templates())
    refused = slots.start(model(name="third"))
    assert not refused.is_slot
    served = slots.start(model(name="fourth"))

    assert served.is_slot
    assert slots.fork_server() != server
    assert second.value("1 + 1") == "2"
    second.kill()
    until(lambda: server not in slots.processes())


def test_a_process_that_gets_stuck_after_its_fork_server_died_ends(slots, model, until):
    worker = slots.launch(model())
    worker.connect()
    worker.initialise(predict_timeout="1")
    pid = worker.value("os.getpid()")
    kill(slots.fork_server().pid)
    worker.wait_for("the fork server ended")

    worker.send("hold('/nowhere')")
    until(lambda: worker.unread() == 0)
    worker.kill()

    until(lambda: ended(pid))
