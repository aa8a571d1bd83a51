"""The folder of ``mme up --state``: a log of what changed, and the objects' bodies beside it.

::

    lock          held while a service uses the folder
    log           a line an entry: CRC-32 of the rest, a space, JSON
    bodies/<hash> request bodies, named by their SHA-256

An entry is written and synced before its request is answered, a body before its entry: whatever a
client was told is there after a kill at any moment. An entry torn by one is dropped; anything else
that is damaged is an error, because what follows could not be trusted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import zlib
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, BinaryIO

from mmekit.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["Entry", "StateLog"]

_FORMAT = {"format": "mmekit-state-1"}


@dataclass(frozen=True)
class Entry:
    """One change: a request to AWS that succeeded, or something that became of an endpoint.

    Attributes
    ----------
    at
        When, in seconds since the epoch.
    seed
        What chance was drawn from.
    method, path, query, headers, body
        Of the request, without secrets; `body` is the SHA-256 of its bytes. A change that is no
        request has no method.
    upload_id
        The identifier of the multipart upload that the request began.
    change
        What became of an endpoint; JSON.
    """

    at: float
    seed: int = 0
    method: str = ""
    path: str = ""
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    upload_id: str = ""
    change: dict[str, Any] = field(default_factory=dict)


class StateLog:
    """The open state folder.

    Parameters
    ----------
    folder
        Is made when it is not there.

    Attributes
    ----------
    entries : list of Entry
        What was in the log when it was opened.
    torn : bool
        Whether its last entry was incomplete and has been dropped.

    Raises
    ------
    EndpointError
        Another service uses the folder, it cannot be written, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bodies = folder / "bodies"
        self._writing = threading.Lock()
        self._needed: set[str] = set()
        self._held: Counter[str] = Counter()
        self._holding = threading.Lock()
        self.torn = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._bodies.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            what = f"The state folder cannot be used: {error.strerror}."
            remedy = "Name a folder that can be written with --state."
            raise EndpointError(what, where=str(folder), remedy=remedy) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            what = "Another `mme up` uses this state folder."
            remedy = "Stop it, or choose another folder with --state."
            raise EndpointError(what, where=str(folder), remedy=remedy) from error
        for left in folder.glob(".log.*"):  # by a kill while the log was being replaced
            left.unlink()
        try:
            self.entries = self._read()
            self._needed = {entry.body for entry in self.entries}
            self._file: BinaryIO = self._log.open("ab", buffering=0)
            if not self._file.tell():
                self._write(self._file, _line(_FORMAT))
        except OSError as error:
            os.close(self._lock)
            what = f"The state folder cannot be written: {error.strerror}."
            remedy = "Make room there, or name a folder on another disk with --state."
            raise EndpointError(what, where=str(folder), remedy=remedy) from error
        except BaseException:
            os.close(self._lock)
            raise

    def append(self, entry: Entry) -> None:
        """Add an entry; it is on the disk when this returns.

        Raises
        ------
        OSError
            There is no room; nothing has been added.
        """
        with self._writing:
            self._write(self._file, _line(_members(entry)))
        with self._holding:
            self._needed.add(entry.body)

    @contextlib.contextmanager
    def body_kept(self, body: bytes) -> Iterator[str]:
        """Put bytes on the disk for the block, and yield their name; "" for no bytes.

        They stay there if an entry names them by then.

        Raises
        ------
        OSError
            There is no room; nothing has been kept.
        """
        if not body:
            yield ""
            return
        name = hashlib.sha256(body).hexdigest()
        path = self._bodies / name
        with self._holding:  # who else brings the same bytes shall not remove them from under us
            self._held[name] += 1
        try:
            if not path.exists():
                _write_whole(path, body)
            yield name
        finally:
            with self._holding:
                self._held[name] -= 1
                if not self._held[name]:
                    del self._held[name]
                    if name not in self._needed:
                        path.unlink(missing_ok=True)

    def body(self, entry: Entry) -> bytes:
        """Return the bytes of an entry's body.

        Raises
        ------
        EndpointError
            They are not there or are not what they were.
        """
        if not entry.body:
            return b""
        path = self._bodies / entry.body
        try:
            body = path.read_bytes()
        except OSError as error:
            raise _damaged(path, f"a body cannot be read: {error.strerror}") from error
        if hashlib.sha256(body).hexdigest() != entry.body:
            raise _damaged(path, "a body is not what it was when it was written")
        return body

    def replace(self, entries: Iterable[Entry]) -> None:
        """Replace all entries by these, and remove the bodies that none of them needs."""
        entries = list(entries)
        with self._writing:
            _write_whole(
                self._log, b"".join(map(_line, [_FORMAT, *(_members(entry) for entry in entries)]))
            )
            self._file.close()
            self._file = self._log.open("ab", buffering=0)
        with self._holding:
            self._needed = {entry.body for entry in entries}
            for path in self._bodies.iterdir():
                if path.name not in self._needed and path.name not in self._held:
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the folder."""
        self._file.close()
        os.close(self._lock)

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _read(self) -> list[Entry]:
        try:
            content = self._log.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise _damaged(self._log, f"it cannot be read: {error.strerror}") from error
        lines = content.splitlines(keepends=True)
        read = self._members_of(lines)
        if not read and (any(self._bodies.iterdir()) or not _line(_FORMAT).startswith(content)):
            raise _damaged(self._log, "it is no log of mmekit")
        if read and read[0] != _FORMAT:
            raise _damaged(self._log, "it is no log of this version of mmekit")
        try:
            entries = [_entry(members) for members in read[1:]]
        except (TypeError, ValueError) as error:
            raise _damaged(self._log, f"an entry is not understood: {error}") from error
        if self.torn:
            os.truncate(self._log, len(content) - len(lines[-1]))
        return entries

    def _members_of(self, lines: list[bytes]) -> list[dict[str, Any]]:
        read: list[dict[str, Any]] = []
        for number, line in enumerate(lines, 1):
            members = _parsed(line)
            if members is None:
                if number < len(lines):
                    raise _damaged(self._log, f"line {number} is not what was written")
                self.torn = True
                break
            read.append(members)
        return read

    @staticmethod
    def _write(file: BinaryIO, line: bytes) -> None:
        size = os.fstat(file.fileno()).st_size
        try:
            rest = memoryview(line)
            while rest:  # a full disk takes a part at first
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise OSError(error.errno, error.strerror, file.name) from error


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            temporary.chmod(0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _line(members: dict[str, Any]) -> bytes:
    text = json.dumps(members, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    members = json.loads(text)
    return members if isinstance(members, dict) else None


def _members(entry: Entry) -> dict[str, Any]:
    """Return what an entry has; what is at its default is left out."""
    found = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return {name: value for name, value in found.items() if value or name == "at"}


def _entry(members: dict[str, Any]) -> Entry:
    headers = tuple((str(name), str(value)) for name, value in members.pop("headers", ()))
    return Entry(headers=headers, **members)


def _damaged(path: Path, what: str) -> EndpointError:
    return EndpointError(
        f"The state is damaged: {what}.",
        where=str(path),
        remedy="Restore the state folder from a copy, or name another one with --state.",
    )
