"""Counts of durations, fine enough for any percentile: the raw result that everything is read off.

Buckets are logarithmic with linear parts, as in Gil Tene's HdrHistogram: 256 to each power of two,
so that no duration is off by more than 0.2 %.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["DurationCounter", "Histogram"]

_PARTS = 256  # of each power of two
_POWERS = 40  # of a microsecond: up to twelve days
_BUCKETS = _PARTS * _POWERS
_US = 1e6


@dataclass(frozen=True)
class Histogram:
    """Durations, counted.

    Attributes
    ----------
    buckets
        Pairs (number of a bucket, count), in order; empty buckets are left out.
    least_ms, mean_ms, most_ms
        Exact. 0 when nothing was counted.
    """

    buckets: tuple[tuple[int, int], ...] = ()
    least_ms: float = 0.0
    mean_ms: float = 0.0
    most_ms: float = 0.0

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(count for _, count in self.buckets)

    def percentile(self, percent: float) -> float:
        """Return the smallest duration that at least so many per cent do not exceed, in ms.

        It is 0 when nothing was counted.
        """
        # Nearest rank, and no interpolation: between two answers there was none. The product may
        # come out above a whole number, as 99.9 % of 41,000 does, and would be a rank too high.
        wanted = max(1, math.ceil(self.count * percent / 100 - 1e-9))
        if wanted >= self.count:
            # The longest is known exactly. Read off its bucket, it might be one that never was.
            return self.most_ms
        up_to = itertools.accumulate(count for _, count in self.buckets)
        bucket = next(
            bucket for (bucket, _), seen in zip(self.buckets, up_to, strict=True) if seen >= wanted
        )
        return min(max(_middle_ms(bucket), self.least_ms), self.most_ms)

    def curve(self) -> list[tuple[float, int]]:
        """Return each bucket's duration in ms and its count."""
        return [(_middle_ms(bucket), count) for bucket, count in self.buckets]


class DurationCounter:
    """Counts durations, many at a time."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_BUCKETS, dtype=np.int64)
        self._sum = 0.0
        self._least = math.inf
        self._most = 0.0

    def add(self, seconds: NDArray[np.float64]) -> None:
        """Count durations, in seconds."""
        if not seconds.size:
            return
        # frexp gives less than half a microsecond a power below zero, and numpy would count it from
        # the end: among the longest.
        fractions, powers = np.frexp(np.maximum(seconds * _US, 0.5))
        buckets = powers * _PARTS + ((fractions - 0.5) * 2 * _PARTS).astype(np.int64)
        # Not counts[buckets] += 1, which counts a bucket once however often it is named.
        np.add.at(self._counts, np.minimum(buckets, _BUCKETS - 1), 1)
        self._sum += float(seconds.sum())
        self._least = min(self._least, float(seconds.min()))
        self._most = max(self._most, float(seconds.max()))

    def result(self) -> Histogram:
        """Return what was counted so far."""
        (used,) = np.nonzero(self._counts)
        if not used.size:
            return Histogram()
        counts: Sequence[int] = self._counts[used].tolist()
        return Histogram(
            buckets=tuple(zip(used.tolist(), counts, strict=True)),
            least_ms=self._least * 1e3,
            mean_ms=self._sum / sum(counts) * 1e3,
            most_ms=self._most * 1e3,
        )


def _middle_ms(bucket: int) -> float:
    power, part = divmod(bucket, _PARTS)
    return math.ldexp(0.5 + (part + 0.5) / (2 * _PARTS), power) / 1e3
