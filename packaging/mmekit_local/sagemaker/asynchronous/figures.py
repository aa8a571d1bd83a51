"""The metrics of asynchronous endpoints.

Names, units and dimensions: AWS's "Alarms and logs for tracking metrics from asynchronous
endpoints".
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.observability.metrics import (
    Observation,
    Summary,
    Tally,
    summarised,
    tallied,
)

if TYPE_CHECKING:
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["AsyncFigures", "gauge"]


class AsyncFigures:
    """What happens at one variant of an asynchronous endpoint; times are microseconds."""

    def __init__(self, endpoint: EndpointId, variant: str) -> None:
        self.endpoint = endpoint
        self.dimensions = (("EndpointName", endpoint.name), ("VariantName", variant))
        self.processed = Tally()
        self.failures = Tally()
        self.expired = Tally()
        self.download_failures = Tally()
        self.upload_failures = Tally()
        self.notification_failures = Tally()
        self.download = Summary()
        self.upload = Summary()
        self.backlog = Summary()
        self.total = Summary()
        """Milliseconds, as AWS has it."""

    def take(self) -> list[Observation]:
        """Return what there is to tell, and begin anew."""
        ended = self.processed.count
        tallies = (
            ("InvocationsProcessed", self.processed),
            ("InvocationFailures", self.failures),
            ("ExpiredRequests", self.expired),
            ("RequestDownloadFailures", self.download_failures),
            ("ResponseUploadFailures", self.upload_failures),
            ("NotificationFailures", self.notification_failures),
        )
        observations = []
        for name, tally in tallies:
            sent = max(ended, tally.count)
            observations.append(tallied(name, "Count", self.dimensions, sent, tally.count))
            tally.clear()
        for name, unit, values in (
            ("RequestDownloadLatency", "Microseconds", self.download),
            ("ResponseUploadLatency", "Microseconds", self.upload),
            ("TimeInBacklog", "Microseconds", self.backlog),
            ("TotalProcessingTime", "Milliseconds", self.total),
        ):
            observations.append(summarised(name, unit, self.dimensions, values))
            values.clear()
        return [observation for observation in observations if observation.count]


def gauge(endpoint: EndpointId, name: str, unit: str, value: float) -> Observation:
    """Return one value of a metric of an endpoint."""
    return Observation(
        name, unit, (("EndpointName", endpoint.name),), 1, value, value, value, Counter({value: 1})
    )
