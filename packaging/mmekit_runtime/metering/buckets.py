"""Many values as a few: how often about which, as CloudWatch takes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_STEPS = 8
"""Buckets an octave, so that a value and the mean of its bucket differ by 9 % at most."""
_FOLDED = 1024
_LEAST = 2.0**-40


@dataclass(slots=True)
class ValueBuckets:
    """The values since it was made.

    Attributes
    ----------
    count, total, least, most
        Of all of them; exact, once they are `folded`.
    """

    count: int = 0
    total: float = 0.0
    least: float = 0.0
    most: float = 0.0
    _fresh: list[float] = field(default_factory=list)
    _buckets: dict[int, tuple[int, float]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is a value."""
        return bool(self.count or self._fresh)

    def add(self, values: Iterable[float]) -> None:
        """Take in values, none of them negative."""
        self._fresh.extend(values)
        if len(self._fresh) >= _FOLDED:
            self.fold()

    def fold(self) -> None:
        """Keep of the values how many there are of about which size."""
        if not self._fresh:
            return
        # A model process has it; who has the names of the metrics only goes without.
        import numpy as np

        values = np.array(self._fresh, dtype=np.float64)
        self._fresh = []
        least, most = float(values.min()), float(values.max())
        self.least = min(self.least, least) if self.count else least
        self.most = max(self.most, most)
        self.count += len(values)
        self.total += float(values.sum())
        places = np.floor(np.log2(np.maximum(values, _LEAST)) * _STEPS).astype(np.int64)
        found, inverse, counts = np.unique(places, return_inverse=True, return_counts=True)
        sums = np.bincount(inverse.ravel(), weights=values)
        for place, count, total in zip(found.tolist(), counts.tolist(), sums.tolist(), strict=True):
            before = self._buckets.get(place, (0, 0.0))
            self._buckets[place] = (before[0] + count, before[1] + total)

    def values(self, most: int) -> list[tuple[float, int]]:
        """Return the mean of each bucket and how many values it has; of many, fewer and wider."""
        self.fold()
        buckets = self._buckets
        while len(buckets) > most:
            wider: dict[int, tuple[int, float]] = {}
            for place, (count, total) in buckets.items():
                before = wider.get(place // 2, (0, 0.0))
                wider[place // 2] = (before[0] + count, before[1] + total)
            buckets = wider
        return [(total / count, count) for _, (count, total) in sorted(buckets.items())]
