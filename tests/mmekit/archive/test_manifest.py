"""A manifest holds for every file, or says which it does not hold for."""

from __future__ import annotations

import shutil
import tarfile

import pytest

from mmekit.archive import pack, read_manifest, unpack, verify
from mmekit.errors import ManifestError


@pytest.fixture
def unpacked(workshop, tmp_path):
    workshop.pretend_measured()
    pack(workshop.package, workshop.artifacts, workshop.archive)
    unpack(workshop.archive, tmp_path / "model")
    return tmp_path / "model"


def repack(folder, archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, ".")
    return archive


def test_untouched_files_are_what_the_manifest_says(unpacked, tmp_path):
    manifest = verify(unpacked)

    assert manifest == read_manifest(unpacked)
    assert verify(repack(unpacked, tmp_path / "again.tar.gz")) == manifest


def test_byte_code_that_a_server_left_is_no_difference(unpacked):
    (unpacked / "__pycache__").mkdir()
    (unpacked / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"x")

    assert verify(unpacked).name == "ridge"


def test_every_difference_is_named(unpacked, tmp_path):
    (unpacked / "model.py").write_text("handle = 1\n")
    (unpacked / "model.joblib").unlink()
    (unpacked / "extra.py").write_text("")

    for place in (unpacked, repack(unpacked, tmp_path / "changed.tar.gz")):
        with pytest.raises(ManifestError) as caught:
            verify(place)
        assert "model.joblib is missing; extra.py was added; model.py was changed" in str(
            caught.value
        )


def test_a_folder_without_manifest_has_none_and_cannot_be_verified(unpacked):
    (unpacked / "manifest.json").unlink()

    assert read_manifest(unpacked) is None
    with pytest.raises(ManifestError, match="no manifest"):
        verify(unpacked)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "\xff"])
def test_a_manifest_of_another_make_is_named(unpacked, text):
    (unpacked / "manifest.json").write_text(text)

    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(unpacked)


def test_an_archive_survives_the_folder_that_it_was_made_of(workshop, unpacked):
    shutil.rmtree(workshop.package)

    assert verify(workshop.archive).measured.libraries["scikit-learn"] == "1.7.2"
