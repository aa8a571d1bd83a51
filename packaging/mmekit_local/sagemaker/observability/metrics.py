"""Metrics of endpoints, gathered on the hot path and handed to CloudWatch in batches.

Names, units and dimensions: AWS's "Amazon SageMaker AI metrics in Amazon CloudWatch" and
"CloudWatch metrics for multi-model endpoint deployments"; those of asynchronous endpoints: "Alarms
and logs for tracking metrics from asynchronous endpoints".
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.observability.embedded_metrics import EmbeddedMetrics
from mmekit_local.sagemaker.observability.latency import Latencies
from mmekit_local.sagemaker.observability.observations import (
    BatchCounter,
    BatchSummary,
    counted,
    summarised,
)
from mmekit_local.sagemaker.observability.targets import TargetMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mmekit_local.sagemaker.aws_client import AwsClient
    from mmekit_local.sagemaker.observability.observations import Dimensions, Observation
    from mmekit_local.sagemaker.snapshot import FleetSnapshot, InstanceSnapshot, VariantSnapshot
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = [
    "ENDPOINTS",
    "INVOCATIONS",
    "AsyncMetrics",
    "DeploymentMetrics",
    "Metrics",
    "VariantMetrics",
]

INVOCATIONS = "AWS/SageMaker"
ENDPOINTS = "/aws/sagemaker/Endpoints"

_FIRST_CLIENT_ERROR = 400
_FIRST_SERVER_ERROR = 500
_EARLY_S = 0.5
"""Of a clock that ticks every ten seconds, the tenth second is not late."""
_NOT_ASYNCHRONOUS = ("Invocations", "InvocationsPerInstance", "OverheadLatency")
"""What asynchronous endpoints do not tell ("Alarms and logs for tracking metrics …")."""


class VariantMetrics:
    """What happens at one variant of one endpoint; times are microseconds."""

    def __init__(
        self, endpoint: EndpointId, variant: str, targets: TargetMetrics | None = None
    ) -> None:
        self.endpoint = endpoint
        self.variant = variant
        self.targets = targets or TargetMetrics()
        self.dimensions: Dimensions = (
            ("EndpointName", endpoint.name),
            ("VariantName", variant),
        )
        self.invocations = BatchCounter()
        self.client_errors = BatchCounter()
        self.server_errors = BatchCounter()
        self.model_errors = BatchCounter()
        self.model_latency: BatchSummary = BatchSummary()
        self.overhead_latency: BatchSummary = BatchSummary()
        self.cache_hit = BatchSummary()
        self.loading_wait: BatchSummary = BatchSummary()
        self.loading: BatchSummary = BatchSummary()
        self.downloading: BatchSummary = BatchSummary()
        self.unloading: BatchSummary = BatchSummary()
        self.setup: BatchSummary = BatchSummary()
        self.first_chunk: BatchSummary = BatchSummary()
        self.first_chunk_model: BatchSummary = BatchSummary()
        self.first_chunk_overhead: BatchSummary = BatchSummary()
        self.mid_stream_errors = BatchCounter()
        self.latency = Latencies()
        self.asynchronous = False

    @property
    def errors(self) -> int:
        """Invocations that ended with an error, ever."""
        return self.client_errors.ever + self.server_errors.ever

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
        self.invocations.count += 1
        if status >= _FIRST_CLIENT_ERROR:
            side = self.client_errors if status < _FIRST_SERVER_ERROR else self.server_errors
            side.count += 1
            if by_model:
                self.model_errors.count += 1
        if model_microseconds:
            self.model_latency.add(model_microseconds)
        self.overhead_latency.add(total_microseconds - model_microseconds)
        self.latency.add(total_microseconds)

    def streamed(self, model_microseconds: float, total_microseconds: float) -> None:
        """Record that the first piece of a response stream goes out."""
        self.first_chunk_model.add(model_microseconds)
        self.first_chunk_overhead.add(max(total_microseconds - model_microseconds, 0.0))
        self.first_chunk.add(total_microseconds)

    def take(
        self, snapshot: VariantSnapshot | None = None
    ) -> tuple[list[Observation], list[Observation]]:
        """Return the batch for `INVOCATIONS` and the one for `ENDPOINTS`, and begin new ones.

        Parameters
        ----------
        snapshot
            The variant's instances, for what is told of them; None tells nothing of them.
        """
        instances = () if snapshot is None else snapshot.instances
        invocations = self._of_invocations(len(instances))
        rows = (
            ("ModelLatency", "Microseconds", self.model_latency),
            ("OverheadLatency", "Microseconds", self.overhead_latency),
            ("ModelSetupTime", "Microseconds", self.setup),
            ("ModelCacheHit", "None", self.cache_hit),
            ("ModelLoadingWaitTime", "Microseconds", self.loading_wait),
            ("ModelLoadingTime", "Microseconds", self.loading),
            ("ModelDownloadingTime", "Microseconds", self.downloading),
            ("ModelUnloadingTime", "Microseconds", self.unloading),
            ("FirstChunkLatency", "Microseconds", self.first_chunk),
            ("FirstChunkModelLatency", "Microseconds", self.first_chunk_model),
            ("FirstChunkOverheadLatency", "Microseconds", self.first_chunk_overhead),
        )
        for name, unit, values in rows:
            invocations.append(self._observation(name, unit, values))
            values.clear()
        endpoints = [
            self._observation(name, unit, _summed(values))
            for name, unit, values in _of_instances(
                instances, multi_model=snapshot is not None and snapshot.multi_model
            )
        ]
        if broken := self.mid_stream_errors.count:
            invocations.append(counted("MidStreamErrors", "None", self.dimensions, broken, broken))
            self.mid_stream_errors.clear()
        if self.asynchronous:
            invocations = [one for one in invocations if one.name not in _NOT_ASYNCHRONOUS]
        return _some(invocations), _some(endpoints)

    def _of_invocations(self, instances: int) -> list[Observation]:
        """Return what AWS sends with each request: a 1, a share of it, and 1 or 0 for errors."""
        sent = self.invocations.count
        share = 1.0 / max(instances, 1)
        rows = [
            ("Invocations", sent, 1.0),
            ("InvocationsPerInstance", sent, share),
            ("Invocation4XXErrors", self.client_errors.count, 1.0),
            ("Invocation5XXErrors", self.server_errors.count, 1.0),
            ("InvocationModelErrors", self.model_errors.count, 1.0),
        ]
        for counter in (
            self.invocations,
            self.client_errors,
            self.server_errors,
            self.model_errors,
        ):
            counter.clear()
        return [
            counted(name, "None", self.dimensions, sent, count, value)
            for name, count, value in rows
        ]

    def _observation(self, name: str, unit: str, values: BatchSummary) -> Observation:
        return summarised(name, unit, self.dimensions, values)


class DeploymentMetrics(VariantMetrics):
    """What happens at the new instances of a variant during a deployment, beside all of it.

    Source: AWS's "Auto-Rollback Configuration and Monitoring": the dimension EndpointConfigName
    has alarms look at the new instances alone.
    """

    def __init__(self, whole: VariantMetrics, config_name: str) -> None:
        super().__init__(whole.endpoint, whole.variant, whole.targets)
        self.dimensions = (*self.dimensions, ("EndpointConfigName", config_name))
        self.whole = whole

    def invoked(
        self, status: int, model_microseconds: float, total_microseconds: float, *, by_model: bool
    ) -> None:
        """Record one invocation, here and there."""
        super().invoked(status, model_microseconds, total_microseconds, by_model=by_model)
        self.whole.invoked(status, model_microseconds, total_microseconds, by_model=by_model)

    def streamed(self, model_microseconds: float, total_microseconds: float) -> None:
        """Record that the first piece of a response stream goes out, here and there."""
        super().streamed(model_microseconds, total_microseconds)
        self.whole.streamed(model_microseconds, total_microseconds)

    def take(
        self, snapshot: VariantSnapshot | None = None
    ) -> tuple[list[Observation], list[Observation]]:
        """Return what is told of them; how many they are is not."""
        invocations, _ = super().take(snapshot)
        return [one for one in invocations if one.name != "InvocationsPerInstance"], []


class AsyncMetrics:
    """What happens at one variant of an asynchronous endpoint; times are microseconds."""

    def __init__(self, endpoint: EndpointId, variant: str) -> None:
        self.endpoint = endpoint
        self.dimensions: Dimensions = (("EndpointName", endpoint.name), ("VariantName", variant))
        self.processed = BatchCounter()
        self.failures = BatchCounter()
        self.expired = BatchCounter()
        self.download_failures = BatchCounter()
        self.upload_failures = BatchCounter()
        self.notification_failures = BatchCounter()
        self.download = BatchSummary()
        self.upload = BatchSummary()
        self.backlog = BatchSummary()
        self.total = BatchSummary()
        """Milliseconds, as AWS has it."""

    def take(self) -> list[Observation]:
        """Return what there is to tell, and begin anew."""
        ended = self.processed.count
        counters = (
            ("InvocationsProcessed", self.processed),
            ("InvocationFailures", self.failures),
            ("ExpiredRequests", self.expired),
            ("RequestDownloadFailures", self.download_failures),
            ("ResponseUploadFailures", self.upload_failures),
            ("NotificationFailures", self.notification_failures),
        )
        observations = []
        for name, counter in counters:
            # A failure is counted before its request has ended: a batch may have more of them.
            sent = max(ended, counter.count)
            observations.append(counted(name, "Count", self.dimensions, sent, counter.count))
            counter.clear()
        for name, unit, values in (
            ("RequestDownloadLatency", "Microseconds", self.download),
            ("ResponseUploadLatency", "Microseconds", self.upload),
            ("TimeInBacklog", "Microseconds", self.backlog),
            ("TotalProcessingTime", "Milliseconds", self.total),
        ):
            observations.append(summarised(name, unit, self.dimensions, values))
            values.clear()
        return [observation for observation in observations if observation.count]


class Metrics:
    """The metrics of every variant.

    Attributes
    ----------
    embedded
        Those that models tell of themselves.
    """

    def __init__(self, aws: AwsClient) -> None:
        self._aws = aws
        self.embedded = EmbeddedMetrics(aws)
        self._variants: dict[tuple[EndpointId, str], VariantMetrics] = {}
        self._targets: dict[EndpointId, TargetMetrics] = {}
        self._snapshots: Callable[[], Mapping[EndpointId, FleetSnapshot]] = dict
        self._sources: list[Callable[[], Iterable[tuple[EndpointId, list[Observation]]]]] = []
        self._published: dict[EndpointId, float] = {}
        self._deployments: list[DeploymentMetrics] = []

    def __iter__(self) -> Iterator[VariantMetrics]:
        """Iterate over the variants of which there is something to tell."""
        return iter(tuple(self._variants.values()))

    def set_snapshots(self, snapshots: Callable[[], Mapping[EndpointId, FleetSnapshot]]) -> None:
        """Ask `snapshots` for the endpoints in service whenever metrics of instances are due."""
        self._snapshots = snapshots

    def add_source(
        self, observations: Callable[[], Iterable[tuple[EndpointId, list[Observation]]]]
    ) -> None:
        """Have what else there is to tell, since the last time, told with the rest."""
        self._sources.append(observations)

    def variant(self, endpoint: EndpointId, name: str) -> VariantMetrics:
        """Return where to record what happens at a variant."""
        found = self._variants.get((endpoint, name))
        if found is None:
            found = VariantMetrics(endpoint, name, self.targets(endpoint))
            self._variants[endpoint, name] = found
        return found

    def targets(self, endpoint: EndpointId) -> TargetMetrics:
        """Return where to record what happens with each model of an endpoint."""
        found = self._targets.get(endpoint)
        if found is None:
            found = self._targets[endpoint] = TargetMetrics()
        return found

    def settle(self) -> None:
        """Take in what came for each model, and let go of what is too old."""
        for targets in self._targets.values():
            targets.settle()

    def of_deployment(self, endpoint: EndpointId, name: str, config_name: str) -> DeploymentMetrics:
        """Return where to record as well what happens at the new instances of a variant."""
        self._deployments = [
            one for one in self._deployments if (one.endpoint, one.variant) != (endpoint, name)
        ]
        self._deployments.append(DeploymentMetrics(self.variant(endpoint, name), config_name))
        return self._deployments[-1]

    def forget(self, endpoint: EndpointId) -> None:
        """Hand over what was recorded, and let go of an endpoint that is gone."""
        # Whoever asks CloudWatch afterwards shall find its last seconds, too.
        self.flush()
        for key in [key for key in self._variants if key[0] == endpoint]:
            del self._variants[key]
        self._published.pop(endpoint, None)
        self._targets.pop(endpoint, None)
        self.embedded.forget(endpoint)
        self._deployments = [one for one in self._deployments if one.endpoint != endpoint]

    def flush(self) -> None:
        """Hand to CloudWatch what was recorded since the last time."""
        fleets = self._snapshots()
        # Once for each endpoint: `_is_due` takes note, and would deny it to the second variant.
        due = {name: fleet for name, fleet in fleets.items() if self._is_due(name, fleet)}
        for (endpoint, name), metrics in self._variants.items():
            fleet = due.get(endpoint)
            variants = () if fleet is None else fleet.variants
            running = fleets.get(endpoint)
            metrics.asynchronous = running is not None and running.asynchronous
            batches = metrics.take(next((one for one in variants if one.name == name), None))
            for namespace, batch in zip((INVOCATIONS, ENDPOINTS), batches, strict=True):
                self._put(endpoint, namespace, batch)
        for one in self._deployments:
            self._put(one.endpoint, INVOCATIONS, one.take()[0])
        for observations in self._sources:
            for endpoint, batch in observations():
                self._put(endpoint, INVOCATIONS, batch)

    def _put(self, endpoint: EndpointId, namespace: str, batch: list[Observation]) -> None:
        if batch:
            self._aws.put_metrics(endpoint.account, endpoint.region, namespace, batch)

    def _is_due(self, endpoint: EndpointId, fleet: FleetSnapshot) -> bool:
        """Say whether an endpoint's instances shall be told of, as its MetricsConfig has it."""
        if fleet.publish_seconds is None:
            return True
        now = time.monotonic()
        if now - self._published.get(endpoint, -math.inf) < fleet.publish_seconds - _EARLY_S:
            return False
        self._published[endpoint] = now
        return True


def _some(observations: Iterable[Observation]) -> list[Observation]:
    return [observation for observation in observations if observation.count]


def _summed(values: Iterable[float]) -> BatchSummary:
    summary = BatchSummary()
    for value in values:
        summary.add(value)
    return summary


def _of_instances(
    instances: Sequence[InstanceSnapshot], *, multi_model: bool
) -> Iterable[tuple[str, str, list[float]]]:
    """Return the metrics of instances: each instance sends a value of its own."""
    running = [instance for instance in instances if instance.state != "dead"]
    if multi_model:
        yield (
            "LoadedModelCount",
            "None",
            [float(sum(m.state == "loaded" for m in instance.models)) for instance in running],
        )
    yield "CPUUtilization", "Percent", [instance.cpu_percent for instance in running]
    yield (
        "MemoryUtilization",
        "Percent",
        [
            100.0 * instance.memory_bytes / instance.memory_limit
            for instance in running
            if instance.memory_limit and instance.memory_bytes is not None
        ],
    )
    yield (
        "DiskUtilization",
        "Percent",
        [
            100.0 * instance.disk_bytes / instance.disk_limit
            for instance in running
            if instance.disk_limit
        ],
    )
