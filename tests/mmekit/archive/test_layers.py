"""What archives have in common becomes layers: in them, or beside them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile

import pytest

from mmekit.archive import layer_file, pack, unpack, verify
from mmekit.errors import ManifestError, PackageError
from mmekit_runtime.layers.contents import LayerFile, digest_of
from mmekit_runtime.layers.listing import BODY, RUNTIME, parse_layers

SHARING = """\
import joblib

from mmekit_runtime import Handler


class SharingModel(Handler):
    def load_shared(self, folder):
        return (folder / "body" / "factor.txt").read_text()

    def load(self, folder, shared):
        return joblib.load(folder / "model.joblib"), float(shared)

    def predict(self, model, rows, parameters):
        own, factor = model
        return own.predict(rows) * factor


handle = SharingModel()
"""
SETTINGS = "engine=Python\nminWorkers=1\nretry_threshold=10\noption.shared=body,*.vocabulary\n"


@pytest.fixture(name="sharing")
def a_package_with_a_body(workshop):
    workshop.write("model.py", SHARING)
    workshop.write("serving.properties", SETTINGS)
    (workshop.artifacts / "body").mkdir()
    (workshop.artifacts / "body" / "factor.txt").write_text("2.0")
    (workshop.artifacts / "body" / "weights.bin").write_bytes(bytes(range(256)) * 400)
    (workshop.artifacts / "words.vocabulary").write_text("one\ntwo\n")
    workshop.pretend_measured()
    return workshop


def read_all(archive):
    with tarfile.open(archive) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}


def modes(archive):
    with tarfile.open(archive) as tar:
        return {m.name: m.mode for m in tar if m.isfile()}


def digest_of_files(files, mode=0o644):
    """Compute a layer's name as the format says it, line by line."""
    lines = (
        f"{mode:o} {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n"
        for name, data in sorted(files.items())
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def below(files, folder):
    return {
        name.removeprefix(f"{folder}/"): data
        for name, data in files.items()
        if name.startswith(f"{folder}/")
    }


# In the archive.


def test_shared_artefacts_keep_their_names_in_a_folder_named_by_their_content(sharing):
    packed = pack(sharing.package, sharing.artifacts, sharing.archive)

    files = read_all(sharing.archive)
    (entry,) = parse_layers(files["layers.json"])
    body = below(files, f"layers/{entry.sha256}")
    assert set(body) == {"body/factor.txt", "body/weights.bin", "words.vocabulary"}
    assert entry.sha256 == digest_of_files(body)
    assert (entry.kind, entry.python, entry.platform) == (BODY, None, None)
    assert (entry.files, entry.bytes) == (3, sum(map(len, body.values())))
    assert entry.says == "body/weights.bin and 2 more"
    assert "body/factor.txt" not in files
    assert "model.joblib" in files
    assert packed.layers[0].entry == entry


def test_the_manifest_names_layers_and_what_they_were_made_of(sharing):
    pack(sharing.package, sharing.artifacts, sharing.archive)

    manifest = verify(sharing.archive)

    (layer,) = manifest.layers
    assert layer.inline
    assert [one.name for one in layer.sources] == [
        "body/factor.txt",
        "body/weights.bin",
        "words.vocabulary",
    ]
    assert "layers.json" in manifest.files
    assert not [name for name in manifest.files if name.startswith("layers/")]
    content = json.loads(read_all(sharing.archive)["manifest.json"])
    assert content["layers"][0]["sha256"] == layer.sha256


def test_an_archive_without_layers_says_nothing_of_them(workshop):
    workshop.pretend_measured()

    packed = pack(workshop.package, workshop.artifacts, workshop.archive)

    assert packed.layers == ()
    assert "layers.json" not in packed.files
    assert "layers" not in json.loads(read_all(workshop.archive)["manifest.json"])


def test_two_models_on_one_body_have_the_same_layer(sharing, tmp_path):
    first = pack(sharing.package, sharing.artifacts, sharing.archive)
    (sharing.artifacts / "note.txt").write_text("another customer's")
    (sharing.artifacts / "body" / "weights.bin").chmod(0o755)
    sharing.pretend_measured()

    second = pack(sharing.package, sharing.artifacts, tmp_path / "second.tar.gz")

    assert first.sha256 != second.sha256
    assert first.layers == second.layers


def test_without_worker_slots_there_is_a_hook_for_the_layers(sharing):
    packed = pack(sharing.package, sharing.artifacts, sharing.archive, worker_slots=False)

    assert "sitecustomize.py" in packed.files
    assert "mmekit_runtime/layers/listing.py" in packed.files
    assert not [name for name in packed.files if name.startswith("mmekit_runtime/slots")]


PACK = """\
import os, sys
from pathlib import Path
from mmekit.archive import pack
os.umask(0o077)
for thin in (False, True):
    print(pack(Path("ridge"), Path("artifacts"), Path(f"{thin}.tar.gz"), thin=thin).sha256)
"""


def test_layers_are_the_same_whatever_the_clock_umask_and_folder(sharing, tmp_path):
    here = [
        pack(sharing.package, sharing.artifacts, sharing.archive).sha256,
        pack(sharing.package, sharing.artifacts, tmp_path / "thin.tar.gz", thin=True).sha256,
    ]
    elsewhere = tmp_path / "another place"
    shutil.copytree(sharing.package, elsewhere / "ridge", copy_function=shutil.copyfile)
    shutil.copytree(sharing.artifacts, elsewhere / "artifacts", copy_function=shutil.copyfile)
    for path in elsewhere.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1, 1))

    there = subprocess.run(
        [sys.executable, "-c", PACK],
        cwd=elsewhere,
        env={
            **os.environ,
            "TZ": "Asia/Tokyo",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        check=True,
        capture_output=True,
        text=True,
    )

    assert there.stdout.split() == here
    layers = sorted(path.name for path in (tmp_path / "layers").iterdir())
    assert sorted(path.name for path in (elsewhere / "layers").iterdir()) == layers
    for name in layers:
        file = elsewhere / "layers" / name
        assert file.read_bytes() == (tmp_path / "layers" / name).read_bytes()
        assert file.stat().st_mode & 0o777 == 0o644


def test_an_archive_with_layers_is_verified_packed_and_unpacked(sharing, tmp_path):
    pack(sharing.package, sharing.artifacts, sharing.archive)
    unpack(sharing.archive, tmp_path / "unpacked")

    assert verify(tmp_path / "unpacked") == verify(sharing.archive)


@pytest.mark.parametrize("how", ["changed", "added", "removed", "executable", "byte code"])
def test_a_layer_that_was_tampered_with_is_named(sharing, tmp_path, how):
    pack(sharing.package, sharing.artifacts, sharing.archive)
    unpack(sharing.archive, tmp_path / "unpacked")
    (layer,) = verify(tmp_path / "unpacked").layers
    folder = tmp_path / "unpacked" / layer.folder
    factor = folder / "body" / "factor.txt"
    if how == "changed":
        factor.write_text("3.0")
    elif how == "added":
        (folder / "more.py").write_text("x = 1\n")
    elif how == "removed":
        factor.unlink()
    elif how == "executable":
        factor.chmod(0o755)
    else:
        (folder / "json.pyc").write_bytes(b"x")

    with pytest.raises(
        ManifestError, match="json.pyc was added" if how == "byte code" else str(layer.sha256[:12])
    ):
        verify(tmp_path / "unpacked")


def test_byte_code_inside_of_a_packed_layer_is_an_addition(sharing, tmp_path):
    pack(sharing.package, sharing.artifacts, sharing.archive)
    unpack(sharing.archive, tmp_path / "unpacked")
    (layer,) = verify(tmp_path / "unpacked").layers
    cache = tmp_path / "unpacked" / layer.folder / "__pycache__"
    cache.mkdir()
    (cache / "body.cpython-311.pyc").write_bytes(b"x")
    with tarfile.open(tmp_path / "again.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "unpacked", arcname=".")

    with pytest.raises(ManifestError, match=r"body\.cpython-311\.pyc was added"):
        verify(tmp_path / "again.tar.gz")


@pytest.mark.parametrize("name", ["layers.json", "mmekit_layers/__init__.py"])
def test_names_that_packing_writes_are_refused(workshop, name):
    target = workshop.artifacts / name
    target.parent.mkdir(exist_ok=True)
    target.write_text("{}")

    with pytest.raises(PackageError, match="reserved name"):
        pack(workshop.package, workshop.artifacts, workshop.archive)


def test_a_name_that_no_layer_can_have_is_refused(sharing):
    (sharing.artifacts / "body" / "two\nlines.txt").write_text("x")
    sharing.pretend_measured()

    with pytest.raises(PackageError, match="lines"):
        pack(sharing.package, sharing.artifacts, sharing.archive)


# Beside the archive.


def test_a_thin_archive_names_its_layers_and_they_lie_beside_it(sharing):
    packed = pack(sharing.package, sharing.artifacts, sharing.archive, thin=True)

    files = read_all(sharing.archive)
    body, runtime = parse_layers(files["layers.json"])
    assert (body.kind, runtime.kind) == (BODY, RUNTIME)
    assert not [name for name in files if name.startswith(("layers/", "mmekit_runtime/", "body/"))]
    assert files["sitecustomize.py"]
    assert [one.inline for one in verify(sharing.archive).layers] == [False, False]
    for entry in (body, runtime):
        file = layer_file(sharing.archive, entry.sha256)
        content = read_all(file)
        assert entry.sha256 == digest_of_files(content)
        assert (entry.files, entry.bytes) == (len(content), sum(map(len, content.values())))
    assert set(read_all(layer_file(sharing.archive, body.sha256))) == {
        "body/factor.txt",
        "body/weights.bin",
        "words.vocabulary",
    }
    assert [one.sources[0].name for one in packed.layers] == ["body/factor.txt", "mmekit"]


def test_the_runtime_of_a_thin_archive_is_that_of_a_whole_one(sharing, tmp_path):
    pack(sharing.package, sharing.artifacts, sharing.archive)
    pack(sharing.package, sharing.artifacts, tmp_path / "thin.tar.gz", thin=True)

    whole, thin = read_all(sharing.archive), read_all(tmp_path / "thin.tar.gz")

    runtime = parse_layers(thin["layers.json"])[1]
    found = read_all(layer_file(tmp_path / "thin.tar.gz", runtime.sha256))
    assert found == {k: v for k, v in whole.items() if k.startswith("mmekit_runtime/")}
    assert below(thin, "mmekit_layers") == below(whole, "mmekit_runtime/layers")


def test_one_more_thin_model_brings_nothing_but_its_own(sharing, tmp_path):
    pack(sharing.package, sharing.artifacts, sharing.archive, thin=True)
    folder = sharing.archive.parent / "layers"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    (sharing.artifacts / "note.txt").write_text("another customer's")
    sharing.pretend_measured()

    packed = pack(sharing.package, sharing.artifacts, folder.parent / "b.tar.gz", thin=True)

    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert packed.size < 50_000


def test_thin_archives_are_compressed_unless_told_otherwise(sharing, tmp_path):
    sizes = {
        level: pack(
            sharing.package,
            sharing.artifacts,
            tmp_path / str(level) / "thin.tar.gz",
            thin=True,
            compress=level,
        )
        for level in (None, 0, 6)
    }

    assert sizes[None].sha256 == sizes[6].sha256
    assert sizes[0].size > 2 * sizes[6].size
    (body, _) = sizes[0].layers
    stored, small = (layer_file(sizes[one].path, body.sha256) for one in (0, 6))
    assert stored.stat().st_size > body.bytes > small.stat().st_size
    assert read_all(stored) == read_all(small)


def test_the_files_of_a_layer_keep_their_modes():
    same = [LayerFile("a", False, "00", 1), LayerFile("b", True, "00", 1)]

    assert digest_of(same) == digest_of(reversed(same))
    assert digest_of(same) != digest_of([one._replace(is_executable=False) for one in same])
