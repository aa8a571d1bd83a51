"""Which endpoints run: brings the containers in line with what moto's SageMaker records.

Comparing states rather than following requests catches every way in which an endpoint comes or
goes: boto3, CloudFormation, or moto itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmekit_local.sagemaker.control.deployments import baking_minute, deployment_of
from mmekit_local.sagemaker.control.hosted_endpoint import (
    HostedEndpoint,
    VariantCapacity,
    failure_reason,
    with_capacities,
    with_retained_properties,
)
from mmekit_local.sagemaker.control.lifecycle import EndpointLifecycle, now_in_service
from mmekit_local.sagemaker.control.records import (
    Records,
    set_failure_reason,
    set_members,
    set_status,
)
from mmekit_local.sagemaker.snapshot import EndpointStatus
from mmekit_local.sagemaker.specification import EndpointId

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from moto.sagemaker.models import FakeEndpoint

    from mmekit_local.sagemaker.event_log import EventLog
    from mmekit_local.sagemaker.instances.fleet import Fleet
    from mmekit_local.sagemaker.observability.metrics import Metrics
    from mmekit_local.sagemaker.options import EndpointOptions
    from mmekit_local.sagemaker.specification import EndpointSpecification

__all__ = ["EndpointController"]

logger = logging.getLogger("mmekit.endpoint")


class EndpointController:
    """Runs endpoints.

    Parameters
    ----------
    options
        How many instances a variant has, if not as its endpoint config says, and how long an
        endpoint's states last.
    make_fleet
        Returns the instances, not started, that a specification asks for.
    event_log
        What happened is told to it.
    keep
        Writes down, where state is kept, what became of an endpoint; it may block.
    forget
        Called with every endpoint that is gone.
    metrics
        What alarms watch.

    Raises
    ------
    SettingsError
        ``MMEKIT_BAKING_MINUTE_S`` cannot be read.
    """

    def __init__(
        self,
        options: EndpointOptions,
        make_fleet: Callable[[EndpointSpecification], Fleet],
        event_log: EventLog,
        keep: Callable[[dict[str, Any]], None],
        forget: Callable[[EndpointId], None],
        metrics: Metrics,
    ) -> None:
        self._lifecycle = EndpointLifecycle(
            options.state_seconds, make_fleet, event_log, keep, metrics, baking_minute()
        )
        self.serving = self._lifecycle.serving
        """The endpoints that are in service; the data plane reads it."""
        self._options = options
        self._forget = forget
        self._hosted: dict[EndpointId, HostedEndpoint] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._restoring = False

    def statuses(self) -> tuple[EndpointStatus, ...]:
        """Return every endpoint there is, in whatever state."""
        return tuple(
            EndpointStatus(
                endpoint,
                hosted.config_name,
                hosted.record.endpoint_status,
                hosted.record.failure_reason,
            )
            for endpoint, hosted in self._hosted.items()
        )

    def reconcile(self, account: str, region: str) -> None:
        """Start what is recorded and does not run; stop what runs and is no longer recorded."""
        records = Records(account, region).endpoints
        for name, record in list(records.items()):
            endpoint = EndpointId(account, region, name)
            if endpoint not in self._hosted:
                self._begin_creation(endpoint, record)
        for endpoint, hosted in list(self._hosted.items()):
            here = (endpoint.account, endpoint.region) == (account, region)
            if here and endpoint.name not in records:
                self._begin_deletion(endpoint, hosted, records)

    def refresh(self, endpoint: EndpointId) -> None:
        """Bring moto's record up to date with what runs, before it is described."""
        hosted = self._hosted.get(endpoint)
        if hosted is not None:
            hosted.summarise()

    def begin_update(self, endpoint: EndpointId) -> None:
        """Say Updating; `update`, `set_capacities` or `cancel_update` follows."""
        set_status(self._hosted[endpoint].record, "Updating")

    def cancel_update(self, endpoint: EndpointId) -> None:
        """Say InService again: nothing has been changed."""
        set_status(self._hosted[endpoint].record, "InService")

    def update(
        self,
        endpoint: EndpointId,
        config_name: str,
        retained: frozenset[str] = frozenset(),
        deployment: dict[str, Any] | None = None,
    ) -> None:
        """Replace an endpoint's instances by those of another config, without a gap.

        Parameters
        ----------
        endpoint
            Which one; its status is Updating.
        config_name
            The endpoint config.
        retained
            What stays as it is, as UpdateEndpoint's VariantPropertyType spells it.
        deployment
            The DeploymentConfig, which is in order; None for all at once.
        """
        hosted = self._hosted[endpoint]
        hosted.previous = hosted.desired
        try:
            desired = self._specification(endpoint, config_name)
        except LookupError as error:
            if self._restoring:
                now_in_service(hosted, failure_reason(error))
            else:
                refused = self._lifecycle.reject_update(endpoint, hosted, failure_reason(error))
                hosted.work = self._begin(refused)
            return
        if hosted.desired is not None:
            desired = with_retained_properties(hosted.desired, desired, retained)
        hosted.desired = desired
        if deployment is not None:
            set_members(hosted.record, last_deployment_config=deployment)
        if self._restoring:
            hosted.config_name = config_name
            hosted.fallback = hosted.previous  # until its outcome is read
            self.cancel_update(endpoint)
            return
        counts = [variant.instance_count for variant in desired.variants]
        steps = deployment_of(deployment, counts)
        hosted.work = self._begin(self._lifecycle.update(endpoint, hosted, desired, steps))

    def set_capacities(
        self, endpoint: EndpointId, capacities: Mapping[str, VariantCapacity]
    ) -> None:
        """Give variants other weights and other numbers of instances; the status is Updating."""
        hosted = self._hosted[endpoint]
        if hosted.desired is not None:
            hosted.previous = hosted.desired
            hosted.desired = with_capacities(hosted.desired, capacities)
        if self._restoring:
            self.cancel_update(endpoint)
        else:
            resized = self._lifecycle.resize(endpoint, hosted, capacities)
            hosted.work = self._begin(resized)

    def capacity(self, endpoint: EndpointId, variant: str) -> int | None:
        """Return how many instances a variant shall have; None when it can't be changed now."""
        hosted = self._hosted.get(endpoint)
        if hosted is None or hosted.desired is None or hosted.record.endpoint_status != "InService":
            return None
        found = (one for one in hosted.desired.variants if one.name == variant)
        return next((one.instance_count for one in found if one.serverless is None), None)

    async def settle(self, endpoint: EndpointId, seconds: float) -> None:
        """Give an endpoint's change some time to complete; it goes on when that has passed."""
        hosted = self._hosted.get(endpoint)
        if hosted is not None and hosted.change is not None and not self._options.state_seconds:
            # `wait_for` would cancel the change when the time is over.
            await asyncio.wait((hosted.change,), timeout=seconds)

    @contextlib.contextmanager
    def restoring(self) -> Any:
        """Take note, for the block, of what endpoints shall be; start them at its end."""
        self._restoring = True
        yield
        self._restoring = False
        for endpoint, hosted in self._hosted.items():
            logger.info("endpoint %s: restored", endpoint.name)
            self._start_creation(endpoint, hosted)

    def restore(self, change: Mapping[str, Any]) -> None:
        """Play back what `keep` was told."""
        hosted = self._hosted.get(EndpointId(*change["endpoint"]))
        if hosted is None or hosted.desired is None:
            return
        if "capacities" in change:
            capacities = {
                name: VariantCapacity(count, weight)
                for name, (count, weight) in change["capacities"].items()
            }
            hosted.desired = with_capacities(hosted.desired, capacities)
            return
        # What became of the update is known: the service did not end in the middle of it.
        hosted.fallback = None
        if "reason" in change and hosted.previous is not None:
            hosted.desired = hosted.previous
            hosted.config_name = hosted.desired.config_name
            set_failure_reason(hosted.record, change["reason"])

    async def close(self) -> None:
        """Stop everything."""
        # All of them before the first wait: an update that ends then must put nothing in service.
        for hosted in self._hosted.values():
            hosted.stopping = True
        known = (
            fleet for hosted in self._hosted.values() for fleet in (hosted.fleet, hosted.starting)
        )
        await self._lifecycle.close([fleet for fleet in known if fleet is not None])
        await asyncio.gather(*self._work, return_exceptions=True)

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("an endpoint cannot be changed", exc_info=error)

    def _begin_creation(self, endpoint: EndpointId, record: FakeEndpoint) -> None:
        try:
            desired = self._specification(endpoint, record.endpoint_config_name)
        except LookupError as error:
            desired = None
            set_failure_reason(record, failure_reason(error))
        hosted = HostedEndpoint(record, desired)
        self._hosted[endpoint] = hosted
        if not self._restoring:
            self._start_creation(endpoint, hosted)

    def _start_creation(self, endpoint: EndpointId, hosted: HostedEndpoint) -> None:
        set_status(hosted.record, "Creating")
        hosted.summarise()
        hosted.work = hosted.change = self._begin(self._lifecycle.create(endpoint, hosted))

    def _begin_deletion(
        self, endpoint: EndpointId, hosted: HostedEndpoint, records: dict[str, FakeEndpoint]
    ) -> None:
        if self._restoring:
            del self._hosted[endpoint]
            return
        # moto forgets at once; SageMaker says Deleting until the instances are gone.
        set_status(hosted.record, "Deleting")
        records[endpoint.name] = hosted.record
        self.serving.pop(endpoint, None)
        hosted.change = self._begin(self._delete(endpoint, hosted))

    async def _delete(self, endpoint: EndpointId, hosted: HostedEndpoint) -> None:
        async with self._lifecycle.minimum_state_time():
            await self._lifecycle.retire(hosted)
        records = Records(endpoint.account, endpoint.region).endpoints
        if records.get(endpoint.name) is hosted.record:
            del records[endpoint.name]
        if self._hosted.get(endpoint) is hosted:
            del self._hosted[endpoint]
            self._forget(endpoint)
        self._lifecycle.announce(endpoint, "deleted")

    def _specification(self, endpoint: EndpointId, config_name: str) -> EndpointSpecification:
        records = Records(endpoint.account, endpoint.region)
        described = records.specification(endpoint.name, config_name)
        count = self._options.instances
        if count is None:
            return described
        variants = tuple(replace(one, instance_count=count) for one in described.variants)
        shadows = tuple(replace(one, instance_count=count) for one in described.shadows)
        return replace(described, variants=variants, shadows=shadows)
