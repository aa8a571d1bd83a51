"""A model's layers, got ready for its worker: from the store, the image, the archive or S3."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import mmekit_runtime
from mmekit_runtime.layers import SHARED_FOLDER_VARIABLE, provide
from mmekit_runtime.layers.holding import STORE_FOLDER, store_folders
from mmekit_runtime.layers.listing import FOLDER, LISTING, LayerError
from tests.mmekit_runtime.layers.conftest import write
from tests.server_process import wait_until
from tests.signed_objects import SECRET_KEY, tar_of

PACKAGES = str(Path(mmekit_runtime.__file__).parents[1])
FILES = {"pkg/a.py": b"x = 1\n"}
OTHERS = {"model.safetensors": b"body", "tokenizer.json": b"{}"}
NOBODY = 65534
SHM = Path("/dev/shm")  # noqa: S108

PROVIDING = """
import os, sys
from mmekit_runtime.layers import provide
print(provide(sys.argv[1], os.environ).libraries)
"""
IMPORTED = """
import sys
before = set(sys.modules)
from mmekit_runtime.layers.providing import provide
provided = provide(sys.argv[1], {})
assert provided.libraries and provided.locks
print(" ".join(sorted(set(sys.modules) - before)))
"""


def run(program, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-S", "-c", program, *map(str, arguments)],
        env={"PYTHONPATH": PACKAGES, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(autouse=True)
def _private_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def entry(entry_of, bucket):
    made = entry_of(FILES)
    bucket.put(made.sha256, tar_of(FILES))
    return made


@pytest.fixture
def ready(tmp_path):
    """Make a folder of layers that lie ready, as in an image of one's own."""

    def ready(sha256, files=FILES):
        write(tmp_path / "image" / sha256, files)
        return {"MMEKIT_LAYERS": f"{tmp_path}/image"}

    return ready


def test_a_model_without_layers_is_left_alone(tmp_path):
    assert provide(tmp_path, {}) is None


def test_an_inline_layer_is_kept_once_beside_the_models(model, store, entry, provided):
    folder = model("one", entry, inline={entry.sha256: FILES})

    layers = provided(folder)

    assert layers.libraries == str(store / entry.sha256)
    own, kept = (path / entry.sha256 / "pkg" / "a.py" for path in (folder / FOLDER, store))
    assert kept.read_bytes() == b"x = 1\n"
    assert own.stat().st_ino == kept.stat().st_ino


def test_a_second_models_copy_becomes_links_to_the_stores(model, store, entry, provided):
    provided(model("one", entry, inline={entry.sha256: FILES}))
    folder = model("two", entry, inline={entry.sha256: FILES})
    own, kept = (path / entry.sha256 / "pkg" / "a.py" for path in (folder / FOLDER, store))
    assert own.stat().st_ino != kept.stat().st_ino

    layers = provided(folder)

    wait_until(lambda: own.stat().st_ino == kept.stat().st_ino)
    wait_until(lambda: (folder / FOLDER / entry.sha256).stat().st_mtime == 1)
    assert layers.libraries == str(store / entry.sha256)
    assert kept.stat().st_nlink == 3


def test_a_copy_becomes_links_when_another_process_kept_the_layer_meanwhile(
    model, store, entry, tmp_path
):
    folder = model("two", entry, inline={entry.sha256: FILES})
    own, kept = (path / entry.sha256 / "pkg" / "a.py" for path in (folder / FOLDER, store))
    store.mkdir()
    making = store / f"{entry.sha256}.making"
    with making.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = run(PROVIDING, folder, TMPDIR=str(tmp_path))
        # It has looked for the layer, and waits for whoever makes it.
        opened = Path(f"/proc/{process.pid}/fd")
        wait_until(lambda: any(one.resolve() == making for one in opened.iterdir()))
        write(store / entry.sha256, FILES)
        (store / f"{entry.sha256}.lock").touch()

    out, errors = process.communicate()

    assert out.strip() == str(store / entry.sha256), errors
    wait_until(lambda: own.stat().st_ino == kept.stat().st_ino)
    wait_until(lambda: (folder / FOLDER / entry.sha256).stat().st_mtime == 1)


def test_a_layer_stays_when_the_model_that_brought_it_is_deleted(model, store, entry, provided):
    folder = model("one", entry, inline={entry.sha256: FILES})
    provided(folder)
    shutil.rmtree(folder.parent)

    layers = provided(model("two", entry))

    assert (Path(layers.libraries) / "pkg" / "a.py").read_bytes() == b"x = 1\n"


def test_an_inline_layer_with_other_bytes_is_not_used(model, store, entry):
    folder = model("one", entry, inline={entry.sha256: {"pkg/a.py": b"x = 2\n"}})

    with pytest.raises(LayerError, match=r"copy in the archive cannot be used: .* damaged"):
        provide(folder, {})

    assert not (store / entry.sha256).exists()


def test_what_python_had_compiled_beside_an_inline_layer_is_left_there(model, entry, provided):
    stale = {"pkg/__pycache__/a.cpython-311.pyc": b"evil"}
    folder = model("one", entry, inline={entry.sha256: FILES | stale})

    layers = provided(folder)

    assert [path.name for path in Path(layers.libraries).rglob("*.py*")] == ["a.py"]


def test_a_layer_that_lies_in_the_image_is_used_where_it_is(model, entry, ready, provided, store):
    folder, environ = model("one", entry), ready(entry.sha256)

    layers = provided(folder, environ)

    assert layers.libraries == f"{environ['MMEKIT_LAYERS']}/{entry.sha256}"
    assert not (store / entry.sha256).exists()


def test_a_layer_in_the_image_is_verified_once(model, entry, ready, provided):
    folder, environ = model("one", entry), ready(entry.sha256)
    path = Path(environ["MMEKIT_LAYERS"]) / entry.sha256
    assert provided(folder, environ).libraries == str(path)

    # Files below could be changed unseen, as they are not looked at again.
    (path / "pkg" / "a.py").write_bytes(b"changed")

    assert provided(folder, environ).libraries == str(path)


def test_a_folder_that_comes_in_the_place_of_one_in_the_image_is_verified_anew(
    model, entry, ready, provided
):
    folder, environ = model("one", entry), ready(entry.sha256)
    path = Path(environ["MMEKIT_LAYERS"]) / entry.sha256
    provided(folder, environ)

    shutil.rmtree(path)
    write(path, {"pkg/a.py": b"changed"})

    with pytest.raises(LayerError, match="holds another layer"):
        provide(folder, environ)


def test_a_folder_that_others_may_write_to_is_not_trusted(model, entry, ready):
    folder, environ = model("one", entry), ready(entry.sha256)
    (Path(environ["MMEKIT_LAYERS"]) / entry.sha256).chmod(0o777)

    with pytest.raises(LayerError, match="other users may write there"):
        provide(folder, environ)


def test_a_layer_comes_from_s3_when_it_lies_nowhere(model, entry, provided, bucket, store, ready):
    other = ready("0" * 64)["MMEKIT_LAYERS"]
    environ = bucket.environment(MMEKIT_LAYERS=f"{other}, s3://shared/layers/")

    layers = provided(model("one", entry), environ)

    assert layers.libraries == str(store / entry.sha256)
    assert provided(model("two", entry), environ).libraries == layers.libraries
    assert len(bucket.requests) == 1


def test_processes_that_want_a_layer_at_once_fetch_it_once(model, entry, bucket, store):
    folders = [model(f"m{number}", entry) for number in range(16)]
    processes = [run(PROVIDING, folder, **bucket.environment()) for folder in folders]

    said = [process.communicate() for process in processes]

    assert {out.strip() for out, _ in said} == {str(store / entry.sha256)}, said
    assert len(bucket.requests) == 1


def test_a_fetch_that_was_killed_harms_nobody(model, entry, bucket, store, provided):
    folder = model("one", entry)

    def kill():
        process.kill()
        process.wait()
        return "reset"

    bucket.misbehaviour = [kill]
    process = run(PROVIDING, folder, **bucket.environment())
    process.communicate()

    assert not (store / entry.sha256).exists()
    assert provided(folder, bucket.environment()).libraries == str(store / entry.sha256)


def test_a_layer_from_s3_with_other_bytes_is_not_used(model, entry, bucket, store):
    bucket.put(entry.sha256, tar_of({"pkg/a.py": b"x = 2\n"}))

    with pytest.raises(LayerError, match="damaged or changed"):
        provide(model("one", entry), bucket.environment())

    assert list(store.glob("*/*")) == []


def test_without_a_place_to_get_it_from_the_layer_is_named_and_the_remedy(model, entry):
    with pytest.raises(LayerError) as caught:
        provide(model("one", entry), {})

    assert str(caught.value) == (
        f"layer {entry.sha256[:12]} (libraries, 0.0 MB: tabular 1.0) is missing here: "
        "MMEKIT_LAYERS is not set; `mme deploy` sets it, or pack the model without --thin"
    )


def test_all_places_are_named_that_have_not_got_it(model, entry, bucket, ready):
    bucket.objects.clear()
    image = ready("0" * 64)["MMEKIT_LAYERS"]
    environ = bucket.environment(MMEKIT_LAYERS=f"{image} s3://shared/layers/,elsewhere")

    with pytest.raises(LayerError) as caught:
        provide(model("one", entry), environ)

    said = str(caught.value)
    assert f"{image} has none of this name; s3://shared/layers/" in said
    assert "404 NoSuchKey" in said
    assert "elsewhere is neither an absolute folder nor an s3:// prefix" in said
    assert SECRET_KEY not in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"python": "2.7"}, "is for Python 2.7, and this is 3."),
        ({"platform": "plan9-mips"}, "is for the platform plan9-mips, and this is "),
    ],
)
def test_libraries_for_another_python_are_not_used(model, entry_of, fields, said, provided):
    usual, other = entry_of(FILES), entry_of(FILES, **fields)
    provided(model("one", usual, inline={usual.sha256: FILES}))

    with pytest.raises(LayerError, match=said):
        provide(model("two", other), {})


def test_libraries_are_for_the_python_that_the_worker_has(model, entry_of):
    entry = entry_of(FILES, python="3.99")
    folder = model("one", entry, inline={entry.sha256: FILES})

    provide(folder, {}, python="3.99").close()
    with pytest.raises(LayerError, match=r"is for Python 3\.99"):
        provide(folder, {})


def test_a_listing_in_another_order_is_read_all_the_same(model, entry, provided, store):
    folder = model("one", entry, inline={entry.sha256: FILES})
    provided(folder)
    fields = ", ".join(
        f'"{name}": {"null" if value is None else repr(value)}'.replace("'", '"')
        for name, value in reversed(vars(entry).items())
    )
    (folder / LISTING).write_text(f'{{"layers": [{{{fields}}}], "format": 1}}')

    assert provided(folder).libraries == str(store / entry.sha256)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1, "layers": [{}]}', "x" * 70_000])
def test_a_listing_that_packing_has_not_written_is_refused(model, text):
    folder = model("one")
    (folder / LISTING).write_text(text)

    with pytest.raises(LayerError, match="pack the model again"):
        provide(folder, {})


def test_what_a_layer_says_of_itself_cannot_pass_for_another(model, entry_of, provided, store):
    says = f'"kind": "runtime", "sha256": "{"0" * 64}", "python": null'
    entry = entry_of(FILES, says=says)
    folder = model("one", entry, inline={entry.sha256: FILES})

    for _ in range(2):
        layers = provided(folder)
        assert (layers.libraries, layers.runtime) == (str(store / entry.sha256), None)


def test_a_layer_at_hand_costs_no_import_of_what_gets_one(model, entry, provided):
    folder = model("one", entry, inline={entry.sha256: FILES})
    provided(folder)

    out, errors = run(IMPORTED, folder).communicate()

    heavy = {"json", "re", "dataclasses", "pathlib", "typing", "hashlib", "ssl", "urllib", "zlib"}
    assert out, errors
    assert not heavy & set(out.split())


def test_a_layer_is_held_until_the_model_is_done_with_it(model, entry, store):
    from mmekit_runtime.layers.store import LayerStore

    layers = provide(model("one", entry, inline={entry.sha256: FILES}), {})

    assert LayerStore(store).evict(1) == 0
    layers.close()
    layers.close()
    assert LayerStore(store).evict(1) == len(b"x = 1\n")


def test_room_is_made_for_a_layer_by_removing_those_that_nobody_uses(
    model, entry, entry_of, store, bucket, provided
):
    used, unused = entry_of({"a": b"a" * (1 << 19)}), entry_of({"b": b"b" * (1 << 19)})
    for one, name in ((unused, "b"), (used, "a")):
        bucket.put(one.sha256, tar_of({name: name.encode() * (1 << 19)}))
    environ = bucket.environment(MMEKIT_LAYERS_MB="1")
    provide(model("unused", unused), environ).close()
    provided(model("used", used), environ)

    provided(model("one", entry), environ)

    assert {path.name for path in store.iterdir() if path.is_dir()} == {used.sha256, entry.sha256}


@pytest.mark.skipif(not SHM.is_dir(), reason="only where there is a second disk")
def test_room_is_made_for_a_layer_of_the_archive_that_has_to_be_copied(
    model, entry_of, provided, tmp_path
):
    if SHM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one disk")
    unused, used = ({name: name.encode() * (600 << 10)} for name in ("a", "b"))
    first, second = entry_of(unused), entry_of(used)
    with tempfile.TemporaryDirectory(dir=SHM) as store:
        environ = {"MMEKIT_LAYERS_STORE": store, "MMEKIT_LAYERS_MB": "1"}
        provide(model("unused", first, inline={first.sha256: unused}), environ).close()

        provided(model("used", second, inline={second.sha256: used}), environ)

        assert [path.name for path in Path(store).iterdir() if path.is_dir()] == [second.sha256]


def test_a_budget_that_is_no_number_is_said(model, entry, bucket):
    with pytest.raises(LayerError, match="MMEKIT_LAYERS_MB is 'plenty'"):
        provide(model("one", entry), bucket.environment(MMEKIT_LAYERS_MB="plenty"))


def test_another_folder_may_be_the_store(model, entry, provided, tmp_path):
    folder = model("one", entry, inline={entry.sha256: FILES})
    environ = {"MMEKIT_LAYERS_STORE": str(tmp_path / "another" / "place")}

    assert provided(folder, environ).libraries.startswith(environ["MMEKIT_LAYERS_STORE"])


def test_the_store_lies_beside_the_models(tmp_path):
    beside = {store_folders(path, {})[0] for path in ("/m/one", "/m/two", "/m/three/model")}

    assert beside == {f"/m/{STORE_FOLDER}"}


def test_where_the_store_cannot_be_written_it_is_the_users_own_folder(
    model, entry, provided, store, tmp_path
):
    folder = model("one", entry, inline={entry.sha256: FILES})
    store.write_text("in the way")

    layers = provided(folder, {"TMPDIR": str(tmp_path)})

    own = tmp_path / f"mmekit-{os.getuid()}"
    assert layers.libraries == str(own / "layers" / entry.sha256)
    assert own.stat().st_mode & 0o777 == 0o700


def test_a_store_that_others_may_write_to_is_not_trusted(model, entry, provided, store, tmp_path):
    folder = model("one", entry, inline={entry.sha256: FILES})
    write(store / entry.sha256, {"pkg/a.py": b"evil"})
    (store / f"{entry.sha256}.lock").touch()
    store.chmod(0o777)

    layers = provided(folder, {"TMPDIR": str(tmp_path)})

    assert layers.libraries.startswith(str(tmp_path / "mmekit-"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of another user")
def test_a_store_of_another_user_is_not_trusted(model, entry, provided, store, tmp_path):
    folder = model("one", entry, inline={entry.sha256: FILES})
    write(store / entry.sha256, {"pkg/a.py": b"evil"})
    (store / f"{entry.sha256}.lock").touch()
    os.chown(store, NOBODY, NOBODY)

    layers = provided(folder, {"TMPDIR": str(tmp_path)})

    assert layers.libraries.startswith(str(tmp_path / "mmekit-"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of another user")
def test_a_store_of_whom_the_model_belongs_to_is_trusted(model, entry, provided, store):
    folder = model("one", entry, inline={entry.sha256: FILES})
    provided(folder)
    for path in (store, store / entry.sha256, folder):
        os.chown(path, NOBODY, NOBODY)

    assert provided(folder).libraries == str(store / entry.sha256)


@pytest.mark.skipif(os.getuid() != 0, reason="root may write anywhere, so another user is tried")
def test_a_user_that_may_write_nowhere_is_told(model, entry, store):
    # Its parents are open to nobody but this user.
    base = Path(tempfile.mkdtemp(prefix="la-"))
    base.chmod(0o755)
    folder = base / "models" / "one"
    shutil.copytree(model("one", entry, inline={entry.sha256: FILES}), folder)
    program = (
        "import os, sys\n"
        "from mmekit_runtime.layers import acquiring, provide\n"
        # Not before: the Python that runs here may be open to root alone.
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "try:\n    provide(sys.argv[1], os.environ)\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    out, errors = run(program, folder, TMPDIR="/nowhere").communicate()
    shutil.rmtree(base)

    assert "has no place here" in out, errors
    assert "name a folder in MMEKIT_LAYERS_STORE" in out


def test_the_runtime_comes_before_the_model_and_the_libraries_right_after_it(
    model, entry, entry_of, provided
):
    runtime, body = entry_of({"mmekit_runtime/x.py": b""}, "runtime"), entry_of(OTHERS, "body")
    contents = {
        entry.sha256: FILES,
        runtime.sha256: {"mmekit_runtime/x.py": b""},
        body.sha256: OTHERS,
    }
    folder = model("one", body, entry, runtime, inline=contents)

    layers = provided(folder)
    variables = layers.variables({"PYTHONPATH": f"/engine:{folder}:/later"}, str(folder))

    expected = ["/engine", layers.runtime, str(folder), layers.libraries, "/later"]
    assert variables == {
        "PYTHONPATH": ":".join(expected),
        SHARED_FOLDER_VARIABLE: layers.body,
    }
    assert layers.variables(variables, str(folder)) == variables
    assert len(layers.locks) == 3
    without = layers.variables({}, str(folder))["PYTHONPATH"]
    assert without == ":".join([layers.runtime, str(folder), layers.libraries])
