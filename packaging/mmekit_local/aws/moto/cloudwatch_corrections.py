"""Percentiles for moto's CloudWatch, which knows sums and averages alone.

Values that a client puts one by one have percentiles, as on AWS, and so have the metrics of the
endpoints here, whose single values come along with their sums. Of a client's own statistic sets
there is none, as on AWS, unless all values of a set are the same.
"""

from __future__ import annotations

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

from mmekit_local.aws.moto.cloudwatch_statistics import extended_statistic, merged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit_local.sagemaker.observability.observations import Distribution, Observation

__all__ = ["correct_cloudwatch", "put_observations"]

_USUAL = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")
_MOST = 10  # extended statistics in one request


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
    asked = [name for name in statistics.stats if name not in _USUAL]
    found = {name: _statistic(statistics, name) for name in asked}
    return {name: value for name, value in found.items() if value is not None} or None


class _Asked:
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


def _get_metric_data(
    backend: CloudWatchBackend, queries: Sequence[dict[str, Any]], **asked: Any
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
    results: list[dict[str, Any]] = compute(_Asked(backend, queries), queries=queries, **asked)
    for result in results:
        pairs = zip(result["timestamps"], result["values"], strict=True)
        told = [(when, value) for when, value in pairs if value is not None]
        result["timestamps"] = [when for when, _ in told]
        result["values"] = [value for _, value in told]
    return results


def _get_metric_statistics(response: CloudWatchResponse) -> ActionResult:
    asked = response._get_param  # noqa: SLF001 - the way in which moto's own methods ask
    usual, extended = asked("Statistics") or [], asked("ExtendedStatistics") or []
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
    points = response.cloudwatch_backend.get_metric_statistics(
        asked("Namespace"),
        asked("MetricName"),
        asked("StartTime"),
        asked("EndTime"),
        response._get_int_param("Period"),  # noqa: SLF001 - as above
        [*usual, *extended],
        unit=asked("Unit"),
        dimensions=asked("Dimensions") or [],
    )
    if extended:
        points = [point for point in points if _extended_statistics(point)]
    return ActionResult({"Label": asked("MetricName"), "Datapoints": points})
