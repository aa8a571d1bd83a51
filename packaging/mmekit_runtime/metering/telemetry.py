"""The same counts for OpenTelemetry, where its own variables name an exporter.

The exporter has a thread. So this is made in the model process, after the fork; what it imports is
there before (`settings.imports_of`).
"""

from __future__ import annotations

import importlib
import os
import socket
from typing import TYPE_CHECKING, Any

from mmekit_runtime.metering.meter import COLUMN_COUNTS, COUNTS, DISTRIBUTIONS, MEMORY
from mmekit_runtime.metering.settings import EXPORTERS, protocol_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SECONDS = [10.0**exponent * digit for exponent in range(-5, 2) for digit in (1, 2.5, 5)]
_REQUESTS = [float(1 << power) for power in range(13)]
_CLOSING_MS = 1000
"""For whoever waits for this process to end: a collector that is gone must not hold it up."""


class Telemetry:
    """Hands what a model does to OpenTelemetry's exporter.

    Parameters
    ----------
    model, endpoint
        Attributes of each metric; no endpoint where it is not known.
    memory
        Returns what the process takes.

    Raises
    ------
    ImportError
        OpenTelemetry's SDK or its exporter is not installed.
    """

    def __init__(self, model: str, endpoint: str, memory: Callable[[], int]) -> None:
        from opentelemetry.metrics import Observation
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource

        reader = PeriodicExportingMetricReader(_exporter())
        resource = Resource.create(_resource(endpoint))
        self._provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._attributes = {"model": model, **({"endpoint": endpoint} if endpoint else {})}
        meter = self._provider.get_meter("mmekit")
        self._counters = {key: meter.create_counter(name) for key, name in COUNTS.items()}
        self._of_columns = {key: meter.create_counter(name) for key, name in COLUMN_COUNTS.items()}
        self._histograms: dict[str, Any] = {}
        for key, (name, unit) in DISTRIBUTIONS.items():
            is_time = unit == "Seconds"
            self._histograms[key] = meter.create_histogram(
                name,
                unit="s" if is_time else "",
                # Those that it has by itself are for milliseconds.
                explicit_bucket_boundaries_advisory=_SECONDS if is_time else _REQUESTS,
            )

        def observed(_options: object) -> list[Observation]:
            taken = memory()
            return [Observation(taken, self._attributes)] if taken else []

        meter.create_observable_gauge(MEMORY, [observed], unit="By")

    def count(self, name: str, number: int, column: str = "") -> None:
        """Count events, by a key of `COUNTS`, or of `COLUMN_COUNTS` with a column."""
        if column:
            self._of_columns[name].add(number, {**self._attributes, "column": column})
        elif number:
            self._counters[name].add(number, self._attributes)

    def record(self, name: str, values: Sequence[float]) -> None:
        """Take in values, by a key of `DISTRIBUTIONS`."""
        histogram = self._histograms[name]
        for value in values:
            histogram.record(value, self._attributes)

    def close(self) -> None:
        """Export what is there, before the process ends."""
        self._provider.shutdown(timeout_millis=_CLOSING_MS)


def _exporter() -> Any:
    module = importlib.import_module(f"{EXPORTERS}.{protocol_of(os.environ)}.metric_exporter")
    return module.OTLPMetricExporter()


def _resource(endpoint: str) -> dict[str, str]:
    """Return what the environment does not say of this process itself."""
    said = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    # Each process counts from 0: without a name of its own, one's counts would hide another's.
    given = {"service.instance.id": f"{socket.gethostname()}-{os.getpid()}"}
    if not os.environ.get("OTEL_SERVICE_NAME", "").strip() and "service.name=" not in said:
        given["service.name"] = endpoint or "mmekit"
    return given
