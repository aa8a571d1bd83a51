"""The bytes of an archive are a function of names and contents."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
import zlib

import pytest

from mmekit.archive.tarball import GzipWriter, TarWriter, _ustar, open_tarball
from mmekit.errors import ArchiveError, UnsafeArchiveError

FILES = {
    "model.py": b"handle = None\n",
    "empty": b"",
    "a/" * 40 + "deep.txt": b"deep",
    "folder/" + "n" * 120: b"long",
    "folder/\u00e9\u00e8.txt": b"not ASCII",
    "large.bin": bytes(range(256)) * 1024,
}
# Changing this changes every archive that anybody ever made.
GOLDEN = "22ca6437a1a4f5a39b2841c7934210e1437feca97213e81e464003836463ba06"


def write(files, level=None):
    target = io.BytesIO()
    compressed = GzipWriter(target, level)
    tar = TarWriter(compressed)
    tar.add_folder("folder")
    for name, content in files.items():
        tar.add_file(name, len(content), io.BytesIO(content))
    tar.close()
    compressed.close()
    return target.getvalue()


@pytest.mark.parametrize("level", [None, 1, 9])
def test_what_is_written_is_what_python_reads(level):
    with tarfile.open(fileobj=io.BytesIO(write(FILES, level)), mode="r:gz") as tar:
        files = [member for member in tar if member.isfile()]
        read = {member.name: tar.extractfile(member).read() for member in files}
        folder = tar.getmember("folder")

    assert read == FILES
    assert {(m.mode, m.uid, m.gid, m.mtime, m.uname) for m in files} == {(0o644, 0, 0, 0, "")}
    assert folder.mode == 0o755


def test_what_is_written_is_what_tar_reads(tmp_path):
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(write(FILES))

    subprocess.run(["tar", "xzf", archive, "-C", tmp_path], check=True)

    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES


def test_the_bytes_are_the_same_on_every_machine():
    assert hashlib.sha256(write(FILES)).hexdigest() == GOLDEN


def test_the_bytes_do_not_depend_on_how_the_content_arrives():
    class Dripping(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 777) if size > 0 else 777)

    content = FILES["large.bin"]
    outcomes = []
    for source in (io.BytesIO(content), Dripping(content)):
        target = io.BytesIO()
        compressed = GzipWriter(target)
        TarWriter(compressed).add_file("large.bin", len(content), source)
        compressed.close()
        outcomes.append(target.getvalue())

    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("size", [0, 1, 65534, 65535, 65536, 131070, 131071])
def test_gzip_of_every_length_around_a_block_is_whole(size):
    target = io.BytesIO()
    writer = GzipWriter(target)
    writer.write(b"x" * size)
    writer.close()

    assert gzip.decompress(target.getvalue()) == b"x" * size


def test_a_file_beyond_8_gib_has_its_size_in_a_pax_header():
    written = []

    class Sink:
        def write(self, data):
            written.append(bytes(data))

    size = 9 << 30
    with pytest.raises(ArchiveError, match="changed while it was packed"):
        TarWriter(Sink()).add_file("huge.bin", size, io.BytesIO(b""))

    assert b"size=%d\n" % size in written[1]
    assert tarfile.TarInfo.frombuf(written[2], "utf-8", "strict").name == "huge.bin"


def test_a_ustar_header_has_a_right_checksum():
    info = tarfile.TarInfo.frombuf(_ustar(b"p", b"n", 5, 0o644, b"0"), "utf-8", "strict")

    assert (info.name, info.size) == ("p/n", 5)


def test_a_damaged_checksum_is_noticed(tmp_path):
    data = bytearray(write({"a": b"1234"}))
    data[-8] ^= 1
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(data)

    with pytest.raises(ArchiveError, match="damaged"), open_tarball(archive) as tar:
        list(tar)


def test_a_header_that_claims_a_lot_is_refused_before_memory_is_taken(tmp_path):
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(_ustar(b"", b"pax", 8 << 29, 0o644, b"x") + bytes(1024)))

    with pytest.raises(UnsafeArchiveError, match="claims"), open_tarball(archive) as tar:
        list(tar)


def test_zlib_is_used_only_when_asked_for():
    assert len(write({"a": bytes(100_000)})) > 100_000
    assert len(write({"a": bytes(100_000)}, 6)) < 1_000
    assert zlib.decompress(write({"a": b""})[10:-8], -15)[:1] == b"f"
