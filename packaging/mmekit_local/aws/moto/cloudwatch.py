"""Percentiles for moto's CloudWatch, which knows sums and averages alone.

Values that a client puts one by one have percentiles, as on AWS, and so have the metrics of the
endpoints here, whose single values come along with their sums. Of a client's own statistic sets
there is none, as on AWS, unless all values of a set are the same.

Source: "CloudWatch statistics definitions" in the user guide. AWS says nothing about how it
interpolates; here a percentile is numpy's, linear between the two values around it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from moto.cloudwatch.exceptions import InvalidParameterCombination, InvalidParameterValue
from moto.cloudwatch.models import (
    CloudWatchBackend,
    MetricAggregatedDatum,
    MetricDatum,
    Statistics,
)
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.responses import ActionResult

from mmekit_local.sagemaker.observability.observations import percentile_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mmekit_local.sagemaker.observability.observations import Distribution, Observation

__all__ = ["correct_cloudwatch", "extended_statistic", "merged", "put_observations"]

_USUAL = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")
_MOST = 10  # extended statistics in one request

_NUMBER = r"(?:100(?:\.0+)?|\d{1,2}(?:\.\d+)?)"
_PERCENTILE = re.compile(rf"p({_NUMBER})", re.IGNORECASE)
_TRIMMED = re.compile(
    r"(tm|wm|tc|ts|pr)(?:(?P<most>[0-9.]+)|\((?P<low>[^:()]*):(?P<high>[^:()]*)\))", re.IGNORECASE
)
_BOUND = re.compile(r"(-?[0-9.]+)(%?)")
_WHOLE = 100.0


class ObservedDatum(MetricAggregatedDatum):
    """Values of one metric, summed up, and the values themselves."""

    values: Distribution


def correct_cloudwatch() -> None:
    """Set right what differs; a second time does no harm."""
    if hasattr(Statistics, "_mmekit_usual"):
        return
    setattr(Statistics, "_mmekit_usual", Statistics.get_statistics_for_type)  # noqa: B010
    setattr(Statistics, "get_statistics_for_type", _statistic)  # noqa: B010
    setattr(Statistics, "extended_statistics", property(_extended_statistics))  # noqa: B010
    setattr(CloudWatchBackend, "_mmekit_data", CloudWatchBackend.get_metric_data)  # noqa: B010
    setattr(CloudWatchBackend, "get_metric_data", _get_metric_data)  # noqa: B010
    setattr(CloudWatchResponse, "get_metric_statistics", _get_metric_statistics)  # noqa: B010


def put_observations(
    backend: CloudWatchBackend, namespace: str, observations: Sequence[Observation]
) -> None:
    """Add observations, with their single values."""
    for one in observations:
        datum = ObservedDatum(
            namespace,
            one.name,
            one.least,
            one.most,
            one.count,
            one.total,
            [{"Name": name, "Value": value} for name, value in one.dimensions],
            None,
            one.unit,
        )
        datum.values = one.values
        backend.metric_data.append(datum)


def _statistic(statistics: Statistics, name: str) -> Any:
    if name in _USUAL:
        return statistics._mmekit_usual(name)  # type: ignore[attr-defined] # noqa: SLF001 - set above
    compute = extended_statistic(name)
    if compute is None:
        raise InvalidParameterValue(f"The value {name} for parameter Stat is not supported.")
    values = _values(statistics)
    return compute(values) if values else None


def _values(statistics: Statistics) -> Distribution | None:
    """Return the single values; None where there are sums that nobody knows the values of."""
    found = []
    for datum in statistics.metric_data:
        if isinstance(datum, MetricDatum):
            found.append(Counter([datum.value]))
        elif isinstance(datum, ObservedDatum):
            found.append(datum.values)
        elif isinstance(datum, MetricAggregatedDatum) and datum.min == datum.max:
            found.append(Counter({datum.min: int(datum.sample_count)}))
        else:
            return None
    return merged(found)


def _extended_statistics(statistics: Statistics) -> dict[str, float] | None:
    """Return what a data point has beside the usual statistics."""
    extended = [name for name in statistics.stats if name not in _USUAL]
    found = {name: _statistic(statistics, name) for name in extended}
    return {name: value for name, value in found.items() if value is not None} or None


class _NamespaceFilter:
    """The metrics of the namespaces that are asked for, which moto does not look at."""

    def __init__(self, backend: CloudWatchBackend, queries: Sequence[dict[str, Any]]) -> None:
        self._backend = backend
        self._namespaces = {
            query["MetricStat"]["Metric"].get("Namespace")
            for query in queries
            if "MetricStat" in query
        }

    def get_all_metrics(self) -> list[Any]:
        """Return them."""
        every = self._backend.get_all_metrics()
        return [datum for datum in every if datum.namespace in self._namespaces]


class _DimensionFilter:
    """The metrics with these dimensions and no further ones: to moto, those are the same metric."""

    def __init__(self, backend: CloudWatchBackend, dimensions: Sequence[dict[str, Any]]) -> None:
        self._backend = backend
        self._dimensions = {one["Name"]: one.get("Value") for one in dimensions}

    def get_all_metrics(self) -> list[Any]:
        """Return them."""
        return [
            datum
            for datum in self._backend.get_all_metrics()
            if {one.name: one.value for one in datum.dimensions} == self._dimensions
        ]


def _get_metric_data(
    backend: CloudWatchBackend, queries: Sequence[dict[str, Any]], **others: Any
) -> list[dict[str, Any]]:
    """Leave out the times of which there is no such statistic, and refuse what moto invents."""
    names = {query["Id"] for query in queries}
    for query in queries:
        expression = query.get("Expression", query["Id"])
        if expression not in names:
            raise InvalidParameterValue(
                f"The expression {expression} is not computed on this machine: ask for its metrics "
                "(MetricStat) and compute it. The same request works on AWS."
            )
    compute: Any = CloudWatchBackend._mmekit_data  # type: ignore[attr-defined] # noqa: SLF001
    # moto's method asks its backend for nothing but the metrics, so this may stand in for one.
    results: list[dict[str, Any]] = compute(
        _NamespaceFilter(backend, queries), queries=queries, **others
    )
    for result in results:
        pairs = zip(result["timestamps"], result["values"], strict=True)
        told = [(when, value) for when, value in pairs if value is not None]
        result["timestamps"] = [when for when, _ in told]
        result["values"] = [value for _, value in told]
    return results


def _get_metric_statistics(response: CloudWatchResponse) -> ActionResult:
    parameter = response._get_param  # noqa: SLF001 - the way in which moto's own methods ask
    usual, extended = parameter("Statistics") or [], parameter("ExtendedStatistics") or []
    if bool(usual) == bool(extended):
        what = "Must specify either Statistics or ExtendedStatistics"
        raise InvalidParameterCombination(f"{what}, but not both" if usual else what)
    if len(extended) > _MOST:
        raise InvalidParameterValue(f"ExtendedStatistics has at most {_MOST} members.")
    for name in extended:
        if extended_statistic(name) is None:
            raise InvalidParameterValue(
                f"The value {name} for parameter ExtendedStatistics is not supported."
            )
    dimensions = parameter("Dimensions") or []
    compute: Any = CloudWatchBackend.get_metric_statistics
    points = compute(
        _DimensionFilter(response.cloudwatch_backend, dimensions),
        parameter("Namespace"),
        parameter("MetricName"),
        parameter("StartTime"),
        parameter("EndTime"),
        response._get_int_param("Period"),  # noqa: SLF001 - as above
        [*usual, *extended],
        unit=parameter("Unit"),
        dimensions=dimensions,
    )
    if extended:
        # moto has a data point even where there is no such value.
        points = [point for point in points if _extended_statistics(point)]
    return ActionResult({"Label": parameter("MetricName"), "Datapoints": points})


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
        return lambda values: percentile_of(values, float(percentile[1]))
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
        return percentile_of(values, low), percentile_of(values, high)


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
