"""Has a function's process find its code at /var/task, as on AWS.

In a mount namespace of its own, which Linux gives to everybody, or to nobody but root: then the
code is where LAMBDA_TASK_ROOT says. Run by the nursery; the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

__all__ = ["TASK_ROOT", "can_mount", "mount"]

TASK_ROOT = "/var/task"

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # sched.h
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18  # mount.h
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def can_mount(folder: Path) -> bool:
    """Whether processes of this one may see their code there: tried once, by one that ends."""
    if _libc is None:
        return False
    process = os.fork()
    if process == 0:
        status = 1
        with contextlib.suppress(BaseException):
            mount(str(folder))
            status = 0 if Path(TASK_ROOT).samefile(folder) else 1
        os._exit(status)
    _, status = os.waitpid(process, 0)
    return status == 0


def mount(root: str) -> None:
    """Let this process, and what it starts, see a folder at /var/task, read-only as AWS has it.

    Raises
    ------
    OSError
        The kernel does not allow it. The process is not to be used then.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NEW_MOUNTS | (_NEW_USER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _mount("none", "/", _RECURSIVE | _PRIVATE)
    # It may lie below the folder that is about to be hidden.
    source = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    if not Path(TASK_ROOT).is_dir():
        _make_place(Path(TASK_ROOT))
    _mount(f"/proc/self/fd/{source}", TASK_ROOT, _BIND)
    os.close(source)
    _mount("none", TASK_ROOT, _REMOUNT | _BIND | _READ_ONLY)


def _make_place(place: Path) -> None:
    """Make a folder in another that is not ours to write to: in a copy, with all that it has."""
    parent = place.parent
    before = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    _mount("tmpfs", str(parent), 0, "tmpfs")
    for name in os.listdir(before):  # noqa: PTH208 - of a folder that is hidden by now
        old, new = Path(f"/proc/self/fd/{before}/{name}"), parent / name
        if old.is_symlink():
            new.symlink_to(old.readlink())
        elif old.is_dir():
            new.mkdir()
            _mount(str(old), str(new), _BIND | _RECURSIVE)
    place.mkdir()
    os.close(before)


def _mount(source: str, target: str, flags: int, kind: str = "none") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
