"""What an archive makes us do is counted and bounded, whatever it says and whoever reads it."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mmekit.archive import Limits, check, describe, tarball, unpack, verify
from mmekit.archive.budget import Budget
from mmekit.archive.tar_members import pax_record
from mmekit.archive.tarball import open_tarball
from mmekit.errors import ArchiveError, BudgetError, UnsafeArchiveError

MIB = 1 << 20
END = bytes(1024)
LIMITS = Limits()
FEW = replace(
    LIMITS,
    total_bytes=2 * MIB,
    files=50,
    ratio_from_bytes=4 * MIB,
    header_bytes=256 << 10,
    member_header_bytes=64 << 10,
    tail_bytes=64 << 10,
)


def header(name, kind=b"0", size=0, **more):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for attribute, value in more.items():
        setattr(info, attribute, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def block(data):
    return data + bytes(-len(data) % 512)


def file(name, data=b""):
    return header(name, size=len(data)) + block(data)


def pax(data, kind=b"x"):
    return header("pax", kind, len(data)) + block(data)


def records(**values):
    return b"".join(pax_record(k.encode(), v) for k, v in values.items())


def packed(tar, level=9):
    return gzip.compress(tar, level, mtime=0)


def named(name_bytes):
    """Return a gzip of nothing whose header holds a long file name."""
    return b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * name_bytes + b"\0" + packed(END)[10:]


def stored_blocks(count):
    """Return a gzip of many deflate blocks with nothing in them, and then nothing."""
    return packed(b"")[:10] + b"\0\0\0\xff\xff" * count + b"\3\0" + bytes(8)


MODEL = file("model.py", b"handle = None\n")
MANY_RECORDS = b"".join(pax_record(b"k%d" % number, b"v") for number in range(9000))

# What each does is in its name; and the limit that stops it.
BREACHES = {
    "data behind a folder": (packed(MODEL + header("f", b"5", 9 * MIB) + bytes(9 * MIB)), "tail"),
    "data behind a link": (packed(header("f", b"2", 9 * MIB) + bytes(9 * MIB)), "tail"),
    "data behind the end": (packed(MODEL + END + bytes(9 * MIB)), "tail"),
    "anything behind the end": (packed(MODEL + END + b"x" * 9 * MIB), "tail"),
    "data of an unknown type": (packed(header("f", b"Z", 9 * MIB) + bytes(9 * MIB)), "read_bytes"),
    "data of a thousand types": (packed((header("f", b"Z", 9000) + bytes(9216)) * 1000), "files"),
    "a file that is large": (packed(header("f", size=9 * MIB) + bytes(9 * MIB)), "total_bytes"),
    "a size in base 256": (packed(header("f", size=1 << 60)), "total_bytes"),
    "a size in a pax header": (packed(pax(records(size=b"9" * 18)) + header("f")), "total_bytes"),
    "empty members": (packed(b"".join(header(f"f{n}") for n in range(60))), "files"),
    "folders": (packed(b"".join(header(f"f{n}/", b"5") for n in range(60))), "files"),
    "duplicates": (packed(file("a", b"x" * 600) * 60), "files"),
    "a large pax header": (packed(pax(MANY_RECORDS) + MODEL), "member_header_bytes"),
    "a large global header": (packed(pax(MANY_RECORDS, b"g") + MODEL), "member_header_bytes"),
    "a long name": (packed(header("n", b"L", 1 * MIB) + bytes(MIB)), "member_header_bytes"),
    "a long link": (packed(header("n", b"K", 1 * MIB) + bytes(MIB)), "member_header_bytes"),
    "many headers": (packed((pax(records(a=b"x" * 50_000)) + MODEL) * 9), "header_bytes"),
    "a chain of pax headers": (packed(pax(records(a=b"b")) * 2000 + MODEL), "chain"),
    "a chain of global headers": (packed(pax(records(a=b"b"), b"g") * 2000 + MODEL), "chain"),
    "a chain of long names": (packed((header("n", b"L", 2) + block(b"n")) * 2000), "chain"),
    "a chain of long links": (packed((header("n", b"K", 2) + block(b"n")) * 2000), "chain"),
    "a long file name in gzip": (named(9 * MIB), "packed"),
    "empty gzip streams": (packed(b"") * 100_000, "packed"),
    "tiny gzip streams": (packed(b"\0") * 100_000, "packed"),
    "zeros between gzip streams": (packed(MODEL + END) + bytes(9 * MIB), "packed"),
    "empty deflate blocks": (stored_blocks(1 * MIB), "packed"),
}
# What makes no sense, or is damaged.
NONSENSE = {
    "a negative size": packed(header("f", size=-512) + MODEL),
    "a negative size of a pax header": packed(header("p", b"x", -512) + MODEL),
    "a negative size in a pax header": packed(pax(records(size=b"-512")) + MODEL),
    "a negative size of an unknown type": packed(header("f", b"Z", -1024) * 3),
    "a negative size of a folder": packed(header("f", b"5", -512) * 3),
    "a global name": packed(pax(records(path=b"a"), b"g") + MODEL),
    "a global size": packed(pax(records(size=b"5"), b"g") + MODEL),
    "a global sparse map": packed(pax(b"29 GNU.sparse.map=0,1,2,3,4\n", b"g") + MODEL),
    "a record that is none": packed(pax(b"x" * 40) + MODEL),
    "a record beyond the header": packed(pax(b"999 path=a\n") + MODEL),
    "a record of no length": packed(pax(b"0 path=a\n") + MODEL),
    "a number of many digits": packed(pax(records(size=b"1" * 5000)) + MODEL),
    "a sparse map of many digits": packed(
        pax(pax_record(b"GNU.sparse.map", b"1" * 50_000)) + MODEL
    ),
    "a very long name": packed(header("n", b"L", 9000) + block(b"n" * 9000) + MODEL),
    "a very long name in pax": packed(pax(records(path=b"n" * 9000)) + MODEL),
    "a sparse file without its map": packed(header("f", b"S")[:482] + b"\1" + bytes(29)),
    "nothing": b"",
    "a gzip of nothing": packed(b""),
    "only an end of gzip": packed(MODEL + END)[-8:],
    "a wrong length": packed(MODEL + END)[:-1] + b"\x7f",
    "garbage behind gzip": packed(MODEL + END) + b"garbage",
    "a later header that is damaged": packed(MODEL + b"x" + file("b")[1:] + END),
    "a later header that is cut off": packed(MODEL + file("b")[:300]),
    "a later header of other numbers": packed(MODEL + file("b").replace(b"0000644", b"000o644")),
    "what is no header behind a member": packed(MODEL + b"x" * 512 + MODEL + END),
    "data behind a folder that is read as a header": packed(header("f", b"5", 3) + block(b"abc")),
    "a member behind the end": packed(MODEL + END + file("b") + END),
    "a member behind one empty block": packed(MODEL + bytes(512) + file("b") + END),
    "two archives in one file": packed(MODEL + END) + packed(file("b") + END),
}


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "model.tar.gz"


def read(path, limits):
    """Read everything, as verifying does, and return what it cost."""
    with open_tarball(path, limits=limits) as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isreg() else None
            while source is not None and source.read(1 << 18):
                pass
    return tar.budget


@pytest.mark.parametrize(("data", "limit"), BREACHES.values(), ids=BREACHES.keys())
def test_a_breach_says_which_limit_and_leaves_nothing(archive, tmp_path, data, limit):
    archive.write_bytes(data)
    for attempt in (lambda: read(archive, FEW), lambda: unpack(archive, tmp_path / "m", FEW)):
        with pytest.raises(UnsafeArchiveError) as caught:
            attempt()
        assert caught.value.where == str(archive)
        assert caught.value.remedy
        if isinstance(caught.value, BudgetError):
            assert caught.value.limit.startswith(limit)
            assert any(digit.isdigit() for digit in caught.value.what)
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_an_error_of_ours_and_leaves_nothing(archive, tmp_path, data):
    archive.write_bytes(data)
    for attempt in (
        lambda: read(archive, FEW),
        lambda: unpack(archive, tmp_path / "m"),
        lambda: verify(archive),
        lambda: describe(archive),
    ):
        with pytest.raises(ArchiveError):
            attempt()
    assert list(tmp_path.iterdir()) == [archive]
    assert {one.rule for one in check(archive)} <= {"unsafe-archive", "damaged-archive"}


def test_seconds_are_a_limit(archive):
    archive.write_bytes(packed(MODEL + END))

    with pytest.raises(BudgetError, match="more than 0 seconds"):
        read(archive, replace(LIMITS, seconds=0))


def test_what_is_kept_is_a_limit(archive):
    archive.write_bytes(packed(file("signature.json", bytes(3 * MIB)) * 20 + END))

    with pytest.raises(BudgetError, match="kept in memory"):
        describe(archive)


def test_records_that_nobody_acts_upon_are_not_copied_for_every_member(archive):
    many = pax(b"".join(pax_record(b"k%d" % number, b"v") for number in range(5000)), b"g")
    archive.write_bytes(packed(many + b"".join(header(f"f{n}") for n in range(3000)) + END))

    tracemalloc.start()
    try:
        with open_tarball(archive) as tar:
            assert sum(len(member.pax_headers) for member in tar) <= 3000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB


def test_digits_are_read_once(archive):
    digits = pax(pax_record(b"comment", b"1" * 900_000))
    archive.write_bytes(packed((digits + MODEL) * 20 + END))

    assert read(archive, LIMITS).members == 20  # minutes, where each digit begins a search


class TestHonest:
    """What is far from ordinary and still honest comes out as before."""

    def test_pax_names_and_attributes(self, archive, tmp_path):
        with tarfile.open(archive, "w:gz", pax_headers={"comment": "of a commit"}) as tar:
            for name in ("\xe9" * 100, "d/" * 120 + "f", "a" * 150):
                info = tarfile.TarInfo(name)
                info.pax_headers = {"SCHILY.xattr.user.note": "n" * 60_000, "mtime": "1.5"}
                info.size = 3
                tar.addfile(info, io.BytesIO(b"abc"))
        unpack(archive, tmp_path / "m")

        found = {p.relative_to(tmp_path / "m").as_posix() for p in (tmp_path / "m").rglob("*")}
        assert {"\xe9" * 100, "d/" * 120 + "f", "a" * 150} <= found

    def test_a_name_in_the_charset_of_its_maker(self, archive, tmp_path):
        data = records(hdrcharset=b"BINARY", path=b"caf\xe9")
        archive.write_bytes(packed(pax(data) + file("x", b"1") + END))
        unpack(archive, tmp_path / "m")

        assert [path.read_bytes() for path in (tmp_path / "m").iterdir()] == [b"1"]

    @pytest.mark.parametrize("of", ["0.0", "0.1", "1.0"])
    def test_a_sparse_file(self, archive, tmp_path, of):
        parts = [(512, 512), (4096, 512)]
        data = b"a" * 512 + b"b" * 512
        said = [("major", of[0]), ("minor", of[2])] if of == "1.0" else []
        said += [("realsize" if of == "1.0" else "size", "8192")]
        if of == "0.0":
            said += [("numblocks", "2")]
            for offset, size in parts:
                said += [("offset", str(offset)), ("numbytes", str(size))]
        elif of == "0.1":
            said += [("map", ",".join(str(n) for part in parts for n in part))]
        else:
            data = block(b"2\n512\n512\n4096\n512\n") + data
        head = b"".join(pax_record(b"GNU.sparse." + k.encode(), v.encode()) for k, v in said)
        archive.write_bytes(packed(pax(head) + file("weights", data) + MODEL + END))
        unpack(archive, tmp_path / "m")

        whole = (tmp_path / "m" / "weights").read_bytes()
        assert (len(whole), whole[512:1024], whole[4096:4608]) == (
            8192,
            data[-1024:-512],
            b"b" * 512,
        )
        assert (tmp_path / "m" / "model.py").is_file()

    def test_several_gzip_streams_and_padding(self, archive, tmp_path):
        tar = MODEL + file("b", bytes(range(256)) * 5000) + END
        cut = [tar[at : at + 60_000] for at in range(0, len(tar), 60_000)]
        archive.write_bytes(b"".join(packed(piece) + bytes(700) for piece in cut))
        unpack(archive, tmp_path / "m")

        assert (tmp_path / "m" / "b").read_bytes() == bytes(range(256)) * 5000

    def test_every_byte_is_read_once(self, archive):
        tar = b"".join(file(f"f{n}", bytes([n]) * n * 100) for n in range(200)) + END
        archive.write_bytes(packed(tar))
        cost = read(archive, LIMITS)

        assert (cost.packed, cost.unpacked) == (archive.stat().st_size, len(tar))
        assert (cost.members, cost.headers) == (200, 201 * 512)
        assert cost.content == sum(n * 100 for n in range(200))

    def test_data_that_cannot_be_compressed(self, archive):
        data = bytes(range(256)) * 20_000
        archive.write_bytes(packed(file("f", data) + END, 0))

        assert read(archive, LIMITS).content == len(data)


def test_eight_hostile_archives_at_once_do_not_delay_a_sound_one(tmp_path, monkeypatch):
    """Work is counted, not time: what all of them cost together, and what memory they take."""
    hostile = ["data behind the end", "empty members", "a large global header"]
    hostile += ["many headers", "a chain of pax headers", "a long file name in gzip"]
    hostile += ["empty gzip streams", "a file that is large"]
    for name in hostile:
        (tmp_path / f"{name}.tar.gz").write_bytes(BREACHES[name][0])
    sound = tmp_path / "sound.tar.gz"
    sound.write_bytes(packed(MODEL + END))
    spent = []

    class Recorded(Budget):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            spent.append(self)

    monkeypatch.setattr(tarball, "Budget", Recorded)

    def refused(name):
        with pytest.raises(BudgetError):
            unpack(tmp_path / f"{name}.tar.gz", tmp_path / name, FEW)

    tracemalloc.start()
    try:
        with ThreadPoolExecutor(9) as threads:
            waiting = [threads.submit(refused, name) for name in hostile]
            threads.submit(unpack, sound, tmp_path / "m").result()
            for one in waiting:
                one.result()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "m" / "model.py").is_file()
    assert len(spent) == 9
    assert sum(one.unpacked for one in spent) < 8 * MIB
    assert sum(one.packed for one in spent) < 4 * MIB
    assert peak < 24 * MIB
