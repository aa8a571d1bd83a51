"""How long requests take: a histogram that costs the hot path one increment, and its seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from math import log2
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LatencyHistogram", "LatencySeries", "Second", "percentile"]

_FLOOR = 31.25  # microseconds; 1 ms is an edge then, and every power of two of it
_PER_OCTAVE = 16  # an edge is 4.4 % above the one before
_OCTAVES = 21  # up to 65.536 s, just above the 60 s that SageMaker gives an invocation
_LAST = _PER_OCTAVE * _OCTAVES
_KEPT_SECONDS = 300
_WINDOW = 10  # seconds that a percentile looks back


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


@dataclass(frozen=True)
class Second:
    """What happened in about a second.

    Attributes
    ----------
    at
        Its end, in seconds since the epoch.
    rate, errors
        Requests, and errors among them, per second.
    p50, p95, p99
        Milliseconds, over the last ten seconds: one second of a quiet endpoint holds too few
        requests for a percentile. None when there was no request.
    """

    at: float
    rate: float
    errors: float
    p50: float | None
    p95: float | None
    p99: float | None


class LatencySeries:
    """The last five minutes of a histogram, second by second."""

    def __init__(self, histogram: LatencyHistogram) -> None:
        self.seconds: deque[Second] = deque(maxlen=_KEPT_SECONDS)
        self._histogram = histogram
        self._counts: deque[list[int]] = deque([[0] * (_LAST + 1)], maxlen=_WINDOW + 1)
        self._errors = 0.0
        self._at: float | None = None

    def tick(self, at: float, errors: float) -> None:
        """Close a second; `errors` counts all errors so far."""
        counts, before = list(self._histogram.counts), self._counts[-1]
        self._counts.append(counts)
        lately = [new - old for new, old in zip(counts, self._counts[0], strict=True)]
        width = 1.0 if self._at is None else max(at - self._at, 0.1)
        self.seconds.append(
            Second(
                at,
                (sum(counts) - sum(before)) / width,
                (errors - self._errors) / width,
                percentile(lately, 0.5),
                percentile(lately, 0.95),
                percentile(lately, 0.99),
            )
        )
        self._errors, self._at = errors, at
