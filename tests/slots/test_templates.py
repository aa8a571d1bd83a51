"""What models preload, and which of them share it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal

import psutil
import pytest

from mmekit_runtime.slots.import_tree import ImportTree

PID = "import os\npid = os.getpid()\n"

SITE = """
import os, sys
sys.site_runs = getattr(sys, "site_runs", 0) + 1
os.environ["FROM_SITE"] = "yes"
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Small libraries that know which process imported them."""
    folder = tmp_path_factory.mktemp("libraries")
    for name in ("alpha", "beta", "gamma"):
        (folder / f"{name}.py").write_text(PID)
    (folder / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    (folder / "failing.py").write_text("raise SystemExit('not here')\n")
    (folder / "crashing.py").write_text("import os\nos.abort()\n")
    return folder


@pytest.fixture
def start(slots, model, libraries):
    """Start a model that preloads libraries."""

    def start(name, preload, **environment):
        folder = model(name=name, option__preload=preload)
        return slots.start(folder, PYTHONPATH=str(libraries), **environment)

    return start


def importer(worker, library):
    """Return the id of the process that imported a library."""
    return int(worker.value(f"__import__({library!r}).pid"))


def test_a_model_is_forked_from_a_template_process_that_has_its_libraries(slots, start):
    worker = start("model", "alpha, beta")

    template = psutil.Process(int(worker.value("os.getppid()")))
    assert importer(worker, "alpha") == importer(worker, "beta") == template.pid
    assert template in slots.templates()
    assert "with alpha, beta was ready" in worker.wait_for("mmekit: worker slot")


def test_models_with_the_same_libraries_share_a_template_process(start):
    first, second = start("first", "alpha"), start("second", "alpha")

    assert first.value("os.getppid()") == second.value("os.getppid()")


def test_what_two_sets_of_libraries_have_in_common_is_imported_once(slots, start):
    first = start("first", "alpha,beta")
    second = start("second", "alpha,gamma")
    third = start("third", "alpha")
    fourth = start("fourth", "alpha,gamma,not_there")

    # The first could not know; from the second on there is a template for what they share.
    shared = importer(third, "alpha")
    assert importer(second, "alpha") == importer(fourth, "alpha") == shared
    assert shared != importer(first, "alpha")
    assert importer(second, "gamma") == importer(fourth, "gamma") != shared
    # All have numpy from the one that forked all the others.
    assert psutil.Process(shared).ppid() == psutil.Process(importer(first, "alpha")).ppid()


def test_models_that_load_at_once_wait_for_the_same_template_processes(slots, model, libraries):
    names = ["alpha", "alpha,beta", "alpha,gamma", "alpha", "alpha,beta", "beta,gamma"]
    folders = [model(name=f"m{i}", option__preload=name) for i, name in enumerate(names)]

    workers = [slots.launch(folder, PYTHONPATH=str(libraries)) for folder in folders]
    for worker in workers:
        worker.connect()
        assert worker.initialise().status == 204

    for worker, name in zip(workers, names, strict=True):
        for library in name.split(","):
            assert importer(worker, library) != int(worker.value("os.getpid()"))
    assert workers[0].value("os.getppid()") == workers[3].value("os.getppid()")
    assert workers[1].value("os.getppid()") == workers[4].value("os.getppid()")


def test_a_library_that_starts_a_thread_is_left_to_the_models(slots, start, until):
    worker = start("first", "alpha,threaded")
    later = start("second", "threaded,beta")

    assert worker.is_slot
    assert later.is_slot
    assert worker.value("'threaded' in sys.modules") == "False"
    assert worker.value("__import__('threaded') and threading.active_count()") == "2"
    assert importer(worker, "alpha") == int(worker.value("os.getppid()"))
    said = "importing threaded starts a thread: left to the models"
    until(lambda: said in slots.log)
    assert slots.log.count(said) == 1
    until(lambda: all(template.num_threads() == 1 for template in slots.templates()))


def test_polars_is_imported_once_though_it_starts_threads_and_works_when_forked(slots, start):
    worker = start("first", "polars")
    other = start("second", "polars")
    table = "__import__('polars').DataFrame({'a': [1, 1, 2] * 1000, 'b': list(range(3000))})"
    grouped = f"{table}.lazy().group_by('a').agg(__import__('polars').col('b').sum())"

    for one in (worker, other):
        assert one.value("'polars' in sys.modules") == "True"
        assert one.value("len(os.listdir('/proc/self/task'))") == "1"
        assert one.value(f"sorted({grouped}.collect().rows())") == "[(1, 2998000), (2, 1500500)]"


def test_a_library_that_cannot_be_imported_is_left_to_the_models(slots, start, until):
    worker = start("first", "alpha,failing,not_there")

    assert worker.is_slot
    assert importer(worker, "alpha") == int(worker.value("os.getppid()"))
    until(lambda: "failing was not preloaded: SystemExit: not here" in slots.log)
    until(lambda: "not_there was not preloaded: ModuleNotFoundError" in slots.log)


def test_a_library_that_crashes_leaves_the_plain_engine_to_its_model_alone(slots, start):
    unlucky = start("first", "crashing")
    other = start("second", "alpha")

    assert not unlucky.is_slot
    assert "no template process could be started" in unlucky.wait_for("plain engine")
    assert other.is_slot


def test_what_packing_found_is_preloaded_unless_a_setting_says_otherwise(slots, model, libraries):
    manifest = {"manifest.json": json.dumps({"measured": {"preload": ["alpha"]}})}
    found = model(name="found", files=manifest)
    none = model(name="none", files=manifest, option__preload="none")
    other = model(name="other", files=manifest, option__preload="beta")
    broken = model(name="broken", files={"manifest.json": "["})

    loaded = []
    for folder in (found, none, other, broken):
        worker = slots.start(folder, PYTHONPATH=str(libraries))
        assert worker.is_slot
        names = "[name for name in ('alpha', 'beta') if name in sys.modules]"
        loaded.append(worker.value(names))

    assert loaded == ["['alpha']", "[]", "['beta']", "[]"]


def test_a_module_of_a_model_s_own_is_never_another_model_s(slots, model):
    folders = [
        model(name=name, option__preload="own", files={"own.py": f"name = {name!r}\n"})
        for name in ("first", "second")
    ]

    workers = [slots.start(folder) for folder in folders]

    assert [worker.value("__import__('own').name") for worker in workers] == ["first", "second"]


def test_a_folder_that_was_packed_anew_is_loaded_anew(slots, model, until):
    folder = model(option__preload="own", files={"own.py": "value = 1\n"})
    before = slots.start(folder)
    assert before.value("__import__('own').value") == "1"
    process = int(before.value("os.getpid()"))
    before.kill()

    (folder / "own.py").write_text("value = 'two'\n")
    after = slots.start(folder)

    assert after.value("__import__('own').value") == "two"
    assert int(after.value("os.getpid()")) != process


def test_a_model_that_is_loaded_while_it_is_unloaded_gets_a_new_process(slots, model):
    folder = model()
    seen = set()

    for _ in range(6):
        # The next worker is there before the fork server has seen the end of this one.
        worker = slots.start(folder)
        seen.add(worker.value("os.getpid()"))
        server = slots.fork_server()
        os.kill(server.pid, signal.SIGSTOP)
        worker.kill()
        following = slots.launch(folder)
        os.kill(server.pid, signal.SIGCONT)
        following.connect()
        assert following.initialise().status == 204
        seen.add(following.value("os.getpid()"))
        following.kill()

    assert len(seen) >= 6


def test_a_sitecustomize_of_the_environment_runs_before_a_model(slots, model, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITE)
    folder = model()
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), str(tmp_path)])}

    for switch in ("on", "off"):
        worker = slots.start(folder, MMEKIT_WORKER_SLOTS=switch, **environment)
        assert worker.is_slot == (switch == "on")
        assert worker.value("sys.site_runs, os.environ['FROM_SITE']") == "(1, 'yes')"


def test_a_sitecustomize_that_python_finds_first_leaves_the_plain_engine(slots, model, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITE)

    worker = slots.start(model(), PYTHONPATH=str(tmp_path))

    assert not worker.is_slot
    assert worker.value("sys.site_runs") == "1"


def test_torch_has_as_many_threads_as_the_model_asks_for(slots, model):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    threads = "(__import__('torch').get_num_threads(), os.environ.get('OMP_NUM_THREADS'))"
    for number in ("1", "2"):
        folder = model(name=f"model {number}", option__preload="torch")
        worker = slots.start(folder, OMP_NUM_THREADS=number)
        assert worker.value(threads) == f"({number}, '{number}')"


def test_the_slots_of_a_model_are_spread_over_its_processes(slots, model):
    workers = slots.start_many(4, model(option__processes=2))
    pids = [worker.value("os.getpid()") for worker in workers]
    assert sorted(map(pids.count, set(pids))) == [2, 2]

    os.kill(int(pids[0]), signal.SIGKILL)
    after = [worker.value("os.getpid()") for worker in workers]

    assert [a == b for a, b in zip(after, pids, strict=True)] == [pid != pids[0] for pid in pids]
    assert len(set(after)) == 2
    assert {worker.value("len(initialised)") for worker in workers} == {"1"}


def test_a_template_process_that_no_model_uses_any_more_ends(impatient_slots, model, until):
    stays = impatient_slots.start(model(name="stays"))
    goes = impatient_slots.start(model(name="goes", option__preload="wave"))
    until(lambda: len(impatient_slots.templates()) == 2)

    goes.kill()

    until(lambda: len(impatient_slots.templates()) == 1)
    assert stays.value("1 + 1") == "2"
    assert impatient_slots.start(model(name="again", option__preload="wave")).is_slot


def test_a_tree_says_how_little_is_left_to_import():
    tree = ImportTree()
    base = frozenset({"base"})
    assert tree.plan(base | {"a"}) == (None, [base | {"a"}])

    root = tree.add(base)
    assert tree.plan(base) == (root, [base])
    one = tree.add(base | {"a", "b"})
    assert tree.plan(base | {"a", "b", "c"}) == (one, [base | {"a", "b", "c"}])
    assert tree.plan(base | {"a", "c"}) == (root, [base | {"a"}, base | {"a", "c"}])
    tree.remove(one)
    assert tree.plan(base | {"a", "c"}) == (root, [base | {"a", "c"}])
