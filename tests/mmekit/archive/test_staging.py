"""A handler without a server gets what it shares with others as in a container."""

from __future__ import annotations

import json
import shutil
import tarfile
from io import BytesIO

import pytest

from mmekit.archive import layer_file, pack, unpack
from mmekit.archive.staging import staged_model
from mmekit.errors import ArchiveError, ModelLoadError
from mmekit.testing import load_handler

MODEL = """\
from mmekit_runtime import Handler


class Model(Handler):
    def load_shared(self, folder):
        assert not (folder / "model.py").exists() and not (folder / "body" / "own.txt").exists()
        return float((folder / "body" / "factor.txt").read_text())

    def load(self, folder, shared):
        assert not (folder / "body" / "factor.txt").exists() and not (folder / "layers").exists()
        return shared * float((folder / "body" / "own.txt").read_text())

    def predict(self, model, rows, parameters):
        return rows.sum(axis=1) * model


handle = Model()
"""


@pytest.fixture(name="sharing")
def a_package_with_a_body(workshop):
    workshop.write("model.py", MODEL)
    workshop.write("serving.properties", "engine=Python\noption.shared=body/factor.txt\n")
    (workshop.artifacts / "body").mkdir()
    (workshop.artifacts / "body" / "factor.txt").write_text("2.0")
    (workshop.artifacts / "body" / "own.txt").write_text("10.0")
    workshop.pretend_measured()
    return workshop


def answer_of(*sources):
    with load_handler(*sources) as model:
        return model.invoke(json.dumps({"instances": [[1.0, 2.0]]})).json()["predictions"]


def test_a_package_has_its_shared_files_apart(sharing):
    assert answer_of(sharing.package, sharing.artifacts) == [60.0]


def test_an_archive_has_them_too_packed_or_unpacked(sharing, tmp_path):
    pack(sharing.package, sharing.artifacts, sharing.archive)
    unpack(sharing.archive, tmp_path / "unpacked")

    assert answer_of(sharing.archive) == [60.0]
    assert answer_of(tmp_path / "unpacked") == [60.0]
    assert list((tmp_path / "unpacked" / "layers").iterdir())  # nothing of the user's is moved


def test_a_thin_archive_takes_its_layers_from_beside_it(sharing, tmp_path):
    packed = pack(sharing.package, sharing.artifacts, sharing.archive, thin=True)

    assert answer_of(sharing.archive) == [60.0]

    alone = shutil.copy(sharing.archive, tmp_path)
    with pytest.raises(ArchiveError, match=r"\(body, 0\.0 MB: body/factor\.txt\) is missing") as it:
        answer_of(alone)
    assert it.value.where == str(layer_file(tmp_path / "ridge.tar.gz", packed.layers[0].sha256))
    assert "--thin" in it.value.remedy


def body_of(packed, files):
    """Write files in the place of the body of a thin archive."""
    file = layer_file(packed.path, packed.layers[0].sha256)
    with tarfile.open(file, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return file


def test_a_layer_beside_a_thin_archive_with_other_bytes_is_not_run(sharing):
    packed = pack(sharing.package, sharing.artifacts, sharing.archive, thin=True)
    file = body_of(packed, {"body/factor.txt": b"3.0"})

    with pytest.raises(ArchiveError, match=r"holds another layer, [0-9a-f]{12}") as caught:
        answer_of(sharing.archive)

    assert caught.value.where == str(file)
    assert "remove the file" in caught.value.remedy


def test_a_layer_with_a_link_in_it_is_not_run(sharing):
    packed = pack(sharing.package, sharing.artifacts, sharing.archive, thin=True)
    file = layer_file(packed.path, packed.layers[0].sha256)
    with tarfile.open(file, "w:gz") as tar:
        target, link = tarfile.TarInfo("body/other.txt"), tarfile.TarInfo("body/factor.txt")
        target.size, link.type, link.linkname = 3, tarfile.SYMTYPE, "other.txt"
        tar.addfile(target, BytesIO(b"2.0"))
        tar.addfile(link)

    with pytest.raises(ArchiveError, match=r"is no plain file"):
        answer_of(sharing.archive)


def test_what_python_had_compiled_in_a_layer_is_not_run(sharing, tmp_path):
    packed = pack(sharing.package, sharing.artifacts, sharing.archive, thin=True)
    stale = {"body/__pycache__/a.cpython-311.pyc": b"evil", "b.pyc": b"evil"}
    body_of(packed, {"body/factor.txt": b"2.0", **stale})

    (tmp_path / "scratch").mkdir()

    staged = staged_model((sharing.archive,), tmp_path / "scratch")

    assert [path.name for path in staged.shared.rglob("*.*")] == ["factor.txt"]


def test_an_unpacked_archive_whose_layer_was_changed_is_not_run_as_on_an_instance(
    sharing, tmp_path
):
    pack(sharing.package, sharing.artifacts, sharing.archive)
    unpack(sharing.archive, tmp_path / "unpacked")
    (layer,) = (tmp_path / "unpacked" / "layers").iterdir()
    (layer / "body" / "factor.txt").write_text("3.0")

    with pytest.raises(ArchiveError, match="holds another layer") as caught:
        answer_of(tmp_path / "unpacked")

    assert caught.value.where == str(layer)


def test_the_folder_of_shared_files_is_said_while_the_model_runs_and_not_afterwards(
    sharing, monkeypatch
):
    monkeypatch.delenv("MMEKIT_SHARED_FOLDER", raising=False)
    assert answer_of(sharing.package, sharing.artifacts) == [60.0]

    sharing.write("serving.properties", "engine=Python\n")
    with pytest.raises(ModelLoadError, match=r"option\.shared"):
        answer_of(sharing.package, sharing.artifacts)
