"""Values of one metric: gathered one by one, and summed up as CloudWatch takes them."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BatchCounter",
    "BatchSummary",
    "Dimensions",
    "Distribution",
    "Observation",
    "condensed",
    "counted",
    "gauge",
    "percentile_of",
    "summarised",
]

Dimensions = tuple[tuple[str, str], ...]

Distribution = Counter[float]
"""How often each value was there."""

_PERCENT = 100.0
_EXACT = 4096  # values of one batch that are kept as they are
_STEPS_A_DECADE = 5000
"""Of those that are rounded: by 0.02 % at most."""


@dataclass(frozen=True)
class Observation:
    """Some values of one metric, summed up as CloudWatch's StatisticSet does it.

    Attributes
    ----------
    values
        The values themselves, for percentiles; of very many, those that are alike are one.
    """

    name: str
    unit: str
    dimensions: Dimensions
    count: float
    total: float
    least: float
    most: float
    values: Distribution


class BatchSummary:
    """The values since the last batch, with count, sum, least and most, and what was before it."""

    __slots__ = (
        "_count_before",
        "_keep",
        "_total_before",
        "count",
        "least",
        "most",
        "total",
        "values",
    )

    def __init__(self) -> None:
        self.count = 0
        self.total = self.least = self.most = 0.0
        self._count_before = 0
        self._total_before = 0.0
        self.values: array[float] = array("d")
        # Bound once, since `add` is called several times a request.
        self._keep = self.values.append

    @property
    def ever(self) -> int:
        """How many values there were, ever."""
        return self._count_before + self.count

    @property
    def total_ever(self) -> float:
        """Their sum."""
        return self._total_before + self.total

    def add(self, value: float) -> None:
        """Take in one value."""
        if not self.count or value < self.least:
            self.least = value
        # From 0 on: nothing that is measured is less, so the first value is no case of its own.
        if value > self.most:  # noqa: PLR1730 - this is the hot path, and max() is a call
            self.most = value
        self.count += 1
        self.total += value
        self._keep(value)

    def clear(self) -> None:
        """Begin a new batch."""
        self._count_before += self.count
        self._total_before += self.total
        self.count = 0
        self.total = self.least = self.most = 0.0
        self.values = array("d")
        self._keep = self.values.append


class BatchCounter:
    """How often something happened since the last batch, and before it."""

    __slots__ = ("_before", "count")

    def __init__(self) -> None:
        self.count = 0
        self._before = 0

    @property
    def ever(self) -> int:
        """How often it happened, ever."""
        return self._before + self.count

    def clear(self) -> None:
        """Begin a new batch."""
        self._before += self.count
        self.count = 0


def counted(
    name: str,
    unit: str,
    dimensions: Dimensions,
    sent: int,
    count: int,
    value: float = 1.0,
) -> Observation:
    """Return so many values, of which some are not 0."""
    return Observation(
        name,
        unit,
        dimensions,
        sent,
        count * value,
        value if count == sent else 0.0,
        value if count else 0.0,
        # The plus leaves out what was there 0 times.
        +Counter({value: count}) + Counter({0.0: sent - count}),
    )


def summarised(name: str, unit: str, dimensions: Dimensions, values: BatchSummary) -> Observation:
    """Return what a summary has since the last batch."""
    return Observation(
        name,
        unit,
        dimensions,
        values.count,
        values.total,
        values.least,
        values.most,
        condensed(values.values),
    )


def gauge(name: str, unit: str, dimensions: Dimensions, value: float) -> Observation:
    """Return one value of a metric."""
    return Observation(name, unit, dimensions, 1, value, value, value, Counter({value: 1}))


def condensed(values: Sequence[float]) -> Distribution:
    """Return how often each value is there; of very many, values that are alike become one.

    Examples
    --------
    >>> condensed([1.0, 2.0, 2.0])
    Counter({2.0: 2, 1.0: 1})
    """
    if len(values) <= _EXACT:
        return Counter(values)
    return Counter(_rounded(value) for value in values)


def _rounded(value: float) -> float:
    if not value:
        return 0.0
    steps = round(math.log10(abs(value)) * _STEPS_A_DECADE)
    return math.copysign(10 ** (steps / _STEPS_A_DECADE), value)


def percentile_of(values: Distribution, percent: float) -> float:
    """Return numpy's percentile, without making a list of all values.

    Examples
    --------
    >>> percentile_of(Counter([1.0, 2.0, 3.0, 4.0]), 50)
    2.5
    """
    place = percent / _PERCENT * (sum(values.values()) - 1)
    lower, share = math.floor(place), place - math.floor(place)
    passed, found = 0, None
    for value in sorted(values):
        passed += values[value]
        if found is None and passed > lower:
            found = value
        if found is not None and (not share or passed > lower + 1):
            return found + (value - found) * share if share else found
    return found if found is not None else math.nan
