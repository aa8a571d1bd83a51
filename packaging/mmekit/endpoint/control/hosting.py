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

from mmekit.endpoint.control.hosted import (
    Capacity,
    Hosted,
    capacities_of,
    failure_reason,
    retaining,
    spoken,
    with_capacities,
)
from mmekit.endpoint.control.records import set_failure_reason, set_members, set_status
from mmekit.endpoint.snapshot import EndpointStatus
from mmekit.endpoint.specification import EndpointId

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from moto.sagemaker.models import FakeEndpoint

    from mmekit.endpoint.control.aws import Aws
    from mmekit.endpoint.instances.fleet import Fleet
    from mmekit.endpoint.journal import Journal
    from mmekit.endpoint.options import EndpointOptions
    from mmekit.endpoint.specification import EndpointSpecification

__all__ = ["Hosting"]

logger = logging.getLogger("mmekit.endpoint")


class Hosting:
    """Runs endpoints.

    Parameters
    ----------
    aws
        Where endpoints are recorded.
    options
        How many instances a variant has, if not as its endpoint config says, and how long an
        endpoint's states last.
    make_fleet
        Returns the instances, not started, that a specification asks for.
    journal
        What happened is told to it.
    note
        Writes down, where state is kept, what became of an endpoint.
    """

    def __init__(
        self,
        aws: Aws,
        options: EndpointOptions,
        make_fleet: Callable[[EndpointSpecification], Fleet],
        journal: Journal,
        note: Callable[[dict[str, Any]], None],
    ) -> None:
        self.serving: dict[EndpointId, Fleet] = {}
        """The endpoints that are in service; the data plane reads it."""
        self._aws = aws
        self._options = options
        self._make_fleet = make_fleet
        self._journal = journal
        self._note = note
        self._hosted: dict[EndpointId, Hosted] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
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
        records = self._aws.endpoints(account, region)
        for name, record in list(records.items()):
            endpoint = EndpointId(account, region, name)
            hosted = self._hosted.get(endpoint)
            if hosted is not None and hosted.record is not record:
                # CloudFormation's update: moto deletes and creates anew, SageMaker updates.
                hosted = self._take_over(endpoint, hosted, record)
            if hosted is None:
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
            The DeploymentConfig, which is shown; the deployment is always all at once.
        """
        hosted = self._hosted[endpoint]
        hosted.before = hosted.wanted
        try:
            wanted = self._specification(endpoint, config_name)
        except LookupError as error:
            self._refuse_update(endpoint, hosted, failure_reason(error))
            return
        if hosted.wanted is not None:
            wanted = retaining(hosted.wanted, wanted, retained)
        hosted.wanted = wanted
        if deployment is not None:
            set_members(hosted.record, last_deployment_config=deployment)
        if self._restoring:
            hosted.config_name = config_name
            hosted.fallback = hosted.before  # until its outcome is read
            self.cancel_update(endpoint)
            return
        hosted.work = self._begin(self._update(endpoint, hosted, wanted))

    def set_capacities(self, endpoint: EndpointId, capacities: Mapping[str, Capacity]) -> None:
        """Give variants other weights and other numbers of instances; the status is Updating."""
        hosted = self._hosted[endpoint]
        if hosted.wanted is not None:
            hosted.before = hosted.wanted
            hosted.wanted = with_capacities(hosted.wanted, capacities)
        if self._restoring:
            self.cancel_update(endpoint)
        else:
            hosted.work = self._begin(self._resize(endpoint, hosted, capacities))

    def capacity(self, endpoint: EndpointId, variant: str) -> int | None:
        """Return how many instances a variant shall have; None when it can't be changed now."""
        hosted = self._hosted.get(endpoint)
        if hosted is None or hosted.wanted is None or hosted.record.endpoint_status != "InService":
            return None
        found = (one for one in hosted.wanted.variants if one.name == variant)
        return next((one.instance_count for one in found if one.serverless is None), None)

    async def settle(self, endpoint: EndpointId, seconds: float) -> None:
        """Give an endpoint's change some time to complete; it goes on when that has passed."""
        hosted = self._hosted.get(endpoint)
        if hosted is not None and hosted.change is not None and not self._options.state_seconds:
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
        """Play back what `note` was told."""
        hosted = self._hosted.get(EndpointId(*change["endpoint"]))
        if hosted is None or hosted.wanted is None:
            return
        if "capacities" in change:
            capacities = {
                name: Capacity(count, weight)
                for name, (count, weight) in change["capacities"].items()
            }
            hosted.wanted = with_capacities(hosted.wanted, capacities)
            return
        hosted.fallback = None
        if "reason" in change and hosted.before is not None:
            hosted.wanted = hosted.before
            hosted.config_name = hosted.wanted.config_name
            set_failure_reason(hosted.record, change["reason"])

    async def close(self) -> None:
        """Stop everything."""
        self._closing.set()
        self.serving.clear()
        fleets: list[Fleet | None] = []
        for hosted in self._hosted.values():
            hosted.leaving = True
            fleets += [hosted.fleet, hosted.starting]
        await asyncio.gather(*map(_stop, fleets))
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
            wanted = self._specification(endpoint, record.endpoint_config_name)
        except LookupError as error:
            wanted = None
            set_failure_reason(record, failure_reason(error))
        hosted = Hosted(record, wanted)
        self._hosted[endpoint] = hosted
        if not self._restoring:
            self._start_creation(endpoint, hosted)

    def _start_creation(self, endpoint: EndpointId, hosted: Hosted) -> None:
        set_status(hosted.record, "Creating")
        hosted.summarise()
        hosted.work = hosted.change = self._begin(self._create(endpoint, hosted))

    def _begin_deletion(
        self, endpoint: EndpointId, hosted: Hosted, records: dict[str, FakeEndpoint]
    ) -> None:
        if self._restoring:
            del self._hosted[endpoint]
            return
        # moto forgets at once; SageMaker says Deleting until the instances are gone.
        set_status(hosted.record, "Deleting")
        records[endpoint.name] = hosted.record
        self.serving.pop(endpoint, None)
        hosted.change = self._begin(self._delete(endpoint, hosted))

    def _take_over(
        self, endpoint: EndpointId, hosted: Hosted, record: FakeEndpoint
    ) -> Hosted | None:
        """Go on under a new record where that is an update; else clear the way for a creation."""
        if hosted.record.endpoint_status == "InService":
            record.creation_time = hosted.record.creation_time
            hosted.record = record
            self.begin_update(endpoint)
            self.update(endpoint, record.endpoint_config_name)
            return hosted
        self.serving.pop(endpoint, None)
        if not self._restoring:
            self._begin(self._retire(hosted))
        return None

    async def _create(self, endpoint: EndpointId, hosted: Hosted) -> None:
        self._tell(endpoint, "creating")
        async with self._lasting():
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
            self._tell(endpoint, f"failed: {outcome}", "error")
        else:
            hosted.fleet = self.serving[endpoint] = outcome
            set_status(hosted.record, "InService")
            self._tell(endpoint, "in service")

    async def _fall_back(
        self, endpoint: EndpointId, hosted: Hosted, old: EndpointSpecification, reason: str
    ) -> None:
        """Refuse the update during which the service ended: start what was there before."""
        hosted.fallback, hosted.wanted, hosted.config_name = None, old, old.config_name
        self._note({"endpoint": endpoint, "reason": reason})
        await self._create(endpoint, hosted)
        if hosted.record.endpoint_status == "InService":
            set_failure_reason(hosted.record, reason)

    async def _update(
        self, endpoint: EndpointId, hosted: Hosted, wanted: EndpointSpecification
    ) -> None:
        old = hosted.fleet
        self._tell(endpoint, f"updating to {wanted.config_name}")
        async with self._lasting():
            outcome = await self._bring_up(hosted, wanted)
        if hosted.leaving:
            await _stop(outcome)
        elif isinstance(outcome, str):
            self._refuse_update(endpoint, hosted, outcome)
        else:
            hosted.fleet = self.serving[endpoint] = outcome
            hosted.config_name = wanted.config_name
            self._note({"endpoint": endpoint, "updated": wanted.config_name})
            self._now_in_service(hosted, None)
            self._tell(endpoint, "updated")
            if old is not None:
                await old.stop(drain=True)

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

    async def _resize(
        self, endpoint: EndpointId, hosted: Hosted, capacities: Mapping[str, Capacity]
    ) -> None:
        fleet, before = hosted.fleet, hosted.before
        if fleet is None or before is None:
            self.cancel_update(endpoint)
            return
        self._tell(endpoint, f"updating to {spoken(capacities)}")
        failure = None
        async with self._lasting():
            try:
                await _apply(fleet, capacities)
            except Exception as error:  # noqa: BLE001 - nothing may leave an endpoint in progress
                failure = failure_reason(error)
                with contextlib.suppress(Exception):
                    await _apply(fleet, capacities_of(before))
        if hosted.leaving:
            return
        if failure is not None:
            self._refuse_update(endpoint, hosted, failure)
            return
        noted = {name: (one.instances, one.weight) for name, one in capacities.items()}
        self._note({"endpoint": endpoint, "capacities": noted})
        self._now_in_service(hosted, None)
        self._tell(endpoint, "updated")

    def _refuse_update(self, endpoint: EndpointId, hosted: Hosted, reason: str) -> None:
        """Leave the old in service and say why."""
        if hosted.before is not None:
            hosted.wanted = hosted.before
        self._note({"endpoint": endpoint, "reason": reason})
        self._now_in_service(hosted, reason)
        self._tell(endpoint, f"not updated: {reason}", "error")

    @staticmethod
    def _now_in_service(hosted: Hosted, reason: str | None) -> None:
        set_failure_reason(hosted.record, reason)
        set_status(hosted.record, "InService")
        hosted.summarise()

    async def _delete(self, endpoint: EndpointId, hosted: Hosted) -> None:
        async with self._lasting():
            await self._retire(hosted)
        records = self._aws.endpoints(endpoint.account, endpoint.region)
        if records.get(endpoint.name) is hosted.record:
            del records[endpoint.name]
        if self._hosted.get(endpoint) is hosted:
            del self._hosted[endpoint]
        self._tell(endpoint, "deleted")

    async def _retire(self, hosted: Hosted) -> None:
        hosted.leaving = True
        await _stop(hosted.starting)
        if hosted.fleet is not None:
            await hosted.fleet.stop(drain=True)
        if hosted.work is not None:
            await asyncio.wait([hosted.work])

    @contextlib.asynccontextmanager
    async def _lasting(self) -> Any:
        """Make a state last, unless the service is to end."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._options.state_seconds
        yield
        with contextlib.suppress(asyncio.TimeoutError):
            if (rest := until - loop.time()) > 0:
                await asyncio.wait_for(self._closing.wait(), rest)

    def _specification(self, endpoint: EndpointId, config_name: str) -> EndpointSpecification:
        described = self._aws.specification(endpoint, config_name)
        count = self._options.instances
        if count is None:
            return described
        variants = tuple(replace(one, instance_count=count) for one in described.variants)
        return replace(described, variants=variants)

    def _tell(self, endpoint: EndpointId, text: str, kind: Any = "endpoint") -> None:
        logger.info("endpoint %s: %s", endpoint.name, text)
        self._journal.record(kind, endpoint.name, text)


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
