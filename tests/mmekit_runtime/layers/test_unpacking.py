"""Tars that packing did not write: nothing of them is written elsewhere, and not too much."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from mmekit_runtime.layers.listing import LayerEntry, LayerError
from mmekit_runtime.layers.unpacking import TruncatedLayerError, unpack
from tests.signed_objects import tar_of

LONG = "/".join(["folder" * 10] * 6) + "/äöü.py"


def unpacked(data, folder, size=1000, files=4):
    entry = LayerEntry("0" * 64, "libraries", size, files, "any")
    folder.mkdir(exist_ok=True)
    unpack(io.BytesIO(data), str(folder), entry)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def tar_with(*members, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return gzip.compress(out.getvalue())


def member(name, size=0, **fields):
    made = tarfile.TarInfo(name)
    made.size = size
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def test_the_files_of_a_layer_are_written_with_their_names(tmp_path):
    files = {"a/b.py": b"x" * 600, LONG: b"y", "./c": b""}

    found = unpacked(tar_of(files), tmp_path / "out")

    assert found == {"a/b.py": b"x" * 600, LONG: b"y", "c": b""}


def test_of_a_mode_stays_whether_the_owner_may_execute(tmp_path):
    unpacked(tar_of({"run": b""}, mode=0o4777), tmp_path / "out")
    unpacked(tar_of({"file": b""}, mode=0o666), tmp_path / "out")

    assert (tmp_path / "out" / "run").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "out" / "file").stat().st_mode & 0o7777 == 0o644


def test_folders_in_it_do_no_harm(tmp_path):
    data = tar_with(member("a/", type=tarfile.DIRTYPE), member("a/b"))

    assert unpacked(data, tmp_path / "out") == {"a/b": b""}


def test_what_python_has_compiled_is_not_taken_from_it(tmp_path):
    files = {"a.py": b"1", "__pycache__/a.cpython-311.pyc": b"evil", "b.pyc": b"evil"}

    assert unpacked(tar_of(files), tmp_path / "out") == {"a.py": b"1"}


@pytest.mark.parametrize("name", ["../out2/x", "/etc/x", "a/../../x", "a//x", ".", "..", "a/."])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(LayerError, match="leads out"):
        unpacked(tar_of({name: b"x"}), tmp_path / "out")

    assert list(tmp_path.rglob("x")) == []


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.GNUTYPE_SPARSE,
        tarfile.GNUTYPE_LONGLINK,
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path, kind):
    data = tar_with(member("a", type=kind, linkname="/etc/passwd"))

    with pytest.raises(LayerError, match=r"no plain file|a number is none"):
        unpacked(data, tmp_path / "out")


def test_more_bytes_than_layers_json_says_are_refused_before_they_are_written(tmp_path):
    data = tar_with(member("a", 600), member("b", 600))

    with pytest.raises(LayerError, match="more in it than layers"):
        unpacked(data, tmp_path / "out")

    assert not (tmp_path / "out" / "b").exists()


def test_more_files_than_layers_json_says_are_refused(tmp_path):
    with pytest.raises(LayerError, match="more in it than layers"):
        unpacked(tar_of(dict.fromkeys("abcde", b"")), tmp_path / "out")


def test_headers_without_end_are_refused(tmp_path):
    folders = (member(f"{number}/", type=tarfile.DIRTYPE) for number in range(2000))

    with pytest.raises(LayerError, match="too many members"):
        unpacked(tar_with(*folders), tmp_path / "out")


def test_a_pax_header_that_would_fill_the_memory_is_refused(tmp_path):
    data = tar_with(member("a", pax_headers={"comment": "x" * 100_000}))

    with pytest.raises(LayerError, match="pax header is too long"):
        unpacked(data, tmp_path / "out")


def test_a_pax_header_cannot_make_a_file_larger_than_its_size(tmp_path):
    data = tar_with(member("a", 10, pax_headers={"size": "999999"}))

    with pytest.raises(LayerError, match="more in it than layers"):
        unpacked(data, tmp_path / "out")


@pytest.mark.parametrize("second", ["a", "a/b"])
def test_a_file_that_is_there_twice_is_refused(tmp_path, second):
    with pytest.raises(LayerError, match="twice"):
        unpacked(tar_with(member("a"), member(second)), tmp_path / "out")


def test_bytes_that_end_too_early_are_told_from_damage(tmp_path):
    data = tar_of({"a": bytes(range(256)) * 3})

    for length in (0, 5, 20, len(data) // 2):
        with pytest.raises(TruncatedLayerError):
            unpacked(data[:length], tmp_path / f"out{length}")


def test_garbage_is_no_layer(tmp_path):
    whole = gzip.decompress(tar_of({"a": b"x"}))
    damaged = bytearray(whole)
    damaged[0] ^= 1

    for data, why in (
        (b"<html>not found</html>", "no gzip"),
        (gzip.compress(b"x" * 512), "a number is none"),
        (gzip.compress(bytes(damaged)), "checksum"),
        (gzip.compress(whole[:512]), "ends too early"),
    ):
        with pytest.raises(LayerError, match=why):
            unpacked(data, tmp_path / why.replace(" ", ""))
