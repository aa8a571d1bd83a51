"""Looks at every endpoint once a second, for all who want to know what it looks like."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol

from mmekit_local.sagemaker.observability.latency import LatencySeries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmekit_local.sagemaker.observability.capture import DataCapture
    from mmekit_local.sagemaker.observability.logs import LogShipper
    from mmekit_local.sagemaker.observability.metrics import Metrics
    from mmekit_local.sagemaker.snapshot import FleetSnapshot
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["EndpointMonitor", "Monitored", "publish"]

logger = logging.getLogger("mmekit.endpoint")

_INTERVAL = 1.0
_FRESH = 0.5  # a snapshot's CPU is that since the snapshot before, so nobody takes one in between
_SECONDS_A_FLUSH = 10  # reading CloudWatch flushes as well; this keeps timestamps honest


class Monitored(Protocol):
    """An endpoint in service, as far as the monitor looks at it."""

    def snapshot(self) -> FleetSnapshot:
        """Say how the endpoint is doing."""
        ...


class EndpointMonitor:
    """What the endpoints in service look like, and how their latency went lately.

    Parameters
    ----------
    serving
        The endpoints in service.
    metrics
        Theirs.
    """

    def __init__(self, serving: Mapping[EndpointId, Monitored], metrics: Metrics) -> None:
        self._serving = serving
        self._metrics = metrics
        self._snapshots: dict[EndpointId, FleetSnapshot] = {}
        self._taken_at = float("-inf")
        self._series: dict[tuple[EndpointId, str], LatencySeries] = {}
        self._listeners: list[Callable[[], None]] = []
        metrics.set_snapshots(self.snapshots)

    @property
    def metrics(self) -> Metrics:
        """The metrics of every variant."""
        return self._metrics

    def snapshots(self) -> Mapping[EndpointId, FleetSnapshot]:
        """Return a snapshot of every endpoint in service, at most half a second old."""
        now = time.monotonic()
        gone_or_new = self._snapshots.keys() != self._serving.keys()
        if gone_or_new or now - self._taken_at >= _FRESH:
            self._snapshots = {name: fleet.snapshot() for name, fleet in self._serving.items()}
            self._taken_at = now
        return self._snapshots

    def series(self, endpoint: EndpointId, variant: str) -> LatencySeries:
        """Return how a variant's latency went lately."""
        found = self._series.get((endpoint, variant))
        if found is None:
            found = LatencySeries(self._metrics.variant(endpoint, variant).latency)
            self._series[endpoint, variant] = found
        return found

    def forget(self, endpoint: EndpointId) -> None:
        """Let go of an endpoint that is gone."""
        for key in [key for key in self._series if key[0] == endpoint]:
            del self._series[key]

    def tick(self) -> None:
        """Close a second and tell whoever listens."""
        now = time.time()
        for metrics in self._metrics:
            self.series(metrics.endpoint, metrics.variant).tick(now, metrics.errors)
        self._metrics.settle()
        # A copy: whoever is called may stop listening.
        for listener in tuple(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after every second; the function returned ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


async def publish(monitor: EndpointMonitor, logs: LogShipper, captures: DataCapture) -> None:
    """Once a second, until cancelled: look, and bring logs, captures and metrics to moto."""
    second = 0
    while True:
        await asyncio.sleep(_INTERVAL)
        second += 1
        try:
            monitor.tick()
            await asyncio.to_thread(logs.flush)
            await captures.flush()
            if second % _SECONDS_A_FLUSH == 0:
                monitor.metrics.flush()
        except Exception:  # whatever it is, the next second shall be told again
            logger.exception("what the endpoints do cannot be told")
