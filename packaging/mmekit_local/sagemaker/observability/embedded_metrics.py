"""Metrics in the containers' log lines, which CloudWatch takes from there by itself.

Source: AWS's "Specification: Embedded metric format". A line that is not valid stays a line, and no
metric comes of it; there, EMFValidationErrors and EMFParsingErrors count them.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mmekit_local.sagemaker.observability.observations import Observation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit_local.sagemaker.aws_client import AwsClient
    from mmekit_local.sagemaker.observability.observations import Dimensions
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["EmbeddedMetrics", "ModelFigure", "embedded_observations"]

_MOST_METRICS = 100
_MOST_VALUES = 100
_LARGEST = 2.0**360
_MOST_DIMENSIONS = 30
_MOST_DIMENSION_SETS = 100
_LONGEST = 1024
_OLDEST_S, _NEWEST_S = 14 * 86_400, 2 * 3600
_MOST_FIGURES = 20_000
_SIZES = [
    f"{prefix}{unit}".capitalize()
    for unit in ("bytes", "bits")
    for prefix in ("", "kilo", "mega", "giga", "tera")
]
_UNITS = frozenset(
    ["Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "Count/Second", "None"]
    + _SIZES
    + [f"{size}/Second" for size in _SIZES]
)


class ModelFigure(NamedTuple):
    """What a figure is of: an endpoint's model, and where it is a column's, that."""

    endpoint: EndpointId
    model: str
    column: str
    name: str


@dataclass
class _Values:
    """The values of a metric in one line."""

    count: float
    total: float
    least: float
    most: float
    values: Counter[float]


class EmbeddedMetrics:
    """Takes log lines, and brings the metrics in them to CloudWatch.

    Parameters
    ----------
    aws
        CloudWatch.
    """

    def __init__(self, aws: AwsClient) -> None:
        self._aws = aws
        self._figures: dict[ModelFigure, tuple[float, float, float]] = {}
        # Lines come in a thread, and are told of in another.
        self._lock = threading.Lock()

    def take(self, endpoint: EndpointId, line: str) -> None:
        """Take a line of an endpoint's log."""
        if '"_aws"' not in line:
            return
        try:
            content = _content(line)
            observations = embedded_observations(content)
        except ValueError:
            return
        for namespace, batch in observations.items():
            self._aws.put_metrics(endpoint.account, endpoint.region, namespace, batch)
        self._note(endpoint, content)

    def figures(self) -> dict[ModelFigure, tuple[float, float, float]]:
        """Return what models have told of themselves: how many values, their sum and the last."""
        with self._lock:
            return dict(self._figures)

    def forget(self, endpoint: EndpointId) -> None:
        """Let go of an endpoint that is gone."""
        with self._lock:
            for figure in [one for one in self._figures if one.endpoint == endpoint]:
                del self._figures[figure]

    def _note(self, endpoint: EndpointId, content: dict[str, Any]) -> None:
        """Keep what a model process has told, whatever of it are metrics."""
        model, column = content.get("Model"), content.get("Column", "")
        if not isinstance(model, str) or not isinstance(column, str):
            return
        for name, given in content.items():
            if not name.startswith("mme_model_"):
                continue
            try:
                values = _values(given)
            except ValueError:
                continue
            figure = ModelFigure(endpoint, model, column, name)
            with self._lock:
                if figure not in self._figures and len(self._figures) >= _MOST_FIGURES:
                    return
                count, total, _ = self._figures.get(figure, (0.0, 0.0, 0.0))
                kept = (count + values.count, total + values.total, values.most)
                self._figures[figure] = kept


def embedded_observations(content: dict[str, Any]) -> dict[str, list[Observation]]:
    """Return the observations in a line, by namespace.

    Raises
    ------
    ValueError
        It is not valid; the message says what is wrong.
    """
    found: defaultdict[str, list[Observation]] = defaultdict(list)
    for directive in content["_aws"]["CloudWatchMetrics"]:
        namespace = _text(directive, "Namespace")
        sets = list(_dimensions(directive, content))
        for name, unit in _metrics(directive):
            if name not in content:
                raise ValueError(f"no member {name}")
            values = _values(content[name])
            for dimensions in sets:
                found[namespace].append(
                    Observation(
                        name,
                        unit,
                        dimensions,
                        values.count,
                        values.total,
                        values.least,
                        values.most,
                        values.values,
                    )
                )
    return dict(found)


def _content(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except RecursionError as error:
        raise ValueError("too deep") from error
    about = content.get("_aws") if isinstance(content, dict) else None
    if not isinstance(about, dict) or not isinstance(about.get("CloudWatchMetrics"), list):
        raise ValueError("no _aws with CloudWatchMetrics")  # noqa: TRY004 - of the line
    at = about.get("Timestamp")
    if not isinstance(at, int) or isinstance(at, bool):
        raise ValueError("no Timestamp in milliseconds")  # noqa: TRY004
    if not -_OLDEST_S <= at / 1000 - time.time() <= _NEWEST_S:
        raise ValueError("a Timestamp that is too old, or too far ahead")
    assert isinstance(content, dict)  # noqa: S101 - it has a member
    return content


def _text(holder: Any, name: str) -> str:
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST:
        raise ValueError(f"no {name}")
    return value


def _dimensions(directive: Any, content: dict[str, Any]) -> Iterator[Dimensions]:
    sets = directive.get("Dimensions", [])
    if not isinstance(sets, list) or len(sets) > _MOST_DIMENSION_SETS:
        raise ValueError("Dimensions that are no list of lists")
    for names in sets:
        if not isinstance(names, list) or len(names) > _MOST_DIMENSIONS:
            raise ValueError("dimensions that are no list")
        if not all(isinstance(name, str) for name in names):
            raise ValueError("a dimension that is no text")
        yield tuple((name, _text(content, name)) for name in names)


def _metrics(directive: Any) -> Iterator[tuple[str, str]]:
    metrics = directive.get("Metrics")
    if not isinstance(metrics, list) or len(metrics) > _MOST_METRICS:
        raise ValueError("Metrics that are no list, or too many")
    for metric in metrics:
        name = _text(metric, "Name")
        unit = metric.get("Unit", "None")
        if not isinstance(unit, str) or unit not in _UNITS:
            raise ValueError(f"the unit {unit!r}")
        yield name, unit


def _values(given: Any) -> _Values:
    """Return the values of a metric: one, an array of them, or values with their counts."""
    if isinstance(given, dict):
        values, counts = _numbers(given.get("Values")), _numbers(given.get("Counts"))
        if len(values) != len(counts) or not all(count > 0 for count in counts):
            raise ValueError("other Counts than Values")
        several: Counter[float] = Counter()
        for value, count in zip(values, counts, strict=True):
            several[value] += int(count)
        count, total, least, most = _numbers([given.get(k) for k in ("Count", "Sum", "Min", "Max")])
        return _Values(count, total, least, most, several)
    values = _numbers(given if isinstance(given, list) else [given])
    return _Values(len(values), math.fsum(values), min(values), max(values), Counter(values))


def _numbers(given: Any) -> list[float]:
    if not isinstance(given, list) or not 1 <= len(given) <= _MOST_VALUES:
        raise ValueError("no number, and no array of 1 to 100")
    for one in given:
        is_number = isinstance(one, (int, float)) and not isinstance(one, bool)
        if not is_number or not -_LARGEST <= one <= _LARGEST:
            raise ValueError("a value that is no number")
    return [float(one) for one in given]
