"""What a folder's archives were made of: .mme-pack.json beside them.

An archive is made of the same inputs if their digests are the same, and is the one that was written
if its own is. Times of files have no say.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmekit import __version__
from mmekit.archive.files import sha256_of, write_atomically
from mmekit.archive.layers import layer_file
from mmekit.archive.libraries import LINKS_FOLDER
from mmekit.archive.package import LOCK_FILE, REQUIREMENTS_FILE
from mmekit.archive.runtime import runtime_members

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mmekit.archive.contents import Member
    from mmekit.archive.measured import Measured
    from mmekit.archive.pack import Packed, Packing
    from mmekit.archive.rules.subject import Subject

FILE_NAME = ".mme-pack.json"
FORMAT = 1


@dataclass(frozen=True)
class RecordedArchive:
    """What one archive was made of, its SHA-256, and those of the layers that lie beside it."""

    inputs: str
    sha256: str
    layers: tuple[str, ...] = ()


class Record:
    """The archives of one folder, and what they were made of.

    Parameters
    ----------
    folder
        Where the archives are.
    packing
        What is the same about all of them.
    archives
        What is known, by the archive's name.
    """

    def __init__(
        self, folder: Path, packing: Packing, archives: dict[str, RecordedArchive]
    ) -> None:
        self._folder, self._packing, self._archives = folder, packing, archives
        self._lock = threading.Lock()
        self._is_new = False
        self._of_all = _digest([*_of_packing(packing), *_digests(runtime_members())])

    @classmethod
    def read(cls, folder: Path, packing: Packing) -> Record:
        """Read a folder's; one that is not there, or cannot be read, knows nothing."""
        try:
            content = json.loads((folder / FILE_NAME).read_bytes())
            if content["format"] != FORMAT:
                return cls(folder, packing, {})
            archives = {
                str(name): RecordedArchive(
                    str(one["inputs"]), str(one["sha256"]), tuple(map(str, one["layers"]))
                )
                for name, one in content["archives"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            archives = {}
        return cls(folder, packing, archives)

    def inputs_of(self, given: Subject, measured: Measured) -> str:
        """Return the digest of everything that an archive is made of."""
        parts = [self._of_all, given.name or "", *_digests(given.contents)]
        parts.append(_sha256(measured.to_json()))
        if self._packing.makes_libraries(given):
            parts.append(self.requirements_of(given))
        return _digest(parts)

    def requirements_of(self, given: Subject) -> str:
        """Return the digest of what a layer of libraries is made of."""
        prefix = f"{LINKS_FOLDER}/"
        members = (
            one
            for one in given.contents
            if one.name == REQUIREMENTS_FILE or one.name.startswith(prefix)
        )
        lock = self._packing.package.folder / LOCK_FILE
        return _digest([*_digests(members), _sha256(lock.read_bytes()) if lock.is_file() else ""])

    def has(self, archive: Path, inputs: str) -> bool:
        """Whether an archive is there, made of these inputs and unchanged, with its layers."""
        with self._lock:
            known = self._archives.get(archive.name)
        if known is None or known.inputs != inputs or not archive.is_file():
            return False
        if not all(layer_file(archive, one).is_file() for one in known.layers):
            return False
        return sha256_of(archive) == known.sha256

    def note(self, packed: Packed, inputs: str) -> None:
        """Note an archive that was written."""
        beside = tuple(one.sha256 for one in packed.layers if not one.inline)
        with self._lock:
            self._archives[packed.path.name] = RecordedArchive(inputs, packed.sha256, beside)
            self._is_new = True

    def save(self) -> None:
        """Write it, if anything was noted; archives that are gone are forgotten."""
        with self._lock:
            if not self._is_new:
                return
            archives = {
                name: {"inputs": one.inputs, "sha256": one.sha256, "layers": list(one.layers)}
                for name, one in sorted(self._archives.items())
                if (self._folder / name).is_file()
            }
        content: dict[str, Any] = {"format": FORMAT, "archives": archives}
        write_atomically(self._folder / FILE_NAME, (json.dumps(content, indent=1) + "\n").encode())


def _of_packing(packing: Packing) -> Iterable[str]:
    options = (packing.worker_slots, packing.layers, packing.thin, packing.compress)
    image = packing.image
    yield __version__
    yield packing.package.name
    yield repr(options)
    yield (
        "none" if image is None else repr((image.name, image.python, sorted(image.pinned.items())))
    )
    yield "" if image is None else repr((sorted(image.resolved.items()), sorted(image.unversioned)))
    sample = packing.package.sample_request
    yield "" if sample is None else f"{sample.content_type} {_sha256(sample.body)}"
    response = packing.package.folder / "sample_response.json"
    yield _sha256(response.read_bytes()) if response.is_file() else ""


def _digests(members: Iterable[Member]) -> Iterable[str]:
    return (f"{member.name} {member.sha256()}" for member in members)


def _digest(parts: Iterable[str]) -> str:
    # A name may hold anything but a zero byte, and need not be UTF-8 on disk.
    return _sha256("\0".join(parts).encode("utf-8", "surrogateescape"))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
