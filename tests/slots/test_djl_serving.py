"""Worker slots under the real DJL Serving, where there is one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from mmekit.errors import ServerError
from mmekit_local.ports import free_port
from mmekit_local.server.djl import HOME_VARIABLE, DjlServing, distribution, java_version
from tests.layered_models import LayeredModels

pytestmark = pytest.mark.skipif(
    not os.environ.get(HOME_VARIABLE),
    reason=f"{HOME_VARIABLE} names no distribution of DJL Serving",
)


class Djl:
    """DJL Serving, and a client for it."""

    def __init__(self):
        try:
            distribution()
            java_version()
        except ServerError as error:
            pytest.skip(str(error))
        self.base = Path(tempfile.mkdtemp(prefix="dj-"))
        self.slots = self.base / "f"
        # To whose end all write, as a log is: what the models write there themselves stays.
        self._output = (self.base / "log").open("ab")
        environment = {
            # Not with PYTHONPATH of whoever runs the tests: it would hide the models' runtime.
            "PYTHONPATH": "",
            "MMEKIT_SLOTS_DIR": str(self.slots),
            "TERM": "dumb",
        }
        self._server = DjlServing(self.base, free_port("127.0.0.1"), environment=environment)
        self._server.start(self._output)
        self._server.wait_until_healthy()
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self._server.port}",
            timeout=60,
            limits=httpx.Limits(max_connections=64),
        )

    @property
    def log(self):
        return (self.base / "log").read_text()

    def load(self, folder):
        answer = self.client.post(
            "/models", json={"model_name": folder.name, "url": folder.as_uri()}
        )
        assert answer.status_code == 200, answer.text + self.log
        return folder.name

    def ask(self, name, body):
        return self.client.post(f"/models/{name}/invoke", content=body)

    def value(self, name, body):
        answer = self.ask(name, body)
        assert answer.status_code == 200, answer.text + self.log
        return answer.text

    def unload(self, name):
        return self.client.delete(f"/models/{name}")

    def stubs(self):
        children = psutil.Process(self._server.pid).children()
        return [one for one in children if one.cmdline()[:1] == ["mmekit-slot"]]

    def workers(self):
        return psutil.Process(self._server.pid).children()

    def processes(self):
        """Return fork servers, template processes and model processes."""
        found = []
        for process in psutil.process_iter():
            try:
                if any(str(self.slots) in part for part in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                pass
        return found

    def close(self):
        self.client.close()
        self._server.stop()
        self._output.close()
        for process in self.processes():
            with process.oneshot():
                if process.ppid() not in {one.pid for one in self.processes()}:
                    os.kill(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def djl(until):
    running = Djl()
    yield running
    running.close()
    until(lambda: not running.processes())
    shutil.rmtree(running.base)


@pytest.fixture
def load(djl, model):
    names = []

    def load(**options):
        names.append(djl.load(model(minWorkers=1, **options)))
        return names[-1]

    yield load
    for name in names:
        djl.unload(name)


def gone(pid):
    return not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == "zombie"


def ask_at_once(djl, name, body, *, count=8, each=25):
    def ask(_):
        return [djl.ask(name, body) for _ in range(each)]

    with ThreadPoolExecutor(count) as threads:
        return [answer for answers in threads.map(ask, range(count)) for answer in answers]


def test_a_model_is_served_through_slots(djl, load):
    name = load(name="served", maxWorkers=4)

    pid = int(djl.value(name, "os.getpid()"))

    assert len(djl.stubs()) == 1
    assert pid not in [one.pid for one in djl.workers()]
    assert "mmekit: worker slot: a template process with" in djl.log


def test_many_clients_at_once_are_answered_by_one_process(djl, load):
    name = load(name="busy", maxWorkers=8)

    answers = ask_at_once(djl, name, "time.sleep(0.002) or os.getpid()")

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert len(djl.stubs()) > 1


def test_a_model_whose_process_was_killed_while_idle_answers_the_next_request(djl, load):
    name = load(name="killed", maxWorkers=4)
    pid = djl.value(name, "os.getpid()")

    os.kill(int(pid), signal.SIGKILL)
    answer = djl.ask(name, "os.getpid()")

    assert answer.status_code == 200
    assert answer.text != pid


def test_a_process_killed_under_load_fails_only_the_requests_in_flight(djl, load, until):
    name = load(name="shot", maxWorkers=8)
    ask_at_once(djl, name, "time.sleep(0.002)")
    before = len(djl.stubs())
    pid = djl.value(name, "os.getpid()")

    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask_at_once, djl, name, "time.sleep(0.002) or os.getpid()")
        os.kill(int(pid), signal.SIGKILL)
        answers = asked.result()
    statuses = [answer.status_code for answer in answers]

    assert set(statuses) <= {200, 503}
    assert statuses.count(503) <= 8
    assert djl.client.get("/ping").status_code == 200
    assert len(djl.stubs()) >= before
    again = ask_at_once(djl, name, "os.getpid()")
    assert {answer.status_code for answer in again} == {200}


def test_a_request_past_its_time_ends_its_process(djl, load, tmp_path, until):
    name = load(name="stuck", maxWorkers=1, option__predict_timeout=1)
    pid = djl.value(name, "os.getpid()")

    late = djl.ask(name, f"hold({str(tmp_path / 'never')!r})")

    assert late.status_code >= 400
    until(lambda: gone(pid))


def test_a_model_that_was_unloaded_leaves_nothing(djl, load, until):
    name = load(name="unloaded", maxWorkers=4)
    ask_at_once(djl, name, "time.sleep(0.002)", each=5)
    pid = djl.value(name, "os.getpid()")
    stubs = djl.stubs()
    assert stubs

    assert djl.unload(name).status_code == 200

    until(lambda: gone(pid))
    until(lambda: all(gone(stub.pid) for stub in stubs))
    until(lambda: not list((djl.base / "t").glob("djl_sock*")))


def test_a_model_that_is_loaded_again_is_the_one_that_is_there_now(djl, load):
    name = load(name="anew", files={"own.py": "value = 1\n"}, option__preload="own")
    folder = Path(djl.value(name, "os.getcwd()"))
    assert djl.value(name, "__import__('own').value") == "1"

    djl.unload(name)
    (folder / "own.py").write_text("value = 'two'\n")
    djl.load(folder)

    assert djl.value(name, "__import__('own').value") == "two"


def test_the_off_switch_runs_the_plain_engine(djl, load):
    name = load(name="switched", maxWorkers=1, option__env="MMEKIT_WORKER_SLOTS=off")

    assert int(djl.value(name, "os.getpid()")) in [one.pid for one in djl.workers()]
    assert "plain engine, no worker slot: MMEKIT_WORKER_SLOTS is off" in djl.log


def test_a_model_with_layers_is_served_through_slots(djl, load, model, tmp_path):
    layered = LayeredModels(model, tmp_path)
    entry = layered.libraries()
    folder = layered.inline("layered", entry, layered.body(), minWorkers=1)

    name = djl.load(folder)
    try:
        assert djl.value(name, "__import__('tabular').value") == "1"
        body = djl.value(name, "open(os.environ['MMEKIT_SHARED_FOLDER'] + '/body.txt').read()")
        assert body == "a body"
        assert int(djl.value(name, "os.getpid()")) not in [one.pid for one in djl.workers()]
        assert layered.store.evict(1) == 0
    finally:
        djl.unload(name)


def test_the_load_of_a_thin_archive_says_which_layer_is_missing(djl, model, tmp_path):
    layered = LayeredModels(model, tmp_path)
    entry = layered.libraries()
    folder = layered.thin("thin", entry, minWorkers=1)

    answer = djl.client.post("/models", json={"model_name": "thin", "url": folder.as_uri()})

    assert answer.status_code == 500
    assert f"{entry} is missing here: MMEKIT_LAYERS is not set" in answer.text
    assert djl.client.get("/ping").status_code == 200
    assert f"ERROR::mmekit: {entry} is missing here" in djl.log


METERED = """
from mmekit_runtime import Handler

class First(Handler):
    def load(self, folder):
        return "model"

    def predict(self, model, rows, parameters):
        return rows[:, 0]

handle = First()
"""


@pytest.mark.parametrize("off", ["", ",MMEKIT_WORKER_SLOTS=off"])
def test_metrics_are_lines_of_their_own_between_those_that_the_server_puts_a_prefix_to(
    djl, model, until, off
):
    setting = f"MMEKIT_METRICS=shop,MMEKIT_METRICS_SECONDS=0.05{off}"
    name = f"metered-{len(off)}"
    folder = model(METERED, name, minWorkers=1, option__modelName=name, option__env=setting)
    djl.load(folder)
    try:
        for body, status in ((b"[[1, 2]]", 200), (b"[[3, 4]]", 200), (b"nonsense", 400)):
            assert djl.ask(name, body).status_code == status

        def counted():
            lines = [line for line in djl.log.splitlines() if line.startswith('{"_aws"')]
            found = [json.loads(line) for line in lines]
            return sum(
                one.get("mme_model_requests_total", 0) for one in found if one["Model"] == name
            )

        until(lambda: counted() == 3)
    finally:
        djl.unload(name)
