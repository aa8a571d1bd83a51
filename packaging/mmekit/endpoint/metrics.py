"""Metrics of endpoints, gathered on the hot path and handed to CloudWatch in batches.

Names, units and dimensions: AWS's "Monitor Amazon SageMaker AI with Amazon CloudWatch" and
"CloudWatch metrics for multi-model endpoint deployments".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit.endpoint.aws import Aws
    from mmekit.endpoint.specification import EndpointId

__all__ = ["ENDPOINTS", "INVOCATIONS", "Metrics", "Observation", "Summary", "VariantMetrics"]

INVOCATIONS = "AWS/SageMaker"
ENDPOINTS = "/aws/sagemaker/Endpoints"

_FIRST_CLIENT_ERROR = 400
_FIRST_SERVER_ERROR = 500


@dataclass(frozen=True)
class Observation:
    """Some values of one metric, summed up as CloudWatch's StatisticSet does it."""

    name: str
    unit: str
    dimensions: tuple[tuple[str, str], ...]
    count: float
    total: float
    least: float
    most: float

    def as_datum(self) -> dict[str, object]:
        """Return the observation as an item of PutMetricData's MetricData."""
        return {
            "MetricName": self.name,
            "Unit": self.unit,
            "Dimensions": [{"Name": name, "Value": value} for name, value in self.dimensions],
            "StatisticValues": {
                "SampleCount": self.count,
                "Sum": self.total,
                "Minimum": self.least,
                "Maximum": self.most,
            },
        }


class Summary:
    """Count, sum, least and most of the values since the last batch."""

    __slots__ = ("count", "least", "most", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = self.least = self.most = 0.0

    def add(self, value: float) -> None:
        """Take in one value."""
        if not self.count or value < self.least:
            self.least = value
        if value > self.most:  # noqa: PLR1730 - this is the hot path, and max() is a call
            self.most = value
        self.count += 1
        self.total += value

    def clear(self) -> None:
        """Forget every value."""
        self.count = 0
        self.total = self.least = self.most = 0.0


class VariantMetrics:
    """What happens at one variant of one endpoint; times are microseconds."""

    def __init__(self, endpoint: EndpointId, variant: str) -> None:
        self.endpoint = endpoint
        self.dimensions = (("EndpointName", endpoint.name), ("VariantName", variant))
        self.invocations = Summary()
        self.client_errors = Summary()
        self.server_errors = Summary()
        self.model_errors = Summary()
        self.model_latency = Summary()
        self.overhead_latency = Summary()
        self.cache_hit = Summary()
        self.loading_wait = Summary()
        self.loading = Summary()
        self.downloading = Summary()
        self.unloading = Summary()
        self.loaded_models = Summary()

    def invoked(
        self, status: int, model_microseconds: float, total_microseconds: float, *, by_model: bool
    ) -> None:
        """Record one invocation.

        Parameters
        ----------
        status
            What it ended with: the container's status where there is one.
        model_microseconds
            The container's share of the time; 0 when it was not asked or did not answer.
        total_microseconds
            All of the time.
        by_model
            Whether the container, rather than the endpoint, said so.
        """
        self.invocations.add(1.0)
        self.client_errors.add(float(_FIRST_CLIENT_ERROR <= status < _FIRST_SERVER_ERROR))
        self.server_errors.add(float(status >= _FIRST_SERVER_ERROR))
        self.model_errors.add(float(by_model and status >= _FIRST_CLIENT_ERROR))
        if model_microseconds:
            self.model_latency.add(model_microseconds)
        self.overhead_latency.add(total_microseconds - model_microseconds)

    def take(self) -> tuple[list[Observation], list[Observation]]:
        """Return the batch for `INVOCATIONS` and the one for `ENDPOINTS`, and begin new ones."""
        invocations = (
            ("Invocations", "None", self.invocations),
            ("Invocation4XXErrors", "None", self.client_errors),
            ("Invocation5XXErrors", "None", self.server_errors),
            ("InvocationModelErrors", "None", self.model_errors),
            ("ModelLatency", "Microseconds", self.model_latency),
            ("OverheadLatency", "Microseconds", self.overhead_latency),
            ("ModelCacheHit", "None", self.cache_hit),
            ("ModelLoadingWaitTime", "Microseconds", self.loading_wait),
            ("ModelLoadingTime", "Microseconds", self.loading),
            ("ModelDownloadingTime", "Microseconds", self.downloading),
            ("ModelUnloadingTime", "Microseconds", self.unloading),
        )
        endpoints = (("LoadedModelCount", "None", self.loaded_models),)
        return self._observations(invocations), self._observations(endpoints)

    def _observations(self, rows: Iterable[tuple[str, str, Summary]]) -> list[Observation]:
        found = []
        for name, unit, values in rows:
            if values.count:
                found.append(
                    Observation(
                        name,
                        unit,
                        self.dimensions,
                        values.count,
                        values.total,
                        values.least,
                        values.most,
                    )
                )
                values.clear()
        return found


class Metrics:
    """The metrics of every variant."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._variants: dict[tuple[EndpointId, str], VariantMetrics] = {}

    def variant(self, endpoint: EndpointId, name: str) -> VariantMetrics:
        """Return where to record what happens at a variant."""
        return self._variants.setdefault((endpoint, name), VariantMetrics(endpoint, name))

    def flush(self) -> None:
        """Hand to CloudWatch what was recorded since the last time."""
        for metrics in self._variants.values():
            account, region, _ = metrics.endpoint
            for namespace, batch in zip((INVOCATIONS, ENDPOINTS), metrics.take(), strict=True):
                if batch:
                    self._aws.put_metrics(account, region, namespace, batch)
