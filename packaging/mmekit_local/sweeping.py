"""Ends whatever has a mark in its environment: what a server that was killed has left.

A script of its own, ``python -I -S FILE NAME=VALUE``, which needs nothing but Python. A process is
found by what it was started with, whoever started it, in whatever session, and whoever its parent
is by now. Linux only: it looks into /proc.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

_SECONDS = 10.0
_PAUSE_S = 0.01


def sweep(mark: bytes) -> None:
    """Kill processes that have the mark, and what they start meanwhile, until none is left."""
    deadline = time.monotonic() + _SECONDS
    while _kill_all(mark) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)


def _kill_all(mark: bytes) -> bool:
    """Kill those that there are; whether there were any."""
    found = False
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdecimal() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                found |= _kill_if_marked(int(name), mark)
    return found


def _kill_if_marked(pid: int, mark: bytes) -> bool:
    # Opened first: what is looked at, and what is killed, is the same process then.
    process = os.pidfd_open(pid)
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            if mark not in file.read().split(b"\0"):
                return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
    finally:
        os.close(process)
    return True


if __name__ == "__main__":
    sweep(os.fsencode(sys.argv[1]))
