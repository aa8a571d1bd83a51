"""Whatever is in an archive: it is unpacked inside of its folder and its limits, or refused."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmekit.archive import unpack
from mmekit.archive.budget import Limits
from mmekit.archive.manifest import verify
from mmekit.archive.tar_members import pax_record
from mmekit.archive.tarball import open_tarball
from mmekit.errors import ArchiveError

thoroughly = settings.get_profile("fuzz")

LIMITS = Limits(total_bytes=20_000, files=20, tail_bytes=8_000)

parts = st.sampled_from(["a", "b", "..", ".", "", "\xe9", "\n", "\udc80", "c" * 99, "d" * 256])
names = st.one_of(
    st.lists(parts, max_size=5).map("/".join),
    st.sampled_from(["/etc/x", "a/" * 400, "manifest.json", "model.py", "../outside", "a\0b"]),
)
# A file (twice), links, devices, a folder, a pipe, GNU's sparse file, and none of them.
kinds = st.sampled_from([b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"Z"])
formats = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
plain_keys = st.sampled_from(["path", "linkpath", "size", "mtime", "uid", "hdrcharset", "comment"])
sparse_keys = st.sampled_from(["map", "size", "realsize", "major", "minor", "name", "numblocks"])
pax_keys = st.one_of(plain_keys, sparse_keys.map("GNU.sparse.{}".format))
pax_values = st.one_of(
    names.map(lambda name: name.encode("utf-8", "surrogateescape").decode("latin-1")),
    st.sampled_from(["0", "-1", "1", "99999999999", "inf", "nan", "1,2", "0,1,5,9", "BINARY", ""]),
)


@st.composite
def tars(draw):
    """A tar whose members may be anything that a header can say."""
    out = io.BytesIO()
    for _ in range(draw(st.integers(0, 6))):
        info = tarfile.TarInfo(draw(names))
        info.type = draw(kinds)
        info.linkname = draw(names)
        info.mode = draw(st.sampled_from([0, 0o644, 0o755, 0o7777]))
        content = draw(st.sampled_from([b"", b"x", b"x" * 600, b"x" * 9000]))
        info.size = draw(st.sampled_from([len(content), len(content), 0, 5, 10**6, 8**11 - 1]))
        info.pax_headers = draw(st.dictionaries(pax_keys, pax_values, max_size=2))
        try:
            header = info.tobuf(draw(formats), "utf-8", "surrogateescape")
        except ValueError:
            continue  # this format cannot say it
        out.write(header + content + bytes(-len(content) % 512))
    out.write(bytes(1024))
    return out.getvalue()


@st.composite
def damaged(draw, whole):
    """Bytes of which some were changed, lost or repeated."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 600)))
        data[at:end] = draw(st.one_of(st.binary(max_size=12), st.just(bytes(data[:512]))))
    return bytes(data)


archives = st.one_of(
    st.binary(max_size=64),
    damaged(tars()).map(lambda tar: gzip.compress(tar, 1, mtime=0)),
    damaged(tars().map(lambda tar: gzip.compress(tar, 1, mtime=0))),
)


@thoroughly
@given(archives)
def test_no_archive_leaves_its_folder_or_its_limits(tmp_path, data):
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        root = Path(name)
        archive, place, outside = root / "model.tar.gz", root / "place", root / "outside"
        archive.write_bytes(data)
        outside.write_bytes(b"untouched")
        place.mkdir()
        try:
            unpack(archive, place / "model", LIMITS)
        except ArchiveError:
            assert list(place.iterdir()) == []
        else:
            check(place / "model")
        assert sorted(root.iterdir()) == [archive, outside, place]
        assert outside.read_bytes() == b"untouched"


def check(model):
    """See that what was unpacked is inside, within the limits, and no special file."""
    found = list(model.rglob("*"))
    assert 1 <= len(found) <= LIMITS.files
    assert all(path.resolve().is_relative_to(model.resolve()) for path in found)
    real = [path.lstat() for path in (model, *found) if not path.is_symlink()]
    assert all(stat.S_ISDIR(one.st_mode) or stat.S_ISREG(one.st_mode) for one in real)
    assert {stat.S_IMODE(one.st_mode) for one in real} <= {0o644, 0o755}
    sizes = {one.st_ino: one.st_size for one in real if stat.S_ISREG(one.st_mode)}
    assert sum(sizes.values()) <= LIMITS.total_bytes


@thoroughly
@given(archives)
def test_no_archive_is_verified_by_mistake(tmp_path, data):
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(data)
    with pytest.raises(ArchiveError):
        verify(archive)


def test_folders_that_names_imply_count_as_well(tmp_path):
    info = tarfile.TarInfo("a/" * 30 + "file")
    data = gzip.compress(info.tobuf() + bytes(1024))
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(data)

    with pytest.raises(ArchiveError, match="more than 20"):
        unpack(archive, tmp_path / "model", LIMITS)


class Grammar:
    """Headers of a tar as bytes: each may say anything of the next, and of what follows it."""

    above = (0, 1, 5, 511, 512, 513, 9000, 10**6, 8**11 - 1, 8**11, 1 << 60, (1 << 87) - 1)
    numbers = st.sampled_from([*above, -1, -512, -513, -1024, -(1 << 60)])
    keys = st.one_of(pax_keys, st.sampled_from(["gname", "a=b", "", "k" * 2000]))
    lengths = st.sampled_from([None, None, None, None, 0, 1, 7, 999, 10**12])
    chains = st.integers(1, 12)
    contents = st.sampled_from([b"", b"x" * 40, bytes(512), b"1\n0\n512\n", b"9" * 700])

    @staticmethod
    def block(data):
        return data + bytes(-len(data) % 512)

    @classmethod
    def header(cls, kind, size, name="n", link=""):
        """Return a header with a right checksum; sizes are octal or in base 256, as they fit."""
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        data = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")[-512:])
        octal = 0 <= size < 8**11
        data[124:136] = b"%011o\0" % size if octal else tarfile.itn(size, 12, tarfile.GNU_FORMAT)
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data)
        return bytes(data)

    @classmethod
    def record(cls, key, value, length):
        said = pax_record(key.encode(), value.encode("utf-8", "surrogateescape"))
        return said if length is None else b"%d " % length + said.partition(b" ")[2]

    @classmethod
    def extended(cls):
        """Pax headers: of one member, of all, and Solaris's, which claim their size or another."""
        records = st.lists(st.builds(cls.record, cls.keys, pax_values, cls.lengths), max_size=4)
        sizes = st.one_of(st.none(), st.none(), cls.numbers)

        def made(kind, lines, size):
            data = b"".join(lines)
            return cls.header(kind, len(data) if size is None else size) + cls.block(data)

        return st.builds(made, st.sampled_from([b"x", b"x", b"g", b"X"]), records, sizes)

    @classmethod
    def long(cls):
        """GNU's long names and links."""

        def made(kind, name, size):
            data = name.encode("utf-8", "surrogateescape") + b"\0"
            return cls.header(kind, len(data) if size is None else size) + cls.block(data)

        sizes = st.one_of(st.none(), st.none(), cls.numbers)
        return st.builds(made, st.sampled_from([b"L", b"K"]), names, sizes)

    @classmethod
    def members(cls):
        short = st.sampled_from(["a", "b", "a/b", "manifest.json", "model.py"])

        def made(kind, size, name, content):
            said = len(content) if size is None else size
            return cls.header(kind, said, name, name) + cls.block(content)

        return st.builds(made, kinds, st.one_of(st.none(), cls.numbers), short, cls.contents)

    @classmethod
    def tars(cls):
        """Members, each after a chain of headers; then the end, or none, and what follows it."""
        before = st.one_of(cls.extended(), cls.long())
        repeated = st.builds(lambda one, times: one * times, before, cls.chains)
        parts = st.lists(st.one_of(before, repeated, cls.members(), cls.members()), max_size=8)
        ends = st.sampled_from([b"", bytes(512), bytes(1024), bytes(1024) + b"x" * 9000])
        return st.builds(lambda found, end: b"".join(found) + end, parts, ends)


@thoroughly
@given(st.one_of(Grammar.tars(), damaged(Grammar.tars())))
def test_no_headers_cost_more_than_the_budget(tmp_path, tar):
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        root = Path(name)
        archive, place = root / "model.tar.gz", root / "place"
        archive.write_bytes(gzip.compress(tar, 1, mtime=0))
        place.mkdir()
        try:
            unpack(archive, place / "model", LIMITS)
        except ArchiveError:
            assert list(place.iterdir()) == []
        else:
            check(place / "model")
        see_cost(archive, len(tar))


@thoroughly
@given(
    st.lists(st.sampled_from([0, 1, 511, 512, 513, 3000]), min_size=1, max_size=5),
    st.integers(0, 2**20),
    st.integers(1, 255),
    st.booleans(),
)
def test_no_damaged_archive_is_a_shorter_one(tmp_path, sizes, place, change, is_cut):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, size in enumerate(sizes):
            info = tarfile.TarInfo(f"{number}/caf\xe9" if number % 2 else f"{number}")
            info.size = size
            tar.addfile(info, io.BytesIO(b"x" * size))
        end = tar.offset
    data = bytearray(out.getvalue())
    place %= end
    data[place] ^= change
    if is_cut:
        del data[place // 512 * 512 + 100 :]
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        archive = Path(name) / "model.tar.gz"
        archive.write_bytes(gzip.compress(bytes(data), 1, mtime=0))
        try:
            unpack(archive, Path(name) / "model")
        except ArchiveError:
            return
        found = [one for one in (Path(name) / "model").rglob("*") if one.is_file()]
        assert len(found) == len(sizes)


def see_cost(archive, size):
    """See that whoever reads on, whatever the headers say, reads each byte once and keeps few."""
    budget = None
    try:
        with open_tarball(archive, limits=LIMITS) as opened:
            budget = opened.budget
            for member in opened:
                assert member.size >= 0
                assert len(member.pax_headers) < 16
                assert opened.members == []
                source = opened.extractfile(member) if member.isreg() else None
                while source is not None and source.read(512):
                    pass
    except ArchiveError:
        pass
    if budget is not None:
        assert budget.unpacked <= size
        assert budget.members <= LIMITS.files + 1
        assert budget.tail <= LIMITS.tail_bytes + size
