"""Which endpoints run: brings the containers in line with what moto's SageMaker records.

Comparing states rather than following requests catches every way in which an endpoint comes or
goes: boto3, CloudFormation, or moto itself.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from mmekit.endpoint.fleet import Fleet, FleetStartError
from mmekit.endpoint.specification import EndpointId

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from moto.sagemaker.models import FakeEndpoint

    from mmekit.endpoint.aws import Aws
    from mmekit.endpoint.launcher import ContainerLauncher
    from mmekit.endpoint.metrics import Metrics
    from mmekit.endpoint.options import EndpointOptions

__all__ = ["Hosting"]

logger = logging.getLogger("mmekit.endpoint")


@dataclass
class _Hosted:
    """An endpoint that has, had or is to have containers."""

    record: FakeEndpoint
    fleet: Fleet | None = None
    work: asyncio.Task[None] | None = None
    change: asyncio.Task[None] | None = None
    leaving: bool = False


class Hosting:
    """Runs endpoints.

    Parameters
    ----------
    aws
        Where endpoints are recorded.
    launcher
        Starts containers.
    options
        Handed to every fleet.
    folder
        Where instances have their folders.
    metrics
        Where metrics are gathered.
    """

    def __init__(
        self,
        aws: Aws,
        launcher: ContainerLauncher,
        options: EndpointOptions,
        folder: Path,
        metrics: Metrics,
    ) -> None:
        self.serving: dict[EndpointId, Fleet] = {}
        """The endpoints that are in service; the data plane reads it."""
        self._aws = aws
        self._launcher = launcher
        self._options = options
        self._folder = folder
        self._metrics = metrics
        self._hosted: dict[EndpointId, _Hosted] = {}
        self._work: set[asyncio.Task[None]] = set()

    def reconcile(self, account: str, region: str) -> None:
        """Start what is recorded and does not run; stop what runs and is no longer recorded."""
        records = self._aws.endpoints(account, region)
        for name, record in list(records.items()):
            endpoint = EndpointId(account, region, name)
            hosted = self._hosted.get(endpoint)
            if hosted is not None and hosted.record is not record:  # deleted and created anew
                self.serving.pop(endpoint, None)
                self._begin(self._retire(hosted))
                hosted = None
            if hosted is None:
                self._begin_creation(endpoint, record)
        for endpoint, hosted in list(self._hosted.items()):
            here = (endpoint.account, endpoint.region) == (account, region)
            if here and endpoint.name not in records:
                # moto forgets at once; SageMaker says Deleting until the instances are gone.
                _set_status(hosted.record, "Deleting")
                records[endpoint.name] = hosted.record
                self.serving.pop(endpoint, None)
                hosted.change = self._begin(self._delete(endpoint, hosted))

    def update(self, endpoint: EndpointId, config_name: str) -> None:
        """Replace an endpoint's instances by those of another config, without a gap."""
        hosted = self._hosted[endpoint]
        _set_status(hosted.record, "Updating")
        hosted.work = self._begin(self._update(endpoint, hosted, config_name))

    async def settle(self, endpoint: EndpointId, seconds: float) -> None:
        """Give an endpoint's change some time to complete; it goes on when that has passed."""
        hosted = self._hosted.get(endpoint)
        if hosted is not None and hosted.change is not None:
            await asyncio.wait((hosted.change,), timeout=seconds)

    async def close(self) -> None:
        """Stop everything."""
        self.serving.clear()
        fleets = []
        for hosted in self._hosted.values():
            hosted.leaving = True
            if hosted.fleet is not None:
                fleets.append(hosted.fleet)
        await asyncio.gather(*(fleet.stop() for fleet in fleets))
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
        _set_status(record, "Creating")
        hosted = _Hosted(record)
        self._hosted[endpoint] = hosted
        hosted.work = hosted.change = self._begin(self._create(endpoint, hosted))

    async def _create(self, endpoint: EndpointId, hosted: _Hosted) -> None:
        logger.info("endpoint %s: creating", endpoint.name)
        try:
            fleet = self._fleet(endpoint, hosted.record.endpoint_config_name)
            hosted.fleet = fleet
            await self._start(fleet)
        except (LookupError, FleetStartError) as error:
            if not hosted.leaving:
                _set_failure_reason(hosted.record, _failure_reason(error))
                _set_status(hosted.record, "Failed")
                logger.info("endpoint %s: failed: %s", endpoint.name, error)
            return
        if not hosted.leaving:
            self.serving[endpoint] = fleet
            _set_status(hosted.record, "InService")
            logger.info("endpoint %s: in service", endpoint.name)

    async def _update(self, endpoint: EndpointId, hosted: _Hosted, config_name: str) -> None:
        old = hosted.fleet
        logger.info("endpoint %s: updating to %s", endpoint.name, config_name)
        try:
            new = self._fleet(endpoint, config_name)
            hosted.fleet = new
            await self._start(new)
        except (LookupError, FleetStartError) as error:
            hosted.fleet = old
            if not hosted.leaving:
                _set_failure_reason(hosted.record, _failure_reason(error))
                _set_status(hosted.record, "InService")
                logger.info("endpoint %s: not updated: %s", endpoint.name, error)
        else:
            if not hosted.leaving:
                self.serving[endpoint] = new
                self._aws.use_config(hosted.record, endpoint, config_name)
                _set_failure_reason(hosted.record, None)
                _set_status(hosted.record, "InService")
                logger.info("endpoint %s: updated", endpoint.name)
            if old is not None:
                await old.stop(drain=True)
        if hosted.leaving and old is not None:
            await old.stop()

    async def _delete(self, endpoint: EndpointId, hosted: _Hosted) -> None:
        await self._retire(hosted)
        records = self._aws.endpoints(endpoint.account, endpoint.region)
        if records.get(endpoint.name) is hosted.record:
            del records[endpoint.name]
        if self._hosted.get(endpoint) is hosted:
            del self._hosted[endpoint]
        logger.info("endpoint %s: deleted", endpoint.name)

    async def _retire(self, hosted: _Hosted) -> None:
        hosted.leaving = True
        if hosted.fleet is not None:
            await hosted.fleet.stop(drain=True)
        if hosted.work is not None:
            await asyncio.wait([hosted.work])

    def _fleet(self, endpoint: EndpointId, config_name: str) -> Fleet:
        return Fleet(
            self._aws.specification(endpoint, config_name),
            options=self._options,
            launcher=self._launcher,
            read_object=lambda bucket, key: self._aws.read_object(
                endpoint.account, endpoint.region, bucket, key
            ),
            folder=self._folder / uuid.uuid4().hex[:12],
            metrics=self._metrics,
        )

    async def _start(self, fleet: Fleet) -> None:
        try:
            await fleet.start()
        except BaseException:
            await fleet.stop()
            raise


def _failure_reason(error: Exception) -> str:
    if isinstance(error, LookupError):
        return str(error.args[0])
    return (
        "The primary container for a production variant did not pass the ping health check. "
        f"Please check CloudWatch logs for this endpoint. {error}"
    )


def _set_status(record: FakeEndpoint, status: str) -> None:
    record.endpoint_status = status
    record.last_modified_time = datetime.now(timezone.utc).replace(tzinfo=None)  # moto is naive


def _set_failure_reason(record: FakeEndpoint, reason: str | None) -> None:
    setattr(record, "failure_reason", reason)  # noqa: B010 - moto types it as always None
