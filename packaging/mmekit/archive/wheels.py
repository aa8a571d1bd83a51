"""Wheels, unpacked: the same files with the same modes on every machine.

What an installer adds is left out: byte code, its own notes, and scripts, which name a Python.
"""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from mmekit.archive.contents import Member
from mmekit.archive.layers import LayerSource, is_byte_code
from mmekit.archive.package import REQUIREMENTS_FILE
from mmekit.archive.resolution import REMEDY, uv_options
from mmekit.errors import LibrariesError
from mmekit.uv import ask_uv

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from email.message import Message
    from pathlib import Path

    from mmekit.archive.image import Image
    from mmekit.archive.lock import LockedWheel

_OF_INSTALLERS = frozenset({"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"})
_LICENSE_CHARACTERS = 80


@dataclass(frozen=True)
class Distribution:
    """A distribution in a folder of unpacked wheels.

    Attributes
    ----------
    name, version
        Its canonical name, and its version.
    license
        What it says of its license; None where that is nothing short.
    requires
        What it requires, as it says so.
    tags
        Of its wheel: what it runs on.
    """

    name: str
    version: str
    license: str | None
    requires: tuple[str, ...]
    tags: tuple[str, ...]


def fetch(
    wheels: Sequence[LockedWheel],
    options: Iterable[str],
    image: Image,
    folder: Path,
    scratch: Path,
) -> tuple[Member, ...]:
    """Return the files of wheels, which uv fetches, or has in its cache.

    Parameters
    ----------
    options
        The options of requirements.txt: where to look for them.
    folder
        Where uv runs.
    scratch
        Where they are unpacked; the files are there as long as it is.

    Raises
    ------
    LibrariesError
        One of them is not to be had, or not what the lock says.
    """
    file, target = scratch / "requirements.lock", scratch / "libraries"
    lines = [*options, *(one.line for one in wheels)]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = ["pip", "install", "--requirements", str(file), "--target", str(target)]
    exactly = ["--require-hashes", "--no-deps", "--no-compile-bytecode"]
    # What is in the cache needs no network, and hashes say that it is the same.
    for how in (["--offline"], []):
        shutil.rmtree(target, ignore_errors=True)
        done = ask_uv([*command, *exactly, *uv_options(image), *how], folder)
        if done.returncode == 0:
            break
    if done.returncode != 0:
        raise LibrariesError(
            f"The wheels of requirements.lock cannot be had:\n{done.stderr.strip()}",
            where=str(folder / "requirements.lock"),
            remedy=f"{REMEDY}. The lock stays as it is; without it, the newest versions are taken",
        )
    return _of_wheels(target)


def distributions_in(members: Mapping[str, Member]) -> tuple[Distribution, ...]:
    """Return the distributions among files, sorted by name."""
    found = []
    for name, member in members.items():
        folder, _, file = name.rpartition("/")
        if file != "METADATA" or not folder.endswith(".dist-info") or "/" in folder:
            continue
        said = HeaderParser().parsestr(member.read().decode("utf-8", "replace"))
        wheel = members.get(f"{folder}/WHEEL")
        lines = [] if wheel is None else wheel.read().decode("utf-8", "replace").splitlines()
        found.append(
            Distribution(
                canonicalize_name(str(said["Name"])),
                str(said["Version"]),
                _license(said),
                tuple(map(str, said.get_all("Requires-Dist", ()))),
                tuple(one.partition(":")[2].strip() for one in lines if one.startswith("Tag:")),
            )
        )
    return tuple(sorted(found, key=lambda one: one.name))


def owners_in(members: Mapping[str, Member]) -> dict[str, str]:
    """Return which distribution (name and version) each file is of, as their RECORDs say.

    What no RECORD names that can be read is not in it.
    """
    owners: dict[str, str] = {}
    for name, member in members.items():
        folder, _, file = name.partition("/")
        metadata = members.get(f"{folder}/METADATA")
        if file != "RECORD" or not folder.endswith(".dist-info") or metadata is None:
            continue
        (one,) = distributions_in({metadata.name: metadata})
        text = member.read().decode("utf-8", "replace")
        try:
            rows = [row[0] for row in csv.reader(io.StringIO(text)) if row]
        except csv.Error:
            continue
        owners.update(dict.fromkeys(rows, f"{one.name} {one.version}"))
    return owners


def sources_of(
    distributions: Iterable[Distribution], wheels: Iterable[LockedWheel]
) -> tuple[LayerSource, ...]:
    """Return where the files came from: what the manifest says of them."""
    by_name = {one.name: one for one in wheels}
    return tuple(
        LayerSource(one.name, one.version, by_name[one.name].sha256, one.license)
        for one in distributions
        if one.name in by_name
    )


def _of_wheels(target: Path) -> tuple[Member, ...]:
    kept: dict[str, Member] = {}
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if not path.is_file() or is_byte_code(name) or name == ".lock" or _is_added(path, name):
            continue
        status = path.stat()
        mode = 0o755 if status.st_mode & 0o100 else 0o644
        kept[name] = Member(name, status.st_size, path, mode=mode)
    _expect_one_owner(kept)
    # An installer writes into RECORD what it has added.
    for name in [one for one in kept if one.endswith(".dist-info/RECORD")]:
        kept[name] = Member.made_of(name, _record(kept[name].read().decode(), kept))
    return tuple(kept.values())


def _expect_one_owner(members: Mapping[str, Member]) -> None:
    """Refuse wheels that have a file of one name with other contents: chance would decide."""
    seen: dict[str, tuple[str, str]] = {}
    for name, member in members.items():
        if not name.endswith(".dist-info/RECORD"):
            continue
        owner = name.partition(".dist-info")[0]
        for row in csv.reader(io.StringIO(member.read().decode("utf-8", "replace"))):
            if len(row) < 2 or not row[1] or row[0] not in members:  # noqa: PLR2004
                continue
            other, digest = seen.setdefault(row[0], (owner, row[1]))
            if digest != row[1]:
                raise LibrariesError(
                    f"{other} and {owner} both have a file {row[0]}, each with other contents",
                    where=REQUIREMENTS_FILE,
                    remedy=f"leave one of them out of {REQUIREMENTS_FILE}: installed beside each "
                    "other, one of the two does not work",
                )


def _is_added(path: Path, name: str) -> bool:
    parts = PurePosixPath(name).parts
    if len(parts) == 2 and parts[0].endswith(".dist-info"):  # noqa: PLR2004
        return parts[1] in _OF_INSTALLERS
    if parts[0] != "bin" or len(parts) != 2:  # noqa: PLR2004
        return False
    with path.open("rb") as stream:
        return stream.read(2) == b"#!"


def _record(text: str, kept: Mapping[str, Member]) -> bytes:
    written = io.StringIO()
    rows = (row for row in csv.reader(io.StringIO(text)) if row and row[0] in kept)
    csv.writer(written, lineterminator="\n").writerows(sorted(rows))
    return written.getvalue().encode()


def _license(said: Message) -> str | None:
    text = str(said["License-Expression"] or "").strip()
    if not text:
        classified = [
            one for one in map(str, said.get_all("Classifier", ())) if "License ::" in one
        ]
        text = "; ".join(one.rpartition(" :: ")[2] for one in classified)
    if not text:
        text = str(said["License"] or "").strip()
    first = text.splitlines()[0].strip() if text else ""
    return first if first and len(first) <= _LICENSE_CHARACTERS else None
