"""An alarm clock for the event loop that is right to some ten microseconds.

Timers of asyncio and uvloop count whole milliseconds: at 2,000 requests a second every other one
would be late by as much as it takes to answer. Linux's timerfd does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Alarm"]

_CLOCK_MONOTONIC = 1  # what time.perf_counter reads on Linux
_FLAGS = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_NEXT_TO_NOTHING_S = 1e-9


class _TimerSpec(ctypes.Structure):
    """The structure itimerspec of timerfd_settime(2)."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Alarm:
    """Calls a function at a moment of `time.perf_counter`.

    Parameters
    ----------
    ring
        What to call.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self._descriptor >= 0:
            self._loop.add_reader(self._descriptor, self._read)

    def set(self, moment: float) -> None:
        """Ring once at a moment; one set before is forgotten."""
        seconds = max(moment - time.perf_counter(), _NEXT_TO_NOTHING_S)
        if self._descriptor < 0:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(seconds, self._ring)
            return
        whole = int(seconds)
        spec = _TimerSpec(0, 0, whole, max(1, int((seconds - whole) * 1e9)))
        self._libc.timerfd_settime(self._descriptor, 0, ctypes.byref(spec), None)

    def close(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)
        self._ring()
