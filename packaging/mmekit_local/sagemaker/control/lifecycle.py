"""What is done to an endpoint's instances when the endpoint is created, changed or deleted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from mmekit_local.sagemaker.control.deployments import ALL_AT_ONCE, TrafficShift
from mmekit_local.sagemaker.control.hosted_endpoint import (
    capacities_of,
    described_capacities,
    failure_reason,
)
from mmekit_local.sagemaker.control.records import set_failure_reason, set_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmekit_local.sagemaker.control.deployments import BlueGreenDeployment
    from mmekit_local.sagemaker.control.hosted_endpoint import HostedEndpoint, VariantCapacity
    from mmekit_local.sagemaker.event_log import EventLog
    from mmekit_local.sagemaker.instances.fleet import Fleet
    from mmekit_local.sagemaker.observability.metrics import Metrics
    from mmekit_local.sagemaker.specification import EndpointId, EndpointSpecification

__all__ = ["EndpointLifecycle"]

logger = logging.getLogger("mmekit.endpoint")


class EndpointLifecycle:
    """Starts, replaces, resizes and stops the instances of endpoints.

    Parameters
    ----------
    state_seconds
        How long an endpoint's states last at least.
    make_fleet
        Returns the instances, not started, that a specification asks for.
    event_log
        What happened is told to it.
    keep
        Writes down, where state is kept, what became of an endpoint; it may block.
    metrics
        What the alarms of deployments watch.
    baking_minute
        How many seconds a minute of a deployment's waits lasts.

    Attributes
    ----------
    serving
        The endpoints that are in service.
    """

    def __init__(
        self,
        state_seconds: float,
        make_fleet: Callable[[EndpointSpecification], Fleet],
        event_log: EventLog,
        keep: Callable[[dict[str, Any]], None],
        metrics: Metrics,
        baking_minute: float,
    ) -> None:
        self.serving: dict[EndpointId, Fleet] = {}
        self._state_seconds = state_seconds
        self._make_fleet = make_fleet
        self._event_log = event_log
        self._keep = keep
        self._metrics = metrics
        self._baking_minute = baking_minute
        self._draining: set[Fleet] = set()
        self._closing = asyncio.Event()

    async def create(self, endpoint: EndpointId, hosted: HostedEndpoint) -> None:
        """Bring up what an endpoint wants, or say why it failed."""
        self.announce(endpoint, "creating")
        async with self.minimum_state_time():
            if hosted.desired is None:
                outcome: Fleet | str = str(hosted.record.failure_reason)
            else:
                outcome = await self._bring_up(hosted, hosted.desired)
        if isinstance(outcome, str) and hosted.fallback is not None and not hosted.stopping:
            await self._fall_back(endpoint, hosted, hosted.fallback, outcome)
            return
        # Deleted meanwhile: `retire` waits for this work, and does not know what has come up.
        if hosted.stopping:
            await _stop(outcome)
        elif isinstance(outcome, str):
            set_failure_reason(hosted.record, outcome)
            set_status(hosted.record, "Failed")
            self.announce(endpoint, f"failed: {outcome}", "error")
        else:
            hosted.fleet = self.serving[endpoint] = outcome
            set_status(hosted.record, "InService")
            self.announce(endpoint, "in service")

    async def update(
        self,
        endpoint: EndpointId,
        hosted: HostedEndpoint,
        desired: EndpointSpecification,
        deployment: BlueGreenDeployment,
    ) -> None:
        """Put others into the place of an endpoint's instances, which finish their requests."""
        old = hosted.fleet
        self.announce(endpoint, f"updating to {desired.config_name}")
        async with self.minimum_state_time():
            outcome = await self._bring_up(hosted, desired)
            back = ""
            if old is not None and not isinstance(outcome, str) and not hosted.stopping:
                back = await self._shift(endpoint, hosted, desired, old, outcome, deployment)
        if hosted.stopping:
            await _stop(outcome)
        elif isinstance(outcome, str):
            await self.reject_update(endpoint, hosted, outcome)
        elif back:
            set_status(hosted.record, "RollingBack")
            self.announce(endpoint, f"rolling back: {back}", "error")
            # While it is RollingBack: what went to the new instances is finished first.
            await self._drain(outcome)
            await self.reject_update(endpoint, hosted, back)
        else:
            hosted.fleet = self.serving[endpoint] = outcome
            hosted.config_name = desired.config_name
            # Before anybody sees InService: a start after a kill brings back what a waiter saw.
            await self._persist({"endpoint": endpoint, "updated": desired.config_name})
            now_in_service(hosted, None)
            self.announce(endpoint, "updated")
            await self._drain(old)

    async def _shift(
        self,
        endpoint: EndpointId,
        hosted: HostedEndpoint,
        desired: EndpointSpecification,
        old: Fleet,
        new: Fleet,
        deployment: BlueGreenDeployment,
    ) -> str:
        """Move traffic step by step; return why it has gone back, or ""."""
        if deployment == ALL_AT_ONCE:
            return ""
        shift = TrafficShift(
            endpoint=endpoint,
            hosted=hosted,
            desired=desired,
            old=old,
            new=new,
            deployment=deployment,
            minute=self._baking_minute,
            metrics=self._metrics,
            closing=self._closing,
            announce=lambda text: self.announce(endpoint, text),
        )
        hosted.starting = new  # whoever stops the endpoint stops it as well
        try:
            return await shift.run()
        except Exception as error:  # noqa: BLE001 - nothing may leave an endpoint in progress
            return failure_reason(error)
        finally:
            hosted.starting = None

    async def resize(
        self,
        endpoint: EndpointId,
        hosted: HostedEndpoint,
        capacities: Mapping[str, VariantCapacity],
    ) -> None:
        """Give variants other numbers of instances and other weights."""
        fleet, previous = hosted.fleet, hosted.previous
        if fleet is None or previous is None:
            set_status(hosted.record, "InService")
            return
        self.announce(endpoint, f"updating to {described_capacities(capacities)}")
        failure = None
        async with self.minimum_state_time():
            try:
                await _apply(fleet, capacities)
            except Exception as error:  # noqa: BLE001 - nothing may leave an endpoint in progress
                failure = failure_reason(error)
                # What did come up goes again; the failure above is what the client shall read.
                with contextlib.suppress(Exception):
                    await _apply(fleet, capacities_of(previous))
        if hosted.stopping:
            return
        if failure is not None:
            await self.reject_update(endpoint, hosted, failure)
            return
        changed = {name: (one.instances, one.weight) for name, one in capacities.items()}
        await self._persist({"endpoint": endpoint, "capacities": changed})
        now_in_service(hosted, None)
        self.announce(endpoint, "updated")

    async def reject_update(
        self, endpoint: EndpointId, hosted: HostedEndpoint, reason: str
    ) -> None:
        """Leave the old in service and say why."""
        if hosted.previous is not None:
            hosted.desired = hosted.previous
        await self._persist({"endpoint": endpoint, "reason": reason})
        now_in_service(hosted, reason)
        self.announce(endpoint, f"not updated: {reason}", "error")

    async def retire(self, hosted: HostedEndpoint) -> None:
        """Stop what an endpoint has, once its requests are finished."""
        hosted.stopping = True
        await _stop(hosted.starting)
        await self._drain(hosted.fleet)
        if hosted.work is not None:
            await asyncio.wait([hosted.work])

    async def close(self, fleets: list[Fleet]) -> None:
        """Stop fleets, and those that still drain, whatever they are doing."""
        self._closing.set()
        self.serving.clear()
        # A set: one that is being retired is in both.
        await asyncio.gather(*(fleet.stop() for fleet in {*fleets, *self._draining}))

    @contextlib.asynccontextmanager
    async def minimum_state_time(self) -> Any:
        """Make a state last, unless the service is to end."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._state_seconds
        yield
        with contextlib.suppress(asyncio.TimeoutError):
            if (rest := until - loop.time()) > 0:
                await asyncio.wait_for(self._closing.wait(), rest)

    def announce(self, endpoint: EndpointId, text: str, kind: Any = "endpoint") -> None:
        """Say what happens to an endpoint, in the log and in the event log."""
        logger.info("endpoint %s: %s", endpoint.name, text)
        log = self._event_log.of(endpoint) if kind == "error" else self._event_log
        log.record(kind, endpoint.name, text)

    async def _fall_back(
        self, endpoint: EndpointId, hosted: HostedEndpoint, old: EndpointSpecification, reason: str
    ) -> None:
        """Refuse the update during which the service ended: start what was there before."""
        hosted.fallback, hosted.desired, hosted.config_name = None, old, old.config_name
        await self._persist({"endpoint": endpoint, "reason": reason})
        await self.create(endpoint, hosted)
        # A start that failed has said why itself, and that is the later reason.
        if hosted.record.endpoint_status == "InService":
            set_failure_reason(hosted.record, reason)

    async def _bring_up(
        self, hosted: HostedEndpoint, desired: EndpointSpecification
    ) -> Fleet | str:
        """Return instances in service, or why there are none."""
        try:
            hosted.starting = self._make_fleet(desired)
            await hosted.starting.start()
        except Exception as error:  # noqa: BLE001 - nothing may leave an endpoint in progress
            await _stop(hosted.starting)
            return failure_reason(error)
        else:
            return hosted.starting
        finally:
            hosted.starting = None

    async def _drain(self, fleet: Fleet | None) -> None:
        if fleet is None:
            return
        self._draining.add(fleet)
        try:
            await fleet.stop(drain=not self._closing.is_set())
        finally:
            self._draining.discard(fleet)

    async def _persist(self, change: dict[str, Any]) -> None:
        # In a thread: it returns once the disk has it, and meanwhile requests are answered.
        await asyncio.to_thread(self._keep, change)


def now_in_service(hosted: HostedEndpoint, reason: str | None) -> None:
    """Say InService of an endpoint, and why it was not updated, if it was not."""
    set_failure_reason(hosted.record, reason)
    set_status(hosted.record, "InService")
    hosted.summarise()


async def _apply(fleet: Fleet, capacities: Mapping[str, VariantCapacity]) -> None:
    # Weights first: they take effect at once, and instances may take a minute, or fail.
    for name, capacity in capacities.items():
        if capacity.weight is not None:
            fleet.set_weight(name, capacity.weight)
    for name, capacity in capacities.items():
        if capacity.instances is not None:
            await fleet.resize(name, capacity.instances)


async def _stop(fleet: Fleet | str | None) -> None:
    if fleet is not None and not isinstance(fleet, str):
        await fleet.stop()
