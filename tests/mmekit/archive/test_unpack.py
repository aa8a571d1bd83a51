"""Hostile archives write nothing outside, and leave nothing behind."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmekit.archive import Limits, unpack
from mmekit.archive.tarball import open_tarball
from mmekit.errors import ArchiveError, BudgetError, UnsafeArchiveError


def member(name, kind=tarfile.REGTYPE, content=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, content


def link(name, target, kind=tarfile.SYMTYPE):
    return member(name, kind, linkname=target)


def write(path, *members, tar_format=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w:gz", format=tar_format) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def place(tmp_path):
    """Return an otherwise empty folder to unpack into; the archive lies elsewhere."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


MODEL = member("model.py", content=b"handle = None\n")

HOSTILE = {
    "absolute": [member("/etc/evil", content=b"x")],
    "upwards": [member("../evil", content=b"x")],
    "upwards in the middle": [member("a/../../evil", content=b"x")],
    "absolute link": [link("a", "/etc/passwd")],
    "upward link": [link("a", "../evil")],
    "link through a link": [link("here", "."), link("out", "here/../evil")],
    "file through a link": [link("a", "."), member("a/evil", content=b"x")],
    "file over a link": [link("a", "model.py"), member("a", content=b"x")],
    "folder over a link": [link("a", "."), member("a", tarfile.DIRTYPE)],
    "link over a folder": [member("a", tarfile.DIRTYPE), link("a", "model.py")],
    "file below a file": [member("a", content=b"x"), member("a/b", content=b"x")],
    "hard link out": [link("a", "/etc/passwd", tarfile.LNKTYPE)],
    "hard link upwards": [link("a", "../evil", tarfile.LNKTYPE)],
    "hard link to a link": [link("a", "."), link("b", "a", tarfile.LNKTYPE)],
    "circular link": [link("a", "a")],
    "link to nothing": [link("a", "nothing")],
    "hard link to nothing": [link("a", "nothing", tarfile.LNKTYPE)],
    "character device": [member("a", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": [member("a", tarfile.BLKTYPE, devmajor=8, devminor=0)],
    "named pipe": [member("a", tarfile.FIFOTYPE)],
    "unknown type": [member("a", b"V")],
    "long part": [member("n" * 300, content=b"x")],
    "long name": [member("n/" * 600 + "x", content=b"x")],
    "no name": [member("./", content=b"x")],
}


@pytest.fixture(params=["with the data filter", "without it"])
def _python(request, monkeypatch):
    """Be a Python that has tarfile's data filter, and one that is too old for it."""
    if request.param == "without it":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)


@pytest.mark.usefixtures("_python")
@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_member_is_named_and_nothing_remains(tmp_path, place, members):
    archive = write(tmp_path / "model.tar.gz", MODEL, *members)

    with pytest.raises(UnsafeArchiveError) as caught:
        unpack(archive, place / "model")

    assert members[-1][0].name.rstrip("/")[:20] in caught.value.what
    assert caught.value.where == str(archive)
    assert caught.value.remedy
    assert list(place.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.tar.gz", "place"]


def test_a_name_with_a_nul_is_refused(tmp_path, place):
    info, content = member("model.py", content=b"x")
    info.pax_headers = {"path": "evil\0.py"}
    archive = write(tmp_path / "model.tar.gz", (info, content))

    with pytest.raises(UnsafeArchiveError, match="NUL"):
        unpack(archive, place / "model")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(total_bytes=999_999), "999999 bytes"),
        (Limits(files=1), "more than 1 members"),
        (Limits(ratio=10, ratio_from_bytes=1000), "times as much"),
    ],
)
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, place, limits, reason):
    bomb = member("bomb", content=bytes(1_000_000))
    archive = write(tmp_path / "model.tar.gz", MODEL, bomb)

    with pytest.raises(UnsafeArchiveError, match=reason):
        unpack(archive, place / "model", limits)

    assert list(place.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 5, 30, -1, -9])
def test_a_truncated_archive_is_refused_and_nothing_remains(tmp_path, place, kept):
    archive = write(tmp_path / "model.tar.gz", MODEL, member("b", content=os.urandom(5000)))
    archive.write_bytes(archive.read_bytes()[:kept])

    with pytest.raises(ArchiveError, match=r"damaged"):
        unpack(archive, place / "model")

    assert list(place.iterdir()) == []


def test_what_is_no_gzip_is_refused(tmp_path, place):
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(b"PK\x03\x04 not a tar")

    with pytest.raises(ArchiveError, match="no tar"):
        unpack(archive, place / "model")


def test_a_tar_without_a_member_is_refused(tmp_path, place):
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(bytes(10240)))

    with pytest.raises(ArchiveError, match="holds nothing"):
        unpack(archive, place / "model")


def test_a_missing_archive_and_a_full_destination_are_errors(tmp_path, place):
    with pytest.raises(ArchiveError, match="does not exist"):
        unpack(tmp_path / "model.tar.gz", place / "model")
    archive = write(tmp_path / "model.tar.gz", MODEL)
    unpack(archive, place / "model")

    with pytest.raises(ArchiveError, match="exists already"):
        unpack(archive, place / "model")


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_an_honest_archive_comes_out_whole(tmp_path, place, tar_format):
    long_name = "/".join(["folder" * 6] * 4) + "/weights.bin"
    archive = write(
        tmp_path / "model.tar.gz",
        member("./", tarfile.DIRTYPE),
        member("./model.py", content=b"old"),
        member("./model.py", content=b"new"),
        member(f"./{long_name}", content=b"w" * 3000),
        link("weights", "folder" * 6),
        link("copy.py", "./model.py", tarfile.LNKTYPE),
        tar_format=tar_format,
    )

    unpack(archive, place / "model")

    assert (place / "model" / "model.py").read_bytes() == b"new"
    assert (place / "model" / "copy.py").read_bytes() == b"new"
    assert (place / "model" / long_name).read_bytes() == b"w" * 3000
    assert (place / "model" / "weights").is_dir()
    assert [path.name for path in place.iterdir()] == ["model"]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_archive_or_the_umask(tmp_path, place, mask):
    archive = write(
        tmp_path / "model.tar.gz",
        member("closed.py", content=b"x", mode=0o000),
        member("run.sh", content=b"x", mode=0o6755),
        member("folder", tarfile.DIRTYPE, mode=0o000),
        member("folder/inner", content=b"x", mode=0o666),
    )
    before = os.umask(mask)
    try:
        unpack(archive, place / "model")
    finally:
        os.umask(before)

    def mode(name):
        return stat.S_IMODE((place / "model" / name).stat().st_mode)

    assert (mode("closed.py"), mode("run.sh")) == (0o644, 0o755)
    assert (mode("folder"), mode("folder/inner"), mode(".")) == (0o755, 0o644, 0o755)


def test_files_carry_the_time_of_unpacking(tmp_path, place):
    archive = write(tmp_path / "model.tar.gz", member("model.py", content=b"x", mtime=0))
    before = time.time()

    unpack(archive, place / "model")

    assert (place / "model" / "model.py").stat().st_mtime >= before - 2


PARTS = st.sampled_from(["a", "b", ".", "..", "", "/", "a/b", "../x", "b/../..", "./a"])
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(PARTS, KINDS, PARTS), min_size=1, max_size=5))
def test_no_combination_of_names_and_links_reaches_outside(tmp_path_factory, members):
    root = tmp_path_factory.mktemp("fuzz")
    place = root / "place"
    place.mkdir()
    (root / "x").write_bytes(b"untouched")
    infos = [
        member(name or "a", kind, b"evil" if kind == tarfile.REGTYPE else b"", linkname=target)
        for name, kind, target in members
    ]
    archive = write(root / "model.tar.gz", *infos)
    try:
        unpack(archive, place / "model")
    except ArchiveError:
        assert list(place.iterdir()) == []
    else:
        inside = (place / "model").resolve()
        for path in inside.rglob("*"):
            assert path.resolve().is_relative_to(inside)
    assert (root / "x").read_bytes() == b"untouched"
    assert sorted(path.name for path in root.iterdir()) == ["model.tar.gz", "place", "x"]


class KeptApart:
    """Keeps a folder of an archive; `has` says that it is there already."""

    def __init__(self, folder, place, *, has=False):
        self.folder, self.place, self.has, self.asked = folder, place, has, []
        self.before = None

    def folder_of(self, name, unpacked):
        self.before = sorted(path.name for path in unpacked.iterdir())
        return self.folder if f"{name}/".startswith(f"{self.folder}/") else None

    def keep(self, folder, unpack_into):
        self.asked.append(folder)
        if not self.has:
            self.place.mkdir()
            unpack_into(self.place)


SHARED = [
    MODEL,
    member("shared", tarfile.DIRTYPE),
    member("shared/of/body.bin", content=b"body", mode=0o755),
    link("shared/of/same.bin", "shared/of/body.bin", tarfile.LNKTYPE),
    member("shared.txt", content=b"own"),
]


@pytest.mark.parametrize("has", [False, True])
def test_a_folder_of_an_archive_may_be_kept_apart(tmp_path, place, has):
    archive = write(tmp_path / "model.tar.gz", *SHARED)
    apart = KeptApart("shared", tmp_path / "kept", has=has)
    unpack(archive, place, apart=apart)
    assert sorted(path.name for path in place.iterdir()) == ["model.py", "shared.txt"]
    assert (place / "shared.txt").read_bytes() == b"own"
    assert apart.asked == ["shared"]
    assert "model.py" in apart.before
    kept = {str(path.relative_to(tmp_path)) for path in (tmp_path / "kept").rglob("*.bin")}
    assert kept == (set() if has else {"kept/of/body.bin", "kept/of/same.bin"})
    if not has:
        assert (tmp_path / "kept" / "of" / "same.bin").read_bytes() == b"body"
        assert stat.S_IMODE((tmp_path / "kept" / "of" / "body.bin").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "members",
    [
        [member("shared/../../evil", content=b"x")],
        [member("shared", content=b"a file")],
        [member("shared/a", content=b"x"), link("shared/b", "model.py", tarfile.LNKTYPE)],
        [member("shared/a", content=b"x"), link("shared/b", "../model.py")],
        [member("shared/a/b", tarfile.FIFOTYPE)],
    ],
    ids=["upwards", "file", "hard link out", "link out", "pipe"],
)
def test_what_is_kept_apart_is_no_safer_than_the_rest(tmp_path, place, members):
    archive = write(tmp_path / "model.tar.gz", MODEL, *members)
    with pytest.raises(UnsafeArchiveError):
        unpack(archive, place, apart=KeptApart("shared", tmp_path / "kept"))
    assert not any(place.iterdir())
    assert not (tmp_path / "evil").exists()


def test_an_archive_that_ends_early_is_damaged_though_its_folder_is_passed_over(tmp_path, place):
    whole = write(tmp_path / "model.tar.gz", MODEL, member("shared/a", content=os.urandom(100_000)))
    (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:60_000])
    apart = KeptApart("shared", tmp_path / "kept", has=True)
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(tmp_path / "cut.tar.gz", place, apart=apart)


MANY = [
    MODEL,
    member("shared", tarfile.DIRTYPE),
    *(member(f"shared/{number % 7}/{number}.py", content=b"x" * number) for number in range(60)),
    member("shared/" + "long/" * 40 + "name", content=b"in a pax header"),
    member("shared/\N{SNOWMAN}", content=b"x"),
    link("shared/z", "shared/0/0.py", tarfile.LNKTYPE),
    member("shared/zz", content=b"x" * 513),
    member("zzz", content=b"own"),
]


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_what_is_passed_over_is_counted_as_what_is_read(tmp_path, tar_format):
    archive = write(tmp_path / "model.tar.gz", *MANY, tar_format=tar_format)
    seen = []
    for passes_over in (False, True):
        with open_tarball(archive) as tar:
            names = []
            for one in tar:
                names.append(one.name)
                if passes_over and one.name.startswith("shared"):
                    tar.pass_over("shared")
        budget = tar.budget
        seen.append((budget.members, budget.content, names[0], names[-1], budget.unpacked))
        lengths = len(names)
    assert seen[0] == seen[1]
    assert lengths < 12 if tar_format == tarfile.PAX_FORMAT else lengths == len(MANY)


@pytest.mark.parametrize("limit", [Limits(files=30), Limits(total_bytes=500)])
def test_what_is_passed_over_is_within_the_limits(tmp_path, place, limit):
    archive = write(tmp_path / "model.tar.gz", *MANY)
    with pytest.raises(BudgetError):
        unpack(archive, place, limit, apart=KeptApart("shared", tmp_path / "kept", has=True))


@pytest.mark.parametrize("where", range(0, 1024, 37))
def test_a_damaged_header_is_found_among_what_is_passed_over(tmp_path, place, where):
    whole = gzip.decompress(write(tmp_path / "whole.tar.gz", *MANY).read_bytes())
    at = whole.index(b"shared/3/3.py") + where % 512
    damaged = bytearray(whole)
    damaged[at] ^= 0x01
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(bytes(damaged)))
    with pytest.raises(ArchiveError):
        unpack(archive, place, apart=KeptApart("shared", tmp_path / "kept", has=True))


def test_a_name_that_leads_upwards_is_refused_among_what_is_passed_over(tmp_path, place):
    hostile = [member("shared/a"), member("shared/b"), member("shared/../../evil", content=b"x")]
    archive = write(tmp_path / "model.tar.gz", MODEL, *hostile)
    with pytest.raises(UnsafeArchiveError, match="leads upwards"):
        unpack(archive, place, apart=KeptApart("shared", tmp_path / "kept", has=True))
