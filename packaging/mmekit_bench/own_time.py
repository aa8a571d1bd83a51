"""How much of what is measured is the measurer itself."""

from __future__ import annotations

import contextlib
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmekit_bench.histogram import Counter, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OwnTime", "Watch"]

_LARGEST_SHARE = 0.1
_LARGEST_BUSY = 0.8
_LEAST_LAG_MS = 0.2  # a sleeping process takes about half of that to wake up


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
        How late alarms of its event loop rang; with boto3's threads there are none.
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


class Watch:
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
        lag = Counter()
        lag.add(np.array(self._late))
        return OwnTime(
            cpu_us=(cpu - self._housekeeping) / requests * 1e6 if requests else 0.0,
            busy=cpu / wall if wall else 0.0,
            lag=lag.result(),
        )
