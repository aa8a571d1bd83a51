"""Where layers lie in a container, and how a process holds those that it uses.

A stub imports this, in whose 30 ms every import counts: it has os, and the rest where it is needed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LISTING = "layers.json"
LISTING_BYTES = 64 << 10
SHA256_DIGITS = 64

STORE_FOLDER = ".mmekit-layers"
"""Beside the models."""

STORE_VARIABLE = "MMEKIT_LAYERS_STORE"
"""Another folder for the store."""

SOURCES_VARIABLE = "MMEKIT_LAYERS"
"""Where layers are to be had: folders and ``s3://`` prefixes, separated by commas or blanks."""

LOCK_SUFFIX = ".lock"
GONE_SUFFIX = ".gone"
MOST_GUARDED = 64
"""Files of a layer that are looked at whenever somebody begins to use it."""

PLACE_SUFFIX = ".place"
OTHERS_MAY_WRITE = 0o022
"""Of a file's mode."""


def store_folders(model_dir: str, environ: Mapping[str, str]) -> list[str]:
    """Return where a layer of a model may lie, the store for new ones first.

    The second is for when the first cannot be written: a folder of the user's own.
    """
    named = environ.get(STORE_VARIABLE)
    if not named:
        parent = os.path.dirname(model_dir)
        if os.path.basename(model_dir) == "model":
            parent = os.path.dirname(parent)
        named = os.path.join(parent, STORE_FOLDER)
    own = os.path.join(environ.get("TMPDIR") or "/tmp", f"mmekit-{os.getuid()}", "layers")  # noqa: S108
    return [os.path.abspath(named), own]


def is_trusted(folder: str, model_dir: str) -> bool:
    """Whether what lies in a folder is of nobody who could not change the model as well.

    It belongs to this user, to root or to whom the model belongs, and no other may write to it.
    """
    try:
        status = os.lstat(folder)
        owners = (0, os.geteuid(), os.stat(model_dir).st_uid)
    except OSError:
        return False
    if status.st_uid not in owners or status.st_mode & OTHERS_MAY_WRITE:
        return False
    return stat.S_ISDIR(status.st_mode)


def hold(store: str, sha256: str) -> int | None:
    """Return a descriptor that keeps a layer from being evicted while it is open.

    None when the store has no such layer. The descriptor survives an exec.
    """
    import fcntl

    path = os.path.join(store, sha256)
    try:
        lock = os.open(path + LOCK_SUFFIX, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Whoever evicts has it for as long as a rename takes.
        fcntl.flock(lock, fcntl.LOCK_SH)
        # That it was used just now; a store of another user's keeps its times.
        if os.path.isdir(path) and _is_unchanged(lock, path):
            with contextlib.suppress(OSError):
                os.utime(lock)
            os.set_inheritable(lock, True)  # noqa: FBT003
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _is_unchanged(lock: int, path: str) -> bool:
    """Whether a layer's files are as they were when they were verified.

    A model that may write to them, as root may, would change what all others read. One that was
    changed is put aside, and so is to be had anew.
    """
    said = os.pread(lock, 1 << 8, 0).split()
    if len(said) < 2 or said[1] == signature(path):  # noqa: PLR2004
        return True
    store, name = os.path.split(path)
    with contextlib.suppress(OSError):
        os.rename(path, os.path.join(store, f".{name}.{os.getpid()}{GONE_SUFFIX}"))
    return False


def signature(path: str) -> bytes:
    """Return what tells a layer's files from changed ones; nothing for a layer of very many.

    Those are libraries, which are read while others are: as those of an image, nobody guards them.
    """
    from binascii import crc32

    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = [one for one in folders if one != "__pycache__"]
        for name in files:
            status = os.lstat(os.path.join(folder, name))
            at = os.path.relpath(folder, path)
            found.append((at, name, status.st_ino, status.st_size, status.st_mtime_ns))
            if len(found) > MOST_GUARDED:
                return b"-"
    return b"%08x" % crc32(repr(sorted(found)).encode("utf-8", "surrogateescape"))


def source_folders(environ: Mapping[str, str]) -> list[str]:
    """Return the folders in which layers may lie ready."""
    return [one for one in sources(environ) if os.path.isabs(one)]


def sources(environ: Mapping[str, str]) -> list[str]:
    """Return where layers are to be had, in this order."""
    return environ.get(SOURCES_VARIABLE, "").replace(",", " ").split()


def place_text(folder: str) -> bytes:
    """Return what tells a folder from another that comes in its place.

    Raises
    ------
    OSError
        It is not there.
    """
    status = os.lstat(folder)
    identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    return os.fsencode(folder) + b"\0%d %d %d %d" % identity


def place_of(store: str, sha256: str, environ: Mapping[str, str]) -> str | None:
    """Return the folder of the image in which a layer lies that was verified there."""
    try:
        with open(os.path.join(store, sha256 + PLACE_SUFFIX), "rb") as file:
            text = file.read()
    except OSError:
        return None
    for source in source_folders(environ):
        folder = os.path.join(source, sha256)
        with contextlib.suppress(OSError):
            if place_text(folder) == text:
                return folder
    return None


def find(
    sha256: str, stores: list[str], model_dir: str, environ: Mapping[str, str]
) -> tuple[str, tuple[int, ...]] | None:
    """Return a layer's folder and the locks that hold it, if it is here."""
    for store in stores:
        lock = hold(store, sha256)
        if lock is not None:
            folder = os.path.join(store, sha256)
            if is_trusted(folder, model_dir):
                return folder, (lock,)
            os.close(lock)
        folder = place_of(store, sha256, environ) or ""
        if folder and is_trusted(folder, model_dir):
            return folder, ()
    return None


def kept_runtime(model_dir: str, environ: Mapping[str, str]) -> str | None:
    """Return where the runtime of a thin archive lies here already, and hold it from now on."""
    try:
        with open(os.path.join(model_dir, LISTING), "rb") as file:
            data = file.read(LISTING_BYTES)
    except OSError:
        return None
    named = data.partition(b'"kind": "runtime"')[2].partition(b'"sha256": "')[2][:SHA256_DIGITS]
    if not named.isalnum():
        return None
    found = find(named.decode(), trusted_stores(model_dir, environ), model_dir, environ)
    return None if found is None else found[0]


def trusted_stores(model_dir: str, environ: Mapping[str, str]) -> list[str]:
    """Return where a model may take layers from."""
    return [one for one in store_folders(model_dir, environ) if is_trusted(one, model_dir)]


def platform() -> str:
    """Return what layers.json calls the platform that this is."""
    return f"{sys.platform}-{os.uname().machine}"
