"""The folder of ``mme up --state``: a log of what changed, and the objects' bodies beside it.

::

    lock          held while a service uses the folder; says how far the log had come
    log           a line an entry
    bodies/<hash> request bodies, named by their SHA-256

An entry is written and synced before its change is made, a body before its entry, and an entry
whose change is refused is taken back: so whatever a client was told is there after a kill at any
moment, and what cannot be written down does not happen. An entry torn by a kill is dropped;
anything else that is damaged is an error, because what follows could not be trusted. Files that
nothing here has written are left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from mmekit.errors import EndpointError
from mmekit_local.aws.state.bodies import Bodies, replacement, sync_folder, write_all
from mmekit_local.aws.state.entry import LogEntry, damaged, header_line, line_of, read_log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["Lock", "LogEntry", "LogPosition", "StateLog"]

_BYTES = 64

_UNFINISHED = re.compile(r"\.log\.\d+")
_NAMELESS = "-"
"""A log of the first format; of such a one nothing is told."""


@dataclass(frozen=True)
class LogPosition:
    """How far a log has come.

    Attributes
    ----------
    log
        Its name.
    answered
        The number of the last entry whose change was made.
    begun
        The number of the last entry that was begun: the one after `answered` while it is made.
    """

    log: str
    answered: int
    begun: int


class Lock:
    """A folder's lock, held until it is closed or the process ends.

    Attributes
    ----------
    found : Progress or None
        What whoever had it last said.

    Raises
    ------
    OSError
        It cannot be written.
    EndpointError
        Somebody else has it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # The kernel lets go of it however the process ends. A file that says so by being there
            # would stay.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            what = "Another `mme up` uses this state folder."
            remedy = "Stop it, or choose another folder with --state."
            raise EndpointError(what, where=str(path.parent), remedy=remedy) from error
        self.found = _position(os.pread(self._file, _BYTES, 0))

    def write(self, progress: LogPosition) -> None:
        """Say how far the log has come.

        Raises
        ------
        OSError
            There is no room, which may be the first time.
        """
        # Of one length, so that it needs no more room on a disk that is full. Not synced: a kill
        # leaves it, and after a loss of power an older one claims less than the log has, never
        # more.
        text = f"{progress.log} {progress.answered} {progress.begun}"
        os.pwrite(self._file, text.ljust(_BYTES - 1).encode() + b"\n", 0)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._file)


def _position(content: bytes) -> LogPosition | None:
    parts = content.decode("latin-1").split()
    try:
        log, answered, begun = parts
        return LogPosition(log, int(answered), int(begun))
    except ValueError:  # a new folder, or one of a version that said nothing
        return None


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
    unanswered : bool
        Whether it ends with an entry whose change was being made when the service was killed.
    bodies : Bodies
        The bodies of its entries.

    Raises
    ------
    EndpointError
        Another service uses the folder, it cannot be written, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "log"
        self._writing = threading.Lock()
        self._count = self._end = 0
        self._identity = ""
        self._file: BinaryIO
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / "bodies").mkdir(mode=0o700, exist_ok=True)
            self._lock = Lock(folder / "lock")
        except OSError as error:
            what = f"The state folder cannot be used: {error.strerror}."
            remedy = "Name a folder that can be written with --state."
            raise EndpointError(what, where=str(folder), remedy=remedy) from error
        self.bodies = Bodies(folder / "bodies")
        try:
            self._open()
        except OSError as error:
            self._lock.close()
            what = f"The state folder cannot be written: {error.strerror}."
            remedy = "Make room there, or name a folder on another disk with --state."
            raise EndpointError(what, where=str(folder), remedy=remedy) from error
        except BaseException:
            self._lock.close()
            raise

    def append(self, entry: LogEntry) -> None:
        """Add an entry; it is on the disk when this returns.

        Raises
        ------
        OSError
            There is no room; nothing has been added.
        """
        with self.appended(entry):
            pass

    @contextlib.contextmanager
    def appended(self, entry: LogEntry) -> Iterator[None]:
        """Add an entry for the block, which makes its change; it is taken back if that raises.

        Nobody else adds one meanwhile: their order is the order in which changes are made.

        Raises
        ------
        OSError
            There is no room; nothing has been added, and the block is not entered.
        """
        with self._writing:
            number = self._count + 1
            # Before the line: so the next start tells a last entry that was being made, and may be
            # refused now, from one that was answered.
            self._lock.write(LogPosition(self._identity or _NAMELESS, self._count, number))
            line = line_of(entry, number)
            self._write(line)
            self.bodies.need(entry.body)
            try:
                yield
            except BaseException:
                self.bodies.release(entry.body)
                # What cannot be taken back now is taken back before anything else is added.
                with contextlib.suppress(OSError):
                    self._truncate()
                raise
            self._count, self._end = number, self._end + len(line)
            # The entry is there; that it has been answered is only of use after a kill.
            with contextlib.suppress(OSError):
                self._lock.write(LogPosition(self._identity or _NAMELESS, number, number))

    def replace(self, entries: Iterable[LogEntry], *, sweeps: bool = True) -> None:
        """Replace all entries by these, and remove the bodies that none of them needs.

        Parameters
        ----------
        entries
            The new ones.
        sweeps
            Whether bodies are removed at all.

        Raises
        ------
        OSError
            There is no room for that; everything is as it was.
        """
        entries = list(entries)
        with self._writing:
            # Another name: what the lock says of the log before does not hold for this one.
            identity = _new_identity()
            lines = (line_of(entry, number) for number, entry in enumerate(entries, 1))
            content = header_line(identity) + b"".join(lines)
            file = replacement(self._path, content)
            self._file.close()
            self._file, self._identity = file, identity
            self._count, self._end = len(entries), len(content)
            # Else the log that was there might come back, and need what is removed now.
            sync_folder(self.folder)
            with contextlib.suppress(OSError):
                self._lock.write(LogPosition(identity, self._count, self._count))
        self.bodies.need_all(entry.body for entry in entries)
        if sweeps:
            self.bodies.sweep()

    def close(self) -> None:
        """Let go of the folder."""
        with self._writing:
            self._file.close()
            self._lock.close()

    def _open(self) -> None:
        content = read_log(self._path)
        self.entries, self.torn, self._identity = content.entries, content.torn, content.identity
        # With no entry that names them, cleaning up would remove them all.
        if not content.size and self.bodies:
            raise damaged(self._path, "bodies are there, and no log of them")
        self._count, self._end = len(self.entries), content.size
        found = self._lock.found
        known = found is not None and bool(self._identity) and found.log == self._identity
        answered, begun = (found.answered, found.begun) if found and known else (0, 0)
        if answered > self._count:
            missing = answered - self._count
            what = f"the last {missing} of {answered} entries that were answered are missing"
            remedy = (
                "Restore the state folder from a copy, or remove the file lock in it to go on "
                "without them."
            )
            raise damaged(self._path, what, remedy)
        self.unanswered = answered + 1 == begun == self._count
        self.bodies.need_all(entry.body for entry in self.entries)
        for left in self.folder.iterdir():  # by a kill while the log was being replaced
            if _UNFINISHED.fullmatch(left.name) and left.is_file():
                left.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.fdopen(os.open(self._path, flags, 0o600), "ab", buffering=0)
        try:
            if self.torn:
                self._truncate()
            if not self._end:
                self._identity = _new_identity()
                line = header_line(self._identity)
                self._write(line)
                self._end = len(line)
                sync_folder(self.folder)
            self._lock.write(LogPosition(self._identity or _NAMELESS, answered, begun))
        except BaseException:
            self._file.close()
            raise

    def _write(self, line: bytes) -> None:
        try:
            if os.fstat(self._file.fileno()).st_size != self._end:
                self._truncate()
            write_all(self._file.fileno(), line)
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._truncate()
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _truncate(self) -> None:
        """Remove what stands behind the last entry whose change was made."""
        os.ftruncate(self._file.fileno(), self._end)
        os.fsync(self._file.fileno())


def _new_identity() -> str:
    return secrets.token_hex(8)
