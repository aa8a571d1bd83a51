"""The folder ``bodies``: what requests carried, in files that their SHA-256 names.

A file is there whole or not at all, and stays after a loss of power.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO

from mmekit_local.aws.state.entry import damaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["Bodies", "replacement", "sync_folder", "write_all", "write_whole"]

_OURS = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.\d+")
"""A body, or one that a kill left unfinished. What has another name is somebody else's."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises
    ------
    OSError
        There is no room for it.
    """
    replacement(path, content).close()
    sync_folder(path.parent)


def replacement(path: Path, content: bytes) -> BinaryIO:
    """Put a file with a content in the place of another; return it, open for more at its end.

    Raises
    ------
    OSError
        There is no room for it; what was there is there still.
    """
    # The thread is in it: two requests may bring the same bytes at once.
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}")
    descriptor = -1
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        descriptor = os.open(temporary, flags, 0o600)
        write_all(descriptor, content)
        # Before the rename: else a loss of power may leave the name without the content.
        os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    return os.fdopen(descriptor, "ab", buffering=0)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it: a disk that is becoming full takes a part at first."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(folder: Path) -> None:
    """Bring to the disk which files a folder has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Bodies:
    """The bodies of a log's entries.

    Parameters
    ----------
    folder
        Where they are; it is there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._needed: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._holding = threading.Lock()

    def __bool__(self) -> bool:
        """Say whether there are any."""
        return any(_is_ours(path) for path in self._folder.iterdir())

    @contextlib.contextmanager
    def kept(self, body: bytes) -> Iterator[str]:
        """Put bytes on the disk for the block, and yield their name; "" for no bytes.

        They stay there if they are needed by then.

        Raises
        ------
        OSError
            There is no room; nothing has been kept.
        """
        if not body:
            yield ""
            return
        name = hashlib.sha256(body).hexdigest()
        path = self._folder / name
        with self._holding:  # who else brings the same bytes shall not remove them from under us
            self._held[name] += 1
        try:
            if not path.exists():
                write_whole(path, body)
            yield name
        finally:
            with self._holding:
                self._held[name] -= 1
                if not self._held[name]:
                    del self._held[name]
                    if not self._needed[name]:
                        path.unlink(missing_ok=True)

    def need(self, name: str) -> None:
        """Take note that an entry names a body."""
        with self._holding:
            self._needed[name] += 1

    def release(self, name: str) -> None:
        """Take note that an entry does not name it after all; whoever keeps it sees to it."""
        with self._holding:
            self._needed[name] -= 1

    def read(self, name: str) -> bytes:
        """Return a body.

        Raises
        ------
        EndpointError
            It is not there or is not what it was.
        """
        if not name:
            return b""
        path = self._folder / name
        try:
            body = path.read_bytes()
        except OSError as error:
            raise damaged(path, f"a body cannot be read: {error.strerror}") from error
        if hashlib.sha256(body).hexdigest() != name:
            raise damaged(path, "a body is not what it was when it was written")
        return body

    def need_all(self, names: Iterable[str]) -> None:
        """Take note of what a log names; nothing is removed."""
        with self._holding:
            self._needed = Counter(names)

    def sweep(self) -> None:
        """Remove the bodies that no entry names; other files stay."""
        with self._holding:
            for path in self._folder.iterdir():
                if _is_ours(path) and not self._needed[path.name] and not self._held[path.name]:
                    path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    return _OURS.fullmatch(path.name) is not None and path.is_file()
