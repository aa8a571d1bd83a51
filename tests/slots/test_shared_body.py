"""Bodies that models share: loaded once before they are forked, and by nobody who differs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import psutil
import pytest

SHARING = """
import os, sys, threading
from pathlib import Path
from mmekit_runtime import TextHandler

class Sharing(TextHandler):
    def load_shared(self, folder):
        {before}
        body = {{
            "text": (folder / "body.txt").read_text(),
            "pid": os.getpid(),
            "setting": os.environ.get("OF_THE_MODEL"),
            "names": sorted(path.name for path in Path(".").iterdir() if path.name[0] != "_"),
        }}
        {after}
        return body

    def load(self, folder, shared):
        return shared, (folder / "own.txt").read_text()

    def predict(self, model, rows, parameters):
        names = dict(globals(), body=model[0], own=model[1])
        return [str(eval(row, names)) for row in rows]

handle = Sharing()
"""


@pytest.fixture
def body(tmp_path):
    folder = tmp_path / "store" / "body"
    folder.mkdir(parents=True)
    (folder / "body.txt").write_text("of all")
    return folder


@pytest.fixture
def start(slots, model, body):
    """Start a model that shares a body with others."""

    def start(name, before="pass", after="pass", code=SHARING, files=None, **environment):
        code = code.format(before=before, after=after)
        # Libraries of its own, so that the test sees what is shared beside them.
        options = {"option__preload": "json"}
        folder = model(code, name, files={"own.txt": name, **(files or {})}, **options)
        variables = {"MMEKIT_SHARED_FOLDER": str(body), **environment}
        return slots.start(folder, **variables)

    return start


def value(worker, expression):
    answer = worker.ask(json.dumps([expression]), Content_Type="application/json")
    assert answer.status == 200, answer
    return json.loads(answer.body)["predictions"][0]


def loader(worker):
    """Return the id of the process that has loaded the body."""
    return int(value(worker, "body['pid']"))


def test_models_that_share_a_body_are_forked_from_the_process_that_has_it(start):
    first, second = start("first"), start("second")

    assert value(first, "body['text'] + ', ' + own") == "of all, first"
    assert value(second, "body['text'] + ', ' + own") == "of all, second"
    assert loader(first) == loader(second)
    assert loader(first) == int(value(first, "os.getppid()")) == int(value(second, "os.getppid()"))
    assert "json, a shared body was ready" in first.wait_for("mmekit: worker slot")


def test_what_a_model_changes_in_the_body_no_other_sees(start):
    first, second = start("first"), start("second")
    third_after = "body.setdefault('seen', own)"

    assert value(first, third_after) == "first"
    assert value(second, third_after) == "second"
    assert value(start("third"), third_after) == "third"


def test_another_body_or_code_or_setting_is_another_process(start, body, tmp_path):
    other_body = tmp_path / "store" / "other"
    shutil.copytree(body, other_body)
    workers = {
        "as it is": start("first"),
        "body": start("second", MMEKIT_SHARED_FOLDER=str(other_body)),
        "model.py": start("third", before="more = 1"),
        "a module beside it": start("fourth", files={"features.py": "A = 1\n"}),
        "the same module with other content": start("fifth", files={"features.py": "A = 2\n"}),
        "one in a folder": start("sixth", files={"package/features.py": "A = 1\n"}),
        "environment": start("seventh", OF_THE_MODEL="7"),
    }

    assert len({loader(worker) for worker in workers.values()}) == len(workers)
    for worker in workers.values():
        assert loader(worker) == int(value(worker, "os.getppid()"))
    assert value(workers["environment"], "body['setting']") == "7"


def test_all_bodies_stand_on_libraries_that_are_in_memory_once(start, slots):
    first, second = start("first"), start("second", before="other = 1")

    parents = [psutil.Process(loader(one)).ppid() for one in (first, second)]
    assert parents[0] == parents[1]
    assert parents[0] in {template.pid for template in slots.templates()}


def test_code_that_loads_the_body_finds_nothing_of_the_models_own(start):
    reading = "(Path(__file__).parent / 'own.txt').read_text()"
    worker = start("first", before=reading)
    other = start("second", before=reading)

    worker.wait_for("the shared body is loaded in each process by itself: load_shared fails")
    for one in (worker, other):
        assert loader(one) == int(value(one, "os.getpid()"))
    assert value(worker, "own") == "first"
    alone = start("third", files={"features.py": ""})
    assert value(alone, "body['names']") == str(["features.py", "model.py", "sitecustomize.py"])


def test_a_model_runs_its_own_copy_of_the_code(start, model):
    importing = "import features; assert features.__file__ != __file__"
    files = {"features.py": "from pathlib import Path\nHERE = Path(__file__).parent.name\n"}
    first = start("first", before=importing, files=files)
    second = start("second", before=importing, files=files)

    assert loader(first) == loader(second)
    for worker, name in ((first, "first"), (second, "second")):
        assert value(worker, "__import__('features').HERE") == name
        assert value(worker, "Path(__file__).parent.name") == name
        assert "mmekit-body-" not in value(worker, "sys.path + list(sys.path_importer_cache)")


LEFT = {
    "a thread": (
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "starts a thread",
    ),
    "an open file": ("sys.kept = (folder / 'body.txt').open()", "leaves files open"),
    "a socket": ("import socket; sys.kept = socket.socketpair()", "leaves files open"),
    "memory that others write to": (
        "import mmap; sys.kept = mmap.mmap(-1, 4096)",
        "maps memory that processes write to together",
    ),
    "a process": (
        "import subprocess; sys.kept = subprocess.Popen(['sleep', '600'])",
        "has started a process",
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_must_not_be_forked_is_loaded_in_each_process(start, what):
    code, reason = LEFT[what]
    first, second = start("first", after=code), start("second", after=code)

    for worker in (first, second):
        worker.wait_for(
            f"the shared body is loaded in each process by itself: load_shared {reason}"
        )
        assert worker.is_slot
        assert loader(worker) == int(value(worker, "os.getpid()"))
        assert value(worker, "body['text']") == "of all"


def test_a_body_that_cannot_be_loaded_fails_the_load_with_its_own_reason(slots, model, body):
    (body / "body.txt").unlink()
    folder = model(SHARING.format(before="pass", after="pass"), files={"own.txt": ""})
    worker = slots.launch(folder, MMEKIT_SHARED_FOLDER=str(body))
    worker.connect()

    answer = worker.initialise()

    assert answer.status == 424
    assert "FileNotFoundError" in answer.message
    assert "body.txt" in answer.message


def test_a_killed_model_process_is_replaced_with_the_body_that_there_is(start, until):
    worker = start("first")
    parent = loader(worker)
    pid = int(value(worker, "os.getpid()"))
    os.kill(pid, 9)
    until(lambda: not psutil.pid_exists(pid))

    assert until(lambda: loader(worker)) == parent
    assert int(value(worker, "os.getpid()")) != pid


def test_a_parked_model_wakes_with_the_body(start):
    worker = start("first", MMEKIT_PARK_AFTER_S="0.2")
    parent = loader(worker)
    worker.wait_for("mmekit: parked")

    assert loader(worker) == parent


def test_a_body_that_only_parked_models_share_is_given_back(start, slots, until):
    settings = {"MMEKIT_PARK_AFTER_S": "0.2", "MMEKIT_SLOTS_IDLE_S": "0.5"}
    worker = start("first", **settings)
    parent = loader(worker)
    libraries = psutil.Process(parent).ppid()

    worker.wait_for("mmekit: parked")
    until(lambda: not psutil.pid_exists(parent))

    assert psutil.pid_exists(libraries)
    assert loader(worker) != parent
    assert value(worker, "body['text'] + ', ' + own") == "of all, first"


def test_a_handler_without_load_shared_is_loaded_as_ever(start):
    code = SHARING.replace("def load_shared", "def load_other").replace(
        "def load(self, folder, shared):", "def load(self, folder):\n        shared = {{}}"
    )
    worker = start("first", code=code)

    assert value(worker, "own") == "first"


def test_a_body_is_made_anew_with_the_code_of_a_model_that_is_there(start, slots, until):
    settings = {"MMEKIT_PARK_AFTER_S": "0.2", "MMEKIT_SLOTS_IDLE_S": "0.5"}
    staying = start("staying", **settings)
    leaving = start("leaving", **settings)
    parent = loader(staying)
    folder = Path(value(leaving, "os.getcwd()"))
    leaving.kill()
    shutil.rmtree(folder)
    staying.wait_for("mmekit: parked")
    until(lambda: not psutil.pid_exists(parent))

    assert loader(staying) == int(value(staying, "os.getppid()"))


FAILING_ONCE = "gate = Path(os.environ['GATE']); assert gate.exists() or gate.touch()"


def test_a_body_that_failed_is_loaded_by_each_and_tried_again_later(start, model, tmp_path):
    # A minute is more than a test has.
    once = {"before": FAILING_ONCE, "GATE": str(tmp_path / "gate")}
    worker = start("first", **once)

    worker.wait_for("by itself: load_shared fails (AssertionError")
    assert loader(worker) == int(value(worker, "os.getpid()"))
    assert value(worker, "body['text']") == "of all"
    at_once = start("second", **once)
    assert loader(at_once) == int(value(at_once, "os.getpid()"))


def test_a_body_that_ends_the_process_is_loaded_by_each(start):
    ending = "os.getppid() == os.getpgid(0) or 'mmekit-body-' in os.getcwd() and os._exit(3)"
    first, second = start("first", before=ending), start("second", before=ending)

    for worker in (first, second):
        worker.wait_for("by itself: load_shared ends the process")
        assert worker.is_slot
        assert loader(worker) == int(value(worker, "os.getpid()"))


def test_what_a_body_left_that_failed_is_not_forked_either(start):
    failing = (
        "import mmap; sys.kept = mmap.mmap(-1, 4096); assert 'mmekit-body-' not in os.getcwd()"
    )
    worker = start("first", before=failing)

    worker.wait_for("load_shared maps memory that processes write to together")
    assert loader(worker) == int(value(worker, "os.getpid()"))


def test_temporary_files_go_where_each_model_has_them(start, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    importing = "import tempfile; tempfile.gettempdir()"
    workers = [
        start(folder.name, before=importing, TMPDIR=str(folder), MMEKIT_SLOTS_DIR=slots_dir)
        for folder in folders
        for slots_dir in [str(tmp_path / "slots")]
    ]

    for worker, folder in zip(workers, folders, strict=True):
        assert value(worker, "__import__('tempfile').gettempdir()") == str(folder)


KEEPING = {
    "an attribute": "self.scale = 7",
    "a global": "globals()['scale'] = 7",
    "one of the class": "type(self).scale = 7",
    "one of a module beside it": "import features; features.scale = 7",
}


@pytest.mark.parametrize("what", KEEPING)
def test_what_load_shared_keeps_beside_its_result_is_not_lost(start, what):
    files = {"features.py": "scale = 1\n"}
    code = f"import features\n{SHARING}"
    worker = start("first", after=KEEPING[what], code=code, files=files)

    worker.wait_for("load_shared keeps something beside what it returns")
    scales = "[getattr(handle, 'scale', 0), globals().get('scale', 0), features.scale]"
    assert value(worker, f"7 in {scales}") == "True"


def test_what_load_shared_sets_in_the_environment_models_have_too(start):
    after = "os.environ['SET'] = 'by all'; os.environ.pop('OF_THE_MODEL')"
    first = start("first", after=after, OF_THE_MODEL="7")
    second = start("second", after=after, OF_THE_MODEL="7")

    assert loader(first) == loader(second)
    for worker in (first, second):
        assert value(worker, "os.environ['SET']") == "by all"
        assert value(worker, "os.environ.get('OF_THE_MODEL')") == "None"


def test_the_path_of_a_body_leads_to_no_model(start):
    finding = (
        "sys.found = [path for path in os.environ['PYTHONPATH'].split(os.pathsep)"
        " if os.path.exists(os.path.join(path, 'own.txt'))]"
    )
    worker = start("first", before=finding)

    assert loader(worker) == int(value(worker, "os.getppid()"))
    assert value(worker, "sys.found") == "[]"
