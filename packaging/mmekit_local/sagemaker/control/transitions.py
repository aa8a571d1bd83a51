"""What is done to an endpoint's instances when the endpoint is created, changed or deleted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from mmekit_local.sagemaker.control.deployments import ALL_AT_ONCE
from mmekit_local.sagemaker.control.hosted import capacities_of, failure_reason, spoken
from mmekit_local.sagemaker.control.records import set_failure_reason, set_status
from mmekit_local.sagemaker.control.shifting import Shift

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmekit_local.sagemaker.control.deployments import Deployment
    from mmekit_local.sagemaker.control.hosted import Capacity, Hosted
    from mmekit_local.sagemaker.instances.fleet import Fleet
    from mmekit_local.sagemaker.journal import Journal
    from mmekit_local.sagemaker.observability.metrics import Metrics
    from mmekit_local.sagemaker.specification import EndpointId, EndpointSpecification

__all__ = ["Transitions"]

logger = logging.getLogger("mmekit.endpoint")


class Transitions:
    """Starts, replaces, resizes and stops the instances of endpoints.

    Parameters
    ----------
    state_seconds
        How long an endpoint's states last at least.
    make_fleet
        Returns the instances, not started, that a specification asks for.
    journal
        What happened is told to it.
    note
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
        journal: Journal,
        note: Callable[[dict[str, Any]], None],
        metrics: Metrics,
        baking_minute: float,
    ) -> None:
        self.serving: dict[EndpointId, Fleet] = {}
        self._state_seconds = state_seconds
        self._make_fleet = make_fleet
        self._journal = journal
        self._note = note
        self._metrics = metrics
        self._baking_minute = baking_minute
        self._draining: set[Fleet] = set()
        self._closing = asyncio.Event()

    async def create(self, endpoint: EndpointId, hosted: Hosted) -> None:
        """Bring up what an endpoint wants, or say why it failed."""
        self.tell(endpoint, "creating")
        async with self.lasting():
            if hosted.wanted is None:
                outcome: Fleet | str = str(hosted.record.failure_reason)
            else:
                outcome = await self._bring_up(hosted, hosted.wanted)
        if isinstance(outcome, str) and hosted.fallback is not None and not hosted.leaving:
            await self._fall_back(endpoint, hosted, hosted.fallback, outcome)
            return
        if hosted.leaving:
            await _stop(outcome)
        elif isinstance(outcome, str):
            set_failure_reason(hosted.record, outcome)
            set_status(hosted.record, "Failed")
            self.tell(endpoint, f"failed: {outcome}", "error")
        else:
            hosted.fleet = self.serving[endpoint] = outcome
            set_status(hosted.record, "InService")
            self.tell(endpoint, "in service")

    async def update(
        self,
        endpoint: EndpointId,
        hosted: Hosted,
        wanted: EndpointSpecification,
        deployment: Deployment,
    ) -> None:
        """Put others into the place of an endpoint's instances, which finish their requests."""
        old = hosted.fleet
        self.tell(endpoint, f"updating to {wanted.config_name}")
        async with self.lasting():
            outcome = await self._bring_up(hosted, wanted)
            back = ""
            if old is not None and not isinstance(outcome, str) and not hosted.leaving:
                back = await self._shift(endpoint, hosted, wanted, old, outcome, deployment)
        if hosted.leaving:
            await _stop(outcome)
        elif isinstance(outcome, str):
            await self.refuse(endpoint, hosted, outcome)
        elif back:
            set_status(hosted.record, "RollingBack")
            self.tell(endpoint, f"rolling back: {back}", "error")
            await self._drain(outcome)
            await self.refuse(endpoint, hosted, back)
        else:
            hosted.fleet = self.serving[endpoint] = outcome
            hosted.config_name = wanted.config_name
            await self._write_down({"endpoint": endpoint, "updated": wanted.config_name})
            now_in_service(hosted, None)
            self.tell(endpoint, "updated")
            await self._drain(old)

    async def _shift(
        self,
        endpoint: EndpointId,
        hosted: Hosted,
        wanted: EndpointSpecification,
        old: Fleet,
        new: Fleet,
        deployment: Deployment,
    ) -> str:
        """Move traffic step by step; return why it has gone back, or ""."""
        if deployment == ALL_AT_ONCE:
            return ""
        shift = Shift(
            endpoint=endpoint,
            hosted=hosted,
            wanted=wanted,
            old=old,
            new=new,
            deployment=deployment,
            minute=self._baking_minute,
            metrics=self._metrics,
            closing=self._closing,
            tell=lambda text: self.tell(endpoint, text),
        )
        hosted.starting = new  # whoever stops the endpoint stops it as well
        try:
            return await shift.run()
        except Exception as error:  # noqa: BLE001 - nothing may leave an endpoint in progress
            return failure_reason(error)
        finally:
            hosted.starting = None

    async def resize(
        self, endpoint: EndpointId, hosted: Hosted, capacities: Mapping[str, Capacity]
    ) -> None:
        """Give variants other numbers of instances and other weights."""
        fleet, before = hosted.fleet, hosted.before
        if fleet is None or before is None:
            set_status(hosted.record, "InService")
            return
        self.tell(endpoint, f"updating to {spoken(capacities)}")
        failure = None
        async with self.lasting():
            try:
                await _apply(fleet, capacities)
            except Exception as error:  # noqa: BLE001 - nothing may leave an endpoint in progress
                failure = failure_reason(error)
                with contextlib.suppress(Exception):
                    await _apply(fleet, capacities_of(before))
        if hosted.leaving:
            return
        if failure is not None:
            await self.refuse(endpoint, hosted, failure)
            return
        noted = {name: (one.instances, one.weight) for name, one in capacities.items()}
        await self._write_down({"endpoint": endpoint, "capacities": noted})
        now_in_service(hosted, None)
        self.tell(endpoint, "updated")

    async def refuse(self, endpoint: EndpointId, hosted: Hosted, reason: str) -> None:
        """Leave the old in service and say why."""
        if hosted.before is not None:
            hosted.wanted = hosted.before
        await self._write_down({"endpoint": endpoint, "reason": reason})
        now_in_service(hosted, reason)
        self.tell(endpoint, f"not updated: {reason}", "error")

    async def retire(self, hosted: Hosted) -> None:
        """Stop what an endpoint has, once its requests are finished."""
        hosted.leaving = True
        await _stop(hosted.starting)
        await self._drain(hosted.fleet)
        if hosted.work is not None:
            await asyncio.wait([hosted.work])

    async def close(self, fleets: list[Fleet]) -> None:
        """Stop fleets, and those that still drain, whatever they are doing."""
        self._closing.set()
        self.serving.clear()
        await asyncio.gather(*(fleet.stop() for fleet in {*fleets, *self._draining}))

    @contextlib.asynccontextmanager
    async def lasting(self) -> Any:
        """Make a state last, unless the service is to end."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._state_seconds
        yield
        with contextlib.suppress(asyncio.TimeoutError):
            if (rest := until - loop.time()) > 0:
                await asyncio.wait_for(self._closing.wait(), rest)

    def tell(self, endpoint: EndpointId, text: str, kind: Any = "endpoint") -> None:
        """Say what happens to an endpoint, in the log and in the journal."""
        logger.info("endpoint %s: %s", endpoint.name, text)
        self._journal.record(kind, endpoint.name, text)

    async def _fall_back(
        self, endpoint: EndpointId, hosted: Hosted, old: EndpointSpecification, reason: str
    ) -> None:
        """Refuse the update during which the service ended: start what was there before."""
        hosted.fallback, hosted.wanted, hosted.config_name = None, old, old.config_name
        await self._write_down({"endpoint": endpoint, "reason": reason})
        await self.create(endpoint, hosted)
        if hosted.record.endpoint_status == "InService":
            set_failure_reason(hosted.record, reason)

    async def _bring_up(self, hosted: Hosted, wanted: EndpointSpecification) -> Fleet | str:
        """Return instances in service, or why there are none."""
        try:
            hosted.starting = self._make_fleet(wanted)
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

    async def _write_down(self, change: dict[str, Any]) -> None:
        # In a thread: it returns once the disk has it, and meanwhile requests are answered.
        await asyncio.to_thread(self._note, change)


def now_in_service(hosted: Hosted, reason: str | None) -> None:
    """Say InService of an endpoint, and why it was not updated, if it was not."""
    set_failure_reason(hosted.record, reason)
    set_status(hosted.record, "InService")
    hosted.summarise()


async def _apply(fleet: Fleet, capacities: Mapping[str, Capacity]) -> None:
    for name, capacity in capacities.items():
        if capacity.weight is not None:
            fleet.set_weight(name, capacity.weight)
    for name, capacity in capacities.items():
        if capacity.instances is not None:
            await fleet.resize(name, capacity.instances)


async def _stop(fleet: Fleet | str | None) -> None:
    if fleet is not None and not isinstance(fleet, str):
        await fleet.stop()
