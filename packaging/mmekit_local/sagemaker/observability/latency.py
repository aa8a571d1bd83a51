"""How long requests take: a histogram that costs the hot path one increment."""

from __future__ import annotations

from itertools import accumulate
from math import log2
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LatencyHistogram", "percentile"]

_FLOOR = 31.25  # microseconds; 1 ms is an edge then, and every power of two of it
_PER_OCTAVE = 16  # an edge is 4.4 % above the one before
_OCTAVES = 21  # up to 65.536 s, just above the 60 s that SageMaker gives an invocation
_LAST = _PER_OCTAVE * _OCTAVES


class LatencyHistogram:
    """Counts latencies in buckets whose width grows with them.

    Examples
    --------
    >>> histogram = LatencyHistogram()
    >>> for microseconds in (900.0, 1100.0, 70_000_000.0):
    ...     histogram.add(microseconds)
    >>> [(edge, count) for edge, count in histogram.by_octave() if edge in (0.001, 0.002)]
    [(0.001, 1), (0.002, 2)]
    >>> sum(histogram.counts)
    3
    """

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * (_LAST + 1)
        """Requests by bucket; the last one has no upper edge."""

    def add(self, microseconds: float) -> None:
        """Count one request."""
        if microseconds <= _FLOOR:
            self.counts[0] += 1
            return
        self.counts[min(int(log2(microseconds / _FLOOR) * _PER_OCTAVE), _LAST)] += 1

    def by_octave(self) -> list[tuple[float, int]]:
        """Return (upper edge in seconds, requests that took less), an octave at a time."""
        sums = list(accumulate(self.counts))
        return [
            (_FLOOR * 2.0**octave / 1e6, sums[octave * _PER_OCTAVE - 1])
            for octave in range(1, _OCTAVES + 1)
        ]


def percentile(counts: Sequence[int], fraction: float) -> float | None:
    """Return a percentile of a histogram's counts in milliseconds, right to 2.2 %.

    None when nothing was counted.
    """
    rest = sum(counts) * fraction
    if not rest:
        return None
    for place, count in enumerate(counts):
        rest -= count
        if count and rest <= 0:
            return float(_FLOOR * 2.0 ** ((place + 0.5) / _PER_OCTAVE) / 1e3)
    return None
