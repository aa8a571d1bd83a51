"""How many files and connections a process may have open."""

from __future__ import annotations

import contextlib
import os
import stat

RESERVE = 64
"""What a fork server keeps for the models that it has: to replace and to wake their processes."""

PER_SLOT = 5
"""More than a slot takes in the fork server or in the model's process."""


def raise_descriptor_limit() -> None:
    """Allow as many as this user may have: a slot needs up to five, a client's connection one."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS has an upper limit below "unlimited".
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int | None:
    """Return how many this process may have; None when nothing limits them."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def are_left(count: int) -> bool:
    """Whether so many more can be opened now."""
    opened: list[int] = []
    try:
        opened += (os.dup(0) for _ in range(count))
    except OSError:
        return False
    else:
        return True
    finally:
        for fd in opened:
            os.close(fd)


class Pipes:
    """Descriptors of pipes into which workers print, each kept once.

    A server that asks for its slots itself has one pair for all the slots of a model.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], int] = {}
        self._users: dict[int, tuple[tuple[int, int], int]] = {}

    def take(self, fd: int) -> int:
        """Return what to use instead: another one of the same pipe, this one being closed then."""
        status = os.fstat(fd)
        if not stat.S_ISFIFO(status.st_mode):
            return fd  # of files, each opening has a place of its own
        pipe = (status.st_dev, status.st_ino)
        kept = self._kept.setdefault(pipe, fd)
        _, users = self._users.get(kept, (pipe, 0))
        self._users[kept] = (pipe, users + 1)
        if kept != fd:
            os.close(fd)
        return kept

    def let_go(self, fd: int) -> None:
        """Close it, unless another one uses it."""
        if fd in self._users:
            pipe, users = self._users.pop(fd)
            if users > 1:
                self._users[fd] = (pipe, users - 1)
                return
            del self._kept[pipe]
        os.close(fd)
