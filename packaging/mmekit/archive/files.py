"""Files that are read whole, if they are short enough, and written whole or not at all.

A text is taken apart in Python: what a model's files say must not be more work than to load them.
What is packed, checked, described or loaded by the embedded server keeps to these limits.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

from mmekit.errors import TextError
from mmekit_runtime.texts import (
    MANIFEST_BYTES,
    PROPERTIES_BYTES,
    REQUIREMENTS_BYTES,
    SIGNATURE_BYTES,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


REQUIREMENTS_LINES = 2_000
"""Lines of requirements.txt that are not a comment."""

SOURCE_BYTES = 1 << 20
"""Every other text: model.py and the other sources that are read."""

_BY_NAME = MappingProxyType(
    {
        "serving.properties": PROPERTIES_BYTES,
        "requirements.txt": REQUIREMENTS_BYTES,
        "signature.json": SIGNATURE_BYTES,
        "measured.json": SIGNATURE_BYTES + SOURCE_BYTES,  # what a model told is in it
        "manifest.json": MANIFEST_BYTES,
    }
)
_FILE_MODE = 0o644
_CHUNK = 1 << 20
_UNITS = ("KiB", "MiB", "GiB", "TiB")
_THOUSAND = 1024


def most_bytes(name: str) -> int:
    """Return how long a text of that name may be.

    Examples
    --------
    >>> most_bytes("code/requirements.txt")
    262144
    """
    return _BY_NAME.get(name.rpartition("/")[2], SOURCE_BYTES)


def check_length(name: str, size: int, where: str) -> None:
    """Raise TextError for a text that is too long."""
    most = most_bytes(name)
    if size > most:
        raise TextError(
            f"{name} is too long to be read: {size} bytes, and {most} is the most",
            where=where,
            remedy="move data into another file, which the model's code reads",
        )


def check_lines(name: str, lines: int, where: str) -> None:
    """Raise TextError for a requirements.txt of too many lines."""
    if lines > REQUIREMENTS_LINES:
        raise TextError(
            f"{name} asks for {lines} things, and {REQUIREMENTS_LINES} is the most",
            where=where,
            remedy="name only what the model imports; pip adds its dependencies",
        )


def read_text(path: Path) -> bytes:
    """Return the bytes of a text file.

    Raises
    ------
    TextError
        It is too long.
    OSError
        It cannot be read.
    """
    with path.open("rb") as stream:
        # Of a file that grows, or has no size, no more is read either.
        data = stream.read(most_bytes(path.name) + 1)
    check_length(path.name, len(data), str(path.parent))
    return data


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def size_text(size: float) -> str:
    """Return a size in bytes as text.

    Examples
    --------
    >>> size_text(14 << 20), size_text(3_000)
    ('14.0 MiB', '2.9 KiB')
    """
    unit = _UNITS[0]
    size /= _THOUSAND
    for unit in _UNITS:  # noqa: B007 - the last one stays
        if size < _THOUSAND:
            break
        size /= _THOUSAND
    return f"{size:.1f} {unit}"


@contextmanager
def atomic_file(target: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, as a rename is one step within a file system only.
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        # mkstemp's files are for the owner alone.
        temporary.chmod(_FILE_MODE)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(target: Path, data: bytes) -> None:
    """Write a whole file at once."""
    with atomic_file(target) as stream:
        stream.write(data)
