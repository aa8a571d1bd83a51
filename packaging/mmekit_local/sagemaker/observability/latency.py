"""How long requests take: the last seconds exactly, and all of them in Prometheus' buckets."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Latencies", "LatencySeries", "SeriesPoint"]

_OCTAVES = 21
_EDGES = tuple(31.25 * 2.0**octave for octave in range(1, _OCTAVES + 1))
"""Microseconds: 1 ms is an edge, and the last is just above the 60 s of an invocation."""
_MOST_KEPT = 1 << 16
_KEPT_SECONDS = 300
_WINDOW = 10  # seconds that a percentile looks back


class Latencies:
    """The latencies of one variant, as they come.

    Counting into fine buckets right away would cost the hot path a logarithm; keeping a number
    costs a tenth of that, and the percentiles are exact.

    Examples
    --------
    >>> latencies = Latencies()
    >>> for microseconds in (900.0, 1100.0, 70_000_000.0):
    ...     latencies.add(microseconds)
    >>> [(edge, count) for edge, count in latencies.by_octave() if edge in (0.001, 0.002)]
    [(0.001, 1), (0.002, 2)]
    >>> latencies.count
    3
    """

    __slots__ = ("_before", "_below", "_newest")

    def __init__(self) -> None:
        self._newest = array("d")
        self._before = 0
        self._below = [0] * _OCTAVES

    @property
    def count(self) -> int:
        """How many there were, ever."""
        return self._before + len(self._newest)

    def add(self, microseconds: float) -> None:
        """Take in one request's."""
        self._newest.append(microseconds)
        if len(self._newest) == _MOST_KEPT:  # nobody takes those of a deployment
            self.take()

    def take(self) -> list[float]:
        """Return those that came since the last time, in order of size."""
        newest = sorted(self._newest)
        del self._newest[:]
        self._before += len(newest)
        self._below = self._counted(newest)
        return newest

    def by_octave(self) -> list[tuple[float, int]]:
        """Return (upper edge in seconds, requests that took no longer, ever), by octave."""
        counts = self._counted(sorted(self._newest))
        return [(edge / 1e6, count) for edge, count in zip(_EDGES, counts, strict=True)]

    def _counted(self, newest: Sequence[float]) -> list[int]:
        # To the right of what equals an edge: Prometheus' buckets include theirs.
        pairs = zip(_EDGES, self._below, strict=True)
        return [count + bisect_right(newest, edge) for edge, count in pairs]


@dataclass(frozen=True)
class SeriesPoint:
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
    """The last five minutes of a variant's latencies, second by second."""

    def __init__(self, latencies: Latencies) -> None:
        self.seconds: deque[SeriesPoint] = deque(maxlen=_KEPT_SECONDS)
        self._latencies = latencies
        self._lately: deque[list[float]] = deque(maxlen=_WINDOW)
        self._errors = 0.0
        self._at: float | None = None

    def tick(self, at: float, errors: float) -> None:
        """Close a second; `errors` counts all errors so far."""
        newest = self._latencies.take()
        self._lately.append(newest)
        lately = sorted(chain.from_iterable(self._lately))
        # `at` is of a clock that may be set back.
        width = 1.0 if self._at is None else max(at - self._at, 0.1)
        self.seconds.append(
            SeriesPoint(
                at,
                len(newest) / width,
                (errors - self._errors) / width,
                *(_percentile_ms(lately, percent) for percent in (50, 95, 99)),
            )
        )
        self._errors, self._at = errors, at


def _percentile_ms(ordered: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that so many per cent do not exceed, in milliseconds."""
    if not ordered:
        return None
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] / 1e3
