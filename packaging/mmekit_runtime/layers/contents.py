"""What a layer is named by: the files of a folder, and the SHA-256 of them all."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from .listing import LayerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PIECE = 1 << 20


class LayerFile(NamedTuple):
    """One file of a layer.

    Attributes
    ----------
    name
        Below the layer's folder, with forward slashes.
    is_executable
        Whether its owner may execute it; more of its mode does not count.
    sha256, size
        Of its content; hexadecimal digits and bytes.
    """

    name: str
    is_executable: bool
    sha256: str
    size: int


class LayerDigest(NamedTuple):
    """A layer's name, and how much it is."""

    sha256: str
    bytes: int
    files: int


def counts(name: str) -> bool:
    """Whether a file belongs to a layer: what Python compiles into one that is in use does not."""
    return not name.endswith(".pyc") and "__pycache__" not in name.split("/")


def digest_of(files: Iterable[LayerFile]) -> LayerDigest:
    """Return the name of the layer that has these files.

    Raises
    ------
    LayerError
        A name has a line's end in it, and could stand for two files.
    """
    digest, size, count = hashlib.sha256(), 0, 0
    for file in sorted(files, key=lambda file: os.fsencode(file.name)):
        if not counts(file.name):
            continue
        if "\n" in file.name:
            raise LayerError(f"the file {file.name!r} cannot be in a layer: rename it")
        mode = 0o755 if file.is_executable else 0o644
        digest.update(b"%o %s %d " % (mode, file.sha256.encode(), file.size))
        digest.update(os.fsencode(file.name) + b"\n")
        size += file.size
        count += 1
    return LayerDigest(digest.hexdigest(), size, count)


def digest_of_folder(folder: str | os.PathLike[str]) -> LayerDigest:
    """Return the name of the layer that a folder is.

    Raises
    ------
    LayerError
        There is a link in it, or something else that is no plain file.
    OSError
        It cannot be read.
    """
    return digest_of(_read(name, path) for name, path in layer_files(folder))


def layer_files(folder: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Yield name and path of each file of a layer.

    Raises
    ------
    LayerError
        There is a link in it, or something else that is no plain file.
    """
    yield from _walk(os.fspath(folder), "")


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if not counts(name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                yield name, entry.path
            else:
                raise LayerError(f"{entry.path} is no plain file: a layer has no others")


def _read(name: str, path: str) -> LayerFile:
    digest, size = hashlib.sha256(), 0
    # Not through a link that has come meanwhile.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(fd, "rb", buffering=0) as stream:
        buffer = memoryview(bytearray(_PIECE))
        while got := stream.readinto(buffer):
            digest.update(buffer[:got])
            size += got
        is_executable = bool(os.fstat(fd).st_mode & stat.S_IXUSR)
    return LayerFile(name, is_executable, digest.hexdigest(), size)
