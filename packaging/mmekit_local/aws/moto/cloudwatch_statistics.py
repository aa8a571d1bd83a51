"""CloudWatch's statistics beyond sum and average: percentiles and their like, of single values.

Source: "CloudWatch statistics definitions" in the user guide. AWS says nothing about how it
interpolates; here a percentile is numpy's, linear between the two values around it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mmekit_local.sagemaker.observability.observations import Distribution

__all__ = ["extended_statistic", "merged"]

_NUMBER = r"(?:100(?:\.0+)?|\d{1,2}(?:\.\d+)?)"
_PERCENTILE = re.compile(rf"p({_NUMBER})", re.IGNORECASE)
_TRIMMED = re.compile(
    r"(tm|wm|tc|ts|pr)(?:(?P<most>[0-9.]+)|\((?P<low>[^:()]*):(?P<high>[^:()]*)\))", re.IGNORECASE
)
_BOUND = re.compile(r"(-?[0-9.]+)(%?)")
_WHOLE = 100.0


def extended_statistic(name: str) -> Callable[[Distribution], float | None] | None:
    """Return how a statistic is computed; None for a name that is none.

    The function returns None where there is nothing to compute it of.

    Examples
    --------
    >>> values = Counter([1.0, 2.0, 3.0, 4.0])
    >>> extended_statistic("p50")(values)
    2.5
    >>> extended_statistic("tm75")(values)
    2.0
    >>> extended_statistic("TC(2:3)")(values)
    1.0
    >>> extended_statistic("p101") is None
    True
    """
    percentile = _PERCENTILE.fullmatch(name)
    if percentile is not None:
        return lambda values: _percentile(values, float(percentile[1]))
    if name.upper() == "IQM":
        name = "TM(25%:75%)"
    spelled = _TRIMMED.fullmatch(name)
    if spelled is None:
        return None
    kind = spelled[1].lower()
    if spelled["most"] is not None:
        low, high = "", f"{spelled['most']}%"
        if kind == "pr":  # it has no short form
            return None
    else:
        low, high = spelled["low"].strip(), spelled["high"].strip()
    bounds = _Bounds.of(low, high)
    if bounds is None or (kind == "pr" and bounds.by_share):
        return None
    compute = _KINDS[kind]
    return lambda values: compute(values, bounds) if values else None


class _Bounds:
    """Between which values, or which shares of all values, a statistic looks."""

    def __init__(self, low: float | None, high: float | None, *, by_share: bool) -> None:
        self.low, self.high, self.by_share = low, high, by_share

    @classmethod
    def of(cls, low: str, high: str) -> _Bounds | None:
        """Read two bounds, of which one may be missing; None where they are none."""
        found = [_BOUND.fullmatch(text) for text in (low, high) if text]
        if not found or None in found:
            return None
        units = {one[2] for one in found if one is not None}
        try:
            least, most = (float(text.rstrip("%")) if text else None for text in (low, high))
        except ValueError:
            return None
        by_share = units == {"%"}
        shares = [one for one in (least, most) if one is not None]
        if len(units) > 1 or (by_share and not all(0 <= one <= _WHOLE for one in shares)):
            return None
        if least is not None and most is not None and least >= most:
            return None
        return cls(least, most, by_share=by_share)

    def within(self, values: Distribution) -> Distribution:
        """Return the values within; of a value on the edge of a share, its part."""
        if not self.by_share:
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            return Counter({value: n for value, n in values.items() if low < value <= high})
        count = sum(values.values())
        first = (self.low or 0.0) / _WHOLE * count
        last = (_WHOLE if self.high is None else self.high) / _WHOLE * count
        found: dict[float, Any] = {}  # parts of counts
        before = 0
        for value in sorted(values):
            after = before + values[value]
            part = min(after, last) - max(before, first)
            if part > 0:
                found[value] = part
            before = after
        return Counter(found)

    def edges(self, values: Distribution) -> tuple[float, float]:
        """Return the values at the bounds."""
        if not self.by_share:
            low = min(values) if self.low is None else self.low
            return low, max(values) if self.high is None else self.high
        low, high = self.low or 0.0, _WHOLE if self.high is None else self.high
        return _percentile(values, low), _percentile(values, high)


def _percentile(values: Distribution, percent: float) -> float:
    """Return numpy's percentile, without making a list of all values."""
    place = percent / _WHOLE * (sum(values.values()) - 1)
    lower, share = math.floor(place), place - math.floor(place)
    passed, found = 0, None
    for value in sorted(values):
        passed += values[value]
        if found is None and passed > lower:
            found = value
        if found is not None and (not share or passed > lower + 1):
            return found + (value - found) * share if share else found
    return found if found is not None else math.nan


def _mean(values: Distribution) -> float | None:
    count = sum(values.values())
    return sum(value * n for value, n in values.items()) / count if count else None


def _trimmed_mean(values: Distribution, bounds: _Bounds) -> float | None:
    return _mean(bounds.within(values))


def _winsorized_mean(values: Distribution, bounds: _Bounds) -> float | None:
    low, high = bounds.edges(values)
    clipped: Distribution = Counter()
    for value, n in values.items():
        clipped[min(max(value, low), high)] += n
    return _mean(clipped)


def _trimmed_count(values: Distribution, bounds: _Bounds) -> float:
    return float(sum(bounds.within(values).values()))


def _trimmed_sum(values: Distribution, bounds: _Bounds) -> float:
    return sum(value * n for value, n in bounds.within(values).items())


def _percentile_rank(values: Distribution, bounds: _Bounds) -> float:
    return _WHOLE * sum(bounds.within(values).values()) / sum(values.values())


_KINDS: dict[str, Callable[[Distribution, _Bounds], float | None]] = {
    "tm": _trimmed_mean,
    "wm": _winsorized_mean,
    "tc": _trimmed_count,
    "ts": _trimmed_sum,
    "pr": _percentile_rank,
}


def merged(distributions: Iterable[Distribution]) -> Distribution:
    """Return several as one."""
    whole: Distribution = Counter()
    for one in distributions:
        whole.update(one)
    return whole
