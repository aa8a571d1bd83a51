"""Lines in CloudWatch's embedded metric format.

Source: AWS's "Specification: Embedded metric format". That a metric may be an object of Values and
Counts beside an array of numbers is how the OpenTelemetry collector's awsemfexporter writes
distributions.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from mmekit_runtime.metering.meter import COLUMN_COUNTS, COUNTS, DISTRIBUTIONS, MEMORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit_runtime.metering.buckets import ValueBuckets
    from mmekit_runtime.metering.meter import Period
    from mmekit_runtime.metering.output import ServerOutput

NAMESPACE = "mmekit"
LONGEST_LINE = 4096
"""Bytes, its end included, that the kernel writes into a pipe in one step (PIPE_BUF)."""

_VALUES = 40
_LONGEST_NAME = 200
_MOST_UNSENT = 256


class MetricLines:
    """Writes lines for one model process.

    Parameters
    ----------
    output
        Takes them.
    endpoint
        The value of the dimension Endpoint.
    per_model
        Whether the model is a dimension as well, and the column; otherwise they are only said.
    """

    def __init__(self, output: ServerOutput, endpoint: str, *, per_model: bool) -> None:
        self._output = output
        self._endpoint = _name(endpoint)
        self._per_model = per_model
        self._unsent: list[bytes] = []

    def write(self, model: str, period: Period, memory: int) -> bool:
        """Write what has happened in a period; whether nothing is left to be written."""
        self._unsent += self.lines(model, period, memory)
        while self._unsent and self._output.write(self._unsent[0]):
            del self._unsent[0]
        # Nobody reads the log: the oldest go.
        del self._unsent[:-_MOST_UNSENT]
        return not self._unsent

    def lines(self, model: str, period: Period, memory: int) -> list[bytes]:
        """Return the lines of a period."""
        by_model = {"Endpoint": self._endpoint, "Model": _name(model)}
        dimensions = [["Endpoint"], ["Endpoint", "Model"]] if self._per_model else [["Endpoint"]]
        lines = list(_lines(by_model, dimensions, _metrics(period, memory)))
        for column, counts in period.columns.items():
            named = {**by_model, "Column": _name(column)}
            by_column = [["Endpoint", "Model", "Column"]] if self._per_model else []
            metrics = [(COLUMN_COUNTS[key], "Count", number) for key, number in counts.items()]
            lines += _lines(named, by_column, metrics)
        return lines


def _metrics(period: Period, memory: int) -> list[tuple[str, str, Any]]:
    """Return name, unit and value of what there is to say; CloudWatch bills a 0 as any value."""
    found: list[tuple[str, str, Any]] = [
        (COUNTS[key], "Count", number) for key, number in period.counts.items() if number
    ]
    found += [(*DISTRIBUTIONS[key], _of(values)) for key, values in period.values.items() if values]
    if found and memory:
        found.append((MEMORY, "Bytes", memory))
    return found


def _of(distribution: ValueBuckets) -> dict[str, Any]:
    """Return a distribution; one value too, so that whoever queries lines finds one form."""
    values = distribution.values(_VALUES)
    return {
        "Values": [_short(value) for value, _ in values],
        "Counts": [count for _, count in values],
        "Max": _short(distribution.most),
        "Min": _short(distribution.least),
        "Count": distribution.count,
        "Sum": _short(distribution.total, 9),
    }


def _lines(
    properties: dict[str, str], dimensions: list[list[str]], metrics: list[tuple[str, str, Any]]
) -> Iterator[bytes]:
    """Yield lines with these metrics: one, if they fit."""
    if not metrics:
        return
    at = int(time.time() * 1000)
    line = _line(properties, dimensions, metrics, at)
    if len(line) <= LONGEST_LINE or len(metrics) == 1:
        yield line
        return
    half = len(metrics) // 2
    yield from _lines(properties, dimensions, metrics[:half])
    yield from _lines(properties, dimensions, metrics[half:])


def _line(
    properties: dict[str, str],
    dimensions: list[list[str]],
    metrics: list[tuple[str, str, Any]],
    at: int,
) -> bytes:
    named = [{"Name": name, "Unit": unit} for name, unit, _ in metrics]
    directive = {"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": named}
    content: dict[str, Any] = {
        "_aws": {"Timestamp": at, "CloudWatchMetrics": [directive] if dimensions else []},
        **properties,
        **{name: value for name, _, value in metrics},
    }
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _name(text: str) -> str:
    """Return a name as CloudWatch takes it: ASCII that does not begin with a colon."""
    said = text.encode("ascii", "backslashreplace").decode()
    said = "".join(character if character.isprintable() else "_" for character in said)
    said = said[:_LONGEST_NAME]
    return f"_{said}" if said[:1] in (":", "") or said.isspace() else said


def _short(value: float, digits: int = 4) -> float:
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short
