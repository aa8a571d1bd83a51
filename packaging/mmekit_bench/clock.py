"""The load generator's clocks: one that rings on time, one that says what it took for itself."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmekit_bench.histogram import DurationCounter, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["OwnTime", "OwnTimeMeter", "PreciseTimer"]

_CLOCK_MONOTONIC = 1  # what time.perf_counter reads on Linux
_FLAGS = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_NEXT_TO_NOTHING_S = 1e-9

_LARGEST_SHARE = 0.1
_LARGEST_BUSY = 0.8
_LEAST_LAG_MS = 0.2  # a sleeping process takes about half of that to wake up


class _TimerSpec(ctypes.Structure):
    """The structure itimerspec of timerfd_settime(2)."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class PreciseTimer:
    """Calls a function at a moment of `time.perf_counter`, right to some ten microseconds.

    Timers of asyncio and uvloop count whole milliseconds: at 2,000 requests a second every other
    one would be late by as much as it takes to answer. Linux's timerfd does not.

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
        # All zeros would disarm it (timerfd_settime(2)), and the load would stop without a word.
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
        # It may have been set anew since the loop saw it ring, which takes back what is to be read.
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)
        self._ring()


@dataclass(frozen=True)
class OwnTime:
    """What the load generator took for itself.

    Attributes
    ----------
    cpu_us
        Microseconds of processor time for each request, without those of its housekeeping.
    busy
        The share of the measured time in which it used a processor.
    lag
        How late timers of its event loop rang.
    """

    cpu_us: float
    busy: float
    lag: Histogram

    def share(self, median_ms: float) -> float:
        """Return its processor time as a share of the median time until an answer, in ms."""
        return self.cpu_us / 1e3 / median_ms if median_ms else 0.0

    def limits(self, median_ms: float) -> tuple[str, ...]:
        """Say in sentences how the client shows in the figures; nothing when it does not.

        Parameters
        ----------
        median_ms
            The median time until an answer.
        """
        found = []
        share = self.share(median_ms)
        if share >= _LARGEST_SHARE:
            found.append(
                f"The client is part of the figures: its own {self.cpu_us:.0f} µs a request are "
                f"{share:.0%} of the median."
            )
        if self.busy >= _LARGEST_BUSY:
            found.append(f"The client was the limit: it was busy for {self.busy:.0%} of the time.")
        lag_ms = self.lag.percentile(50)
        if lag_ms >= max(_LEAST_LAG_MS, _LARGEST_SHARE * median_ms):
            found.append(
                f"The client was the limit: it ran {lag_ms:.2f} ms late at the median, because it "
                "had too much to do or no processor was free."
            )
        return tuple(found)


class OwnTimeMeter:
    """Looks at the clocks at the beginning and the end of what is measured."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        self._late = array("d")
        self._housekeeping = 0.0

    def late(self, seconds: float) -> None:
        """Take down how late something was."""
        self._late.append(seconds)

    @contextlib.contextmanager
    def housekeeping(self) -> Iterator[None]:
        """Keep what is done meanwhile out of the requests' account."""
        began = time.process_time()
        yield
        self._housekeeping += time.process_time() - began

    def result(self, requests: int) -> OwnTime:
        """Return what has been found since the start.

        Parameters
        ----------
        requests
            How many there were meanwhile, failed ones included.
        """
        cpu = time.process_time() - self._cpu
        wall = time.perf_counter() - self._wall
        lag = DurationCounter()
        lag.add(np.array(self._late))
        return OwnTime(
            cpu_us=(cpu - self._housekeeping) / requests * 1e6 if requests else 0.0,
            busy=cpu / wall if wall else 0.0,
            lag=lag.result(),
        )
