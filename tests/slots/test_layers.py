"""Workers of models with layers: slots and plain engines, from inline and from thin archives."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from mmekit_runtime.layers.listing import FOLDER, LISTING
from tests.layered_models import LayeredModels
from tests.server_process import RUNTIME
from tests.signed_objects import SECRET_KEY, SignedObjects, tar_of

TABULAR = "__import__('tabular').value"


@pytest.fixture
def layered(model, tmp_path):
    return LayeredModels(model, tmp_path)


def refused(worker):
    """Return why a worker did not load its model."""
    worker.connect()
    answer = worker.initialise()
    assert answer.status == 424, answer
    assert not worker.is_slot
    assert answer.message == json.loads(answer.body)["error"]
    return answer.message


def test_a_slot_finds_the_libraries_of_its_models_layer(slots, layered):
    entry = layered.libraries()

    worker = slots.start(layered.inline("one", entry))

    assert worker.is_slot
    assert worker.value(TABULAR) == "1"
    file = worker.value("__import__('tabular').__file__")
    assert file == str(layered.store.folder / entry.sha256 / "tabular" / "__init__.py")


def test_a_slot_is_told_where_its_models_body_is(slots, layered):
    entry = layered.body()

    worker = slots.start(layered.inline("one", entry))

    assert worker.is_slot
    assert worker.value("os.environ['MMEKIT_SHARED_FOLDER']") == str(
        layered.store.folder / entry.sha256
    )


def test_models_of_one_layer_share_a_fork_server_and_those_of_others_do_not(slots, layered):
    one, other = layered.libraries(1), layered.libraries(2)

    workers = [
        slots.start(layered.inline(name, entry))
        for name, entry in (("one", one), ("two", one), ("three", other))
    ]

    assert [worker.value(TABULAR) for worker in workers] == ["1", "1", "2"]
    assert len(slots.roots()) == 2


def test_a_layer_is_held_as_long_as_a_worker_lives_and_no_longer(slots, layered, until):
    entry = layered.libraries()
    worker = slots.start(layered.inline("one", entry))
    assert worker.is_slot

    assert layered.store.evict(1) == 0
    worker.kill()
    until(lambda: layered.store.evict(1))
    # The fork server lives on, for the next model.
    assert slots.fork_server().is_running()

    again = slots.start(layered.inline("two", entry))
    assert again.value(TABULAR) == "1"


def test_libraries_of_a_layer_are_imported_before_the_fork(slots, layered, until):
    entry = layered.libraries()

    worker = slots.start(layered.inline("one", entry, option__preload="tabular"))

    assert worker.value("'tabular' in sys.modules") == "True"
    until(lambda: "a template process with" in slots.log)
    assert "not preloaded" not in slots.log


def test_the_plain_engine_finds_the_layers_as_well(slots, layered):
    folder = layered.inline("one", layered.libraries(), layered.body())

    worker = slots.start(folder, MMEKIT_WORKER_SLOTS="off")

    assert not worker.is_slot
    assert worker.value(TABULAR) == "1"
    assert worker.value("open(os.environ['MMEKIT_SHARED_FOLDER'] + '/body.txt').read()") == "a body"
    path = worker.value("os.environ['PYTHONPATH']").split(os.pathsep)
    assert path.index(str(folder)) + 1 == path.index(
        str(layered.store.folder / layered.libraries().sha256)
    )
    assert layered.store.evict(1) == 0


def test_an_archive_with_layers_alone_says_nothing_of_slots(slots, layered):
    folder = layered.inline("one", layered.libraries())
    (folder / "mmekit_runtime").unlink()
    ignored = shutil.ignore_patterns("__pycache__", "slots")
    shutil.copytree(RUNTIME, folder / "mmekit_runtime", ignore=ignored)

    worker = slots.start(folder)

    assert worker.value(TABULAR) == "1"
    assert worker.line("mmekit: ") is None


def test_a_thin_archive_gets_its_runtime_from_a_layer(slots, layered):
    folder = layered.thin("one", layered.libraries())

    worker = slots.start(folder, MMEKIT_LAYERS=str(layered.ready))

    assert worker.is_slot, worker.output
    assert worker.value(TABULAR) == "1"
    runtime = layered.ready / layered.runtime().sha256
    assert worker.value("__import__('mmekit_runtime').__file__").startswith(str(runtime))
    assert len(slots.roots()) == 1


def test_a_thin_archive_gets_its_layers_from_s3_and_another_fetches_nothing(slots, layered):
    bucket = SignedObjects()
    try:
        entries = layered.libraries(), layered.runtime()
        for entry in entries:
            folder = layered.ready / entry.sha256
            files = {
                str(path.relative_to(folder)): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
            bucket.put(entry.sha256, tar_of(files))
        shutil.rmtree(layered.ready)

        workers = [
            slots.start(layered.thin(name, entries[0]), **bucket.environment())
            for name in ("one", "two")
        ]
    finally:
        bucket.close()

    assert [worker.value(TABULAR) for worker in workers] == ["1", "1"]
    assert all(worker.is_slot for worker in workers)
    assert len(bucket.requests) == 2
    assert len(slots.roots()) == 1


def test_a_thin_archive_runs_on_the_plain_engine_too(slots, layered):
    folder = layered.thin("one", layered.libraries())

    worker = slots.start(folder, MMEKIT_LAYERS=str(layered.ready), MMEKIT_WORKER_SLOTS="off")

    assert not worker.is_slot
    assert worker.value("__import__('mmekit_runtime').__file__")
    assert worker.value(TABULAR) == "1"


def test_a_load_without_its_layers_says_what_is_missing(slots, layered):
    entry = layered.libraries()
    folder = layered.thin("one", entry, code="import tabular\nimport mmekit_runtime\n")

    said = refused(slots.launch(folder))

    assert said == (
        f"layer {entry.sha256[:12]} (libraries, 0.0 MB: some libraries) is missing here: "
        "MMEKIT_LAYERS is not set; `mme deploy` sets it, or pack the model without --thin"
    )


@pytest.mark.parametrize("off", ["", "off"])
def test_a_load_from_an_inline_archive_with_damaged_layers_says_so(slots, layered, off):
    entry = layered.libraries()
    folder = layered.inline("one", entry)
    (folder / FOLDER / entry.sha256 / "tabular" / "__init__.py").write_text("value = 3\n")

    said = refused(slots.launch(folder, MMEKIT_WORKER_SLOTS=off))

    assert "the copy in the archive cannot be used" in said


def test_a_load_whose_layers_s3_refuses_says_so_and_no_secret(slots, layered):
    bucket = SignedObjects()
    try:
        worker = slots.launch(
            layered.thin("one", layered.libraries()),
            **bucket.environment(AWS_SECRET_ACCESS_KEY="another" + SECRET_KEY),
        )
        said = refused(worker)
    finally:
        bucket.close()

    assert "403 SignatureDoesNotMatch" in said
    assert SECRET_KEY not in worker.output


def test_a_listing_that_cannot_be_read_is_said_by_the_load(slots, layered):
    folder = layered.inline("one")
    (folder / LISTING).write_text("{")

    assert "pack the model again" in refused(slots.launch(folder))


def test_another_sitecustomize_runs_beside_layers(slots, layered, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os\nos.environ['CUSTOM'] = '1'\n")
    folder = layered.inline("one", layered.libraries())

    worker = slots.launch(folder, MMEKIT_WORKER_SLOTS="off")
    worker.connect()
    worker.initialise()
    assert worker.value("os.environ.get('CUSTOM')") == "None"
    worker = slots.launch(folder, MMEKIT_WORKER_SLOTS="off", PYTHONPATH=f"{folder}:{tmp_path}")
    worker.connect()
    worker.initialise()

    assert worker.value("os.environ.get('CUSTOM')") == "1"
    assert worker.value(TABULAR) == "1"


def test_a_layer_that_is_there_costs_a_worker_little(slots, layered):
    folder = layered.inline("one", layered.libraries())
    slots.start(folder)
    imported = folder / "sitecustomize.py"
    text = imported.read_text()
    listed = "    print('MODULES', sorted(sys.modules), flush=True)\n"
    imported.write_text(text.replace("    _become_slot()\n", f"{listed}    _become_slot()\n"))

    worker = slots.launch(folder)

    names = worker.wait_for("MODULES")
    for heavy in ("json", "re", "dataclasses", "pathlib", "hashlib", "ssl", "urllib", "zlib"):
        assert f"'{heavy}'" not in names


def test_where_the_runtime_is_kept_a_thin_archives_own_modules_are_hardly_used(slots, layered):
    entry = layered.libraries()
    slots.start(layered.thin("one", entry), MMEKIT_LAYERS=str(layered.ready))
    folder = layered.thin("two", entry)
    hook = folder / "sitecustomize.py"
    listed = "    print('MODULES', sorted(sys.modules), flush=True)\n    _become_slot()\n"
    hook.write_text(hook.read_text().replace("    _become_slot()\n", listed))

    worker = slots.launch(folder, MMEKIT_LAYERS=str(layered.ready))

    names = worker.wait_for("MODULES")
    assert "'mmekit_runtime.layers.providing'" in names
    assert "'mmekit_layers.providing'" not in names


def test_a_layer_is_missed_where_the_runtime_is_kept(slots, layered):
    slots.start(layered.thin("one"), MMEKIT_LAYERS=str(layered.ready))
    entry = layered.libraries()
    shutil.rmtree(layered.ready / entry.sha256)

    said = refused(slots.launch(layered.thin("two", entry), MMEKIT_LAYERS=str(layered.ready)))

    assert said.startswith(f"{entry} is missing here: {layered.ready} has none of this name")


def test_an_archive_that_has_lost_what_gets_layers_says_so_and_answers(slots, layered):
    folder = layered.inline("one", layered.libraries())
    (folder / "mmekit_runtime").unlink()
    ignored = shutil.ignore_patterns("__pycache__", "entering.py")
    shutil.copytree(RUNTIME, folder / "mmekit_runtime", ignore=ignored)

    worker = slots.start(folder)

    assert worker.wait_for("ERROR::mmekit: no layers: No module named")
    assert worker.value("1 + 1") == "2"


def test_layers_that_take_long_to_come_are_said_to(slots, layered):
    bucket = SignedObjects()
    entry = layered.libraries()
    bucket.put(entry.sha256, tar_of({"tabular/__init__.py": b"value = 1\n"}))
    # Tried again after 0.4, 0.8 and 1.6 seconds.
    bucket.misbehaviour = [503, 503, 503]
    try:
        worker = slots.start(layered.inline("one"), **bucket.environment())
        assert worker.line("layers are here after") is None
        folder = layered.inline("two", entry)
        shutil.rmtree(folder / FOLDER)
        worker = slots.start(folder, **bucket.environment())
    finally:
        bucket.close()

    assert worker.wait_for("INFO::mmekit: the model's layers are here after")
    assert worker.value(TABULAR) == "1"
