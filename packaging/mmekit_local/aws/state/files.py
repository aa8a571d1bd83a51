"""Files that are there whole or not at all, and stay after a loss of power."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["replacement", "sync_folder", "write_all", "write_whole"]


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
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}")
    descriptor = -1
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        descriptor = os.open(temporary, flags, 0o600)
        write_all(descriptor, content)
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
