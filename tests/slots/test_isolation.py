"""What a model sees, and what it must not see."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

FAKE_TORCH = """
from types import SimpleNamespace

seeds = []
default_generator = SimpleNamespace(seed=lambda: seeds.append(1))
"""


def test_a_model_sees_what_it_would_see_on_the_plain_engine(shared_slots, model, tmp_path):
    folder = model()
    environment = {"PYTHONPATH": str(tmp_path), "MINE": "some thing", "EMPTY": ""}
    slot = shared_slots.start(folder, **environment)
    plain = shared_slots.start(folder, MMEKIT_WORKER_SLOTS="off", **environment)
    assert slot.is_slot

    for expression in (
        "sys.path",
        "sys.argv[0], sys.argv[4:]",
        "os.getcwd()",
        "sorted(set(os.environ.items()) - {('MMEKIT_WORKER_SLOTS', 'off')})",
        "__name__, __file__",
        "sys.flags, sys.warnoptions, sys.executable, sys.prefix",
        "sys.stdout.encoding, sys.stdout.errors, sys.stderr.encoding, sys.stderr.errors",
        "sys.stdout.fileno(), sys.stderr.fileno()",
        "[type(one).__name__ for one in __import__('logging').getLogger().handlers]",
        "__import__('logging').getLogger().level",
        "signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD)",
        "signal.getsignal(signal.SIGPIPE)",
        "os.umask(0o22), threading.active_count(), sys.getrecursionlimit()",
        "__import__('locale').getlocale()",
    ):
        seen, expected = slot.value(expression), plain.value(expression)
        if expression.startswith("sys.argv"):
            seen, expected = (
                text.replace(w.path, "") for text, w in ((seen, slot), (expected, plain))
            )
        assert seen == expected, expression


def test_models_have_the_environment_and_folder_of_their_own_workers(shared_slots, model):
    one = shared_slots.start(model(name="one"), MINE="1", ONLY="one")
    two = shared_slots.start(model(name="two"), MINE="2")

    seen = "os.environ['MINE'], os.environ.get('ONLY'), Path.cwd().name"
    assert one.value(seen) == "('1', 'one', 'one')"
    assert two.value(seen) == "('2', None, 'two')"
    assert one.value("os.getppid()") == two.value("os.getppid()")


def test_workers_of_one_folder_in_different_environments_are_different_models(shared_slots, model):
    folder = model()
    one = shared_slots.start(folder, MINE="1")
    two = shared_slots.start(folder, MINE="2")

    assert one.value("os.environ['MINE']") == "1"
    assert two.value("os.environ['MINE']") == "2"


def test_what_one_model_changes_no_other_sees(shared_slots, model):
    one = shared_slots.start(model(name="one"))
    two = shared_slots.start(model(name="two"))

    one.value("setattr(sys, 'mark', 1), os.environ.update(MARK='1'), os.chdir('/')")
    one.value("__import__('numpy').random.seed(1)")

    assert two.value("hasattr(sys, 'mark'), os.environ.get('MARK')") == "(False, None)"


def test_no_two_processes_draw_the_same_random_numbers(slots, model, tmp_path):
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    folder = model(option__processes=2, option__preload="torch")
    environment = {"PYTHONPATH": str(tmp_path)}
    workers = [slots.start(folder, **environment) for _ in range(2)]
    workers.append(slots.start(model(name="other", option__preload="torch"), **environment))

    drawn = [
        worker.value("random.random(), __import__('numpy').random.rand()") for worker in workers
    ]
    os.kill(int(workers[2].value("os.getpid()")), signal.SIGKILL)
    drawn.append(workers[2].value("random.random(), __import__('numpy').random.rand()"))

    pairs = [text.strip("()").split(", ") for text in drawn]
    assert len({one for one, _ in pairs}) == 4
    assert len({two for _, two in pairs}) == 4
    assert {worker.value("__import__('torch').seeds") for worker in workers} == {"[1]"}


def test_what_a_model_prints_reaches_the_log_of_its_worker(shared_slots, model):
    worker = shared_slots.start(model())
    other = shared_slots.start(model(name="other"))

    worker.value("print('to the output')")
    worker.value("print('to the errors', file=sys.stderr)")
    worker.value("os.system('echo from a child')")
    worker.value("__import__('logging').warning('to the log')")

    worker.wait_for("to the output")
    worker.wait_for("to the errors")
    worker.wait_for("from a child")
    worker.wait_for("WARNING::to the log")
    assert "to the" not in other.output


def test_what_a_model_prints_goes_to_another_worker_when_its_first_has_ended(
    shared_slots, model, until
):
    first, second = shared_slots.start_many(2, model())
    second.value("print('early')")
    first.wait_for("early")

    first.kill()
    until(lambda: not Path(first.path).exists())
    second.value("print('late')")

    second.wait_for("late")
    assert second.line("early") is None


def test_a_print_never_fails_because_a_worker_has_just_ended(shared_slots, model, tmp_path, until):
    first, second = shared_slots.start_many(2, model())
    gate = tmp_path / "gate"
    second.send(f"hold({str(gate)!r}), print('into the void'), print('x', file=sys.stderr)")
    until(lambda: second.unread() == 0)

    # The worker to whose log the model prints, and nobody reads it any more.
    first.close()
    until(lambda: not Path(first.path).exists())
    gate.touch()

    assert second.receive().status == 200
    second.value("print('audible')")
    second.wait_for("audible")


def test_a_worker_s_log_that_nobody_reads_does_not_stop_the_others(slots, model, until):
    deaf = slots.start(model(name="deaf"))
    other = slots.start(model(name="other"))
    process = int(deaf.value("os.getpid()"))
    # As many lines as a pipe holds, and more, while the reader stands still.
    with deaf.reading_stopped():
        deaf.send("print('x' * 1_000_000)")
        until(lambda: deaf.unread() == 0)
        os.kill(process, signal.SIGKILL)

        assert other.value("1 + 1") == "2"
        assert slots.start(model(name="third")).is_slot


def test_a_child_of_a_model_holds_none_of_its_connections(shared_slots, model, until):
    worker = shared_slots.start(model())
    child = int(
        worker.value("__import__('subprocess').Popen(['sleep', '60'], close_fds=False).pid")
    )

    try:
        # A program that begins opens its libraries, and closes them again.
        until(lambda: {one.name for one in Path(f"/proc/{child}/fd").iterdir()} == {"0", "1", "2"})
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_log_of_sagemaker_gets_what_the_engine_would_write_there(shared_slots, model, tmp_path):
    files = [tmp_path / "slot.log", tmp_path / "plain.log"]
    folder = model()
    for file, switch in zip(files, ("on", "off"), strict=True):
        worker = shared_slots.start(
            folder, SM_TELEMETRY_LOG_REV_2022_12=str(file), MMEKIT_WORKER_SLOTS=switch
        )
        worker.value("__import__('logging').error('a metric')")

    assert files[0].read_text() == files[1].read_text()


@pytest.mark.parametrize("name", ["HF_HOME", "SKLEARN_ASSUME_FINITE", "MKL_CBWR", "TZ"])
def test_variables_that_libraries_read_when_imported_are_never_those_of_another_model(
    slots, model, name
):
    (library,) = [slots.folder.parent / "library"]
    library.mkdir()
    (library / "reader.py").write_text(f"import os\nseen = os.environ.get({name!r})\n")
    folders = [model(name=one, option__preload="reader") for one in ("first", "second")]

    values = []
    for folder, value in zip(folders, ("1", "2"), strict=True):
        worker = slots.start(folder, PYTHONPATH=str(library), **{name: value})
        assert worker.is_slot
        values.append(worker.value("__import__('reader').seen"))

    assert values == ["1", "2"]
