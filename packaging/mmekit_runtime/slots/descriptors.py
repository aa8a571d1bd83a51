"""How many files and connections a process may have open."""

from __future__ import annotations

import contextlib
import os


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
