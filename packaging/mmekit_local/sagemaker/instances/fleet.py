"""The instances that serve an endpoint under one endpoint config, variant by variant."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.archive.describe import example_of
from mmekit.errors import MmekitError
from mmekit.instance_types import instance_type
from mmekit_local.sagemaker.aws_client import locate
from mmekit_local.sagemaker.errors import validation_error
from mmekit_local.sagemaker.event_log import EventLog
from mmekit_local.sagemaker.instances.health import InstanceStartError
from mmekit_local.sagemaker.instances.instance_template import InstanceTemplate
from mmekit_local.sagemaker.instances.router import pick_variant
from mmekit_local.sagemaker.instances.serverless import ServerlessVariant
from mmekit_local.sagemaker.instances.shadow import ShadowTraffic
from mmekit_local.sagemaker.instances.usage import UsageMeter
from mmekit_local.sagemaker.instances.variant import Variant
from mmekit_local.sagemaker.observability.targets import TargetMetrics
from mmekit_local.sagemaker.snapshot import FleetSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmekit.archive import Example
    from mmekit_local.sagemaker.aws_client import ReadObject
    from mmekit_local.sagemaker.instances.instance import Instance
    from mmekit_local.sagemaker.instances.launcher import ContainerLauncher
    from mmekit_local.sagemaker.observability.capture import EndpointCapture
    from mmekit_local.sagemaker.observability.logs import LogShipper
    from mmekit_local.sagemaker.observability.metrics import Metrics
    from mmekit_local.sagemaker.options import EndpointLimits, EndpointOptions
    from mmekit_local.sagemaker.specification import (
        EndpointId,
        EndpointSpecification,
        VariantSpecification,
    )

__all__ = ["Fleet", "FleetStartError", "Successor"]

logger = logging.getLogger("mmekit.endpoint")

_MIB, _GIB = 1 << 20, 1 << 30
_USAGE_SECONDS = 3.0
_AWAKE_SECONDS = 15.0
"""After the last request models settle, processes end, and what they take is measured as before."""
_REST_SECONDS = 9.0
"""Between looks at containers that nobody asks: CloudWatch is told of them every ten seconds."""
_WHOLE_SECONDS = 60.0
"""After which all is looked at anyway."""
_ASYNC_SECONDS = 3600.0
"""What InvokeEndpointAsync may ask for at most."""


@dataclass(frozen=True)
class Successor:
    """What takes a fleet's place, step by step.

    Attributes
    ----------
    fleet
        It is in service.
    share
        Of the requests that it gets already, 0 to 1.
    """

    fleet: Fleet
    share: float


class FleetStartError(Exception):
    """An instance did not come up; the text is the endpoint's FailureReason."""


class Fleet:
    """All instances of an endpoint.

    Parameters
    ----------
    specification
        What to run.
    options
        May override the instances' memory; holds the limits.
    launcher
        Starts containers.
    read_object
        Reads from S3.
    folder
        Where instances have their folders.
    metrics
        Where metrics are gathered.
    event_log
        Where events are recorded; None for a event_log of its own.
    logs
        Where the containers' output goes; None for nowhere but the log.
    capture
        Where invocations are captured; None for nowhere.
    account_of
        Returns the variables by which the containers of a model, whose role it is told, reach AWS.

    Attributes
    ----------
    variants
        The production variants.
    shadows
        The shadow variants.
    asynchronous
        How requests are queued; None where they are answered at once.
    successor
        What takes this fleet's place during a deployment.
    """

    def __init__(  # noqa: PLR0913 - all of them are parts, none is a choice
        self,
        specification: EndpointSpecification,
        *,
        options: EndpointOptions,
        launcher: ContainerLauncher,
        read_object: ReadObject,
        folder: Path,
        metrics: Metrics,
        event_log: EventLog | None = None,
        logs: LogShipper | None = None,
        capture: EndpointCapture | None = None,
        account_of: Callable[[str], tuple[tuple[str, str], ...]] = lambda _: (),
    ) -> None:
        self.id: EndpointId = specification.id
        self.config_name = specification.config_name
        self.event_log = (event_log or EventLog()).of(self.id)
        self.capture = capture
        self._images = [
            (one.model.image, one.instance_type)
            for one in (*specification.variants, *specification.shadows)
        ]
        self._data_url = specification.variants[0].model.data_url
        self._options = options
        self._launcher = launcher
        self._read_object = read_object
        self._folder = folder
        self._metrics = metrics
        self._logs = logs
        self._account_of = account_of
        self._measuring: asyncio.Task[None] | None = None
        self.asynchronous = specification.asynchronous
        self.publish_seconds = specification.publish_seconds
        self.successor: Successor | None = None
        limits = options.limits
        if specification.asynchronous is not None:
            # For them to be finished before an instance goes.
            limits = replace(limits, invoke_seconds=max(limits.invoke_seconds, _ASYNC_SECONDS))
        self._limits = limits
        self.variants = tuple(
            self._variant(variant, folder / str(place))
            for place, variant in enumerate(specification.variants, 1)
        )
        self.shadows = tuple(
            self._variant(variant, folder / f"shadow-{place}")
            for place, variant in enumerate(specification.shadows, 1)
        )
        for variant in self.shadows:
            # Whoever looks at models asks what clients were answered, and they get no copies.
            variant.metrics.targets = TargetMetrics()
        self.shadow_traffic: ShadowTraffic | None = None
        """What copies requests to the shadow variant."""
        if self.shadows:
            self.shadow_traffic = ShadowTraffic(
                self.variants[0],
                self.shadows[0],
                f"{self.id.name}/{self.shadows[0].name}",
                self.event_log,
                capture,
                limits.waiting_requests,
            )

    @property
    def all_variants(self) -> tuple[Variant, ...]:
        """The production variants and the shadow variants."""
        return (*self.variants, *self.shadows)

    @property
    def instance_count(self) -> int:
        """How many instances of production variants are in service."""
        return sum(len(variant.instances) for variant in self.variants)

    def now(self) -> Fleet:
        """Return who shall serve a request: this fleet, or by its share the one that follows."""
        successor = self.successor
        # `random` stays below 1: at a share of 1 no request stays here.
        if successor is None or random.random() >= successor.share:  # noqa: S311 - no cryptography
            return self
        return successor.fleet

    def variant_for(self, wanted: str | None) -> Variant:
        """Return the variant that shall serve a request: the one it names, or one by weight.

        Raises
        ------
        AwsError
            It names a variant that the endpoint does not have.
        """
        if wanted is None:
            return pick_variant(self.variants)
        for variant in self.variants:
            if variant.name == wanted:
                return variant
        raise validation_error(f"Variant {wanted} not found for endpoint {self.id.name}.")

    async def start(self) -> None:
        """Start every instance and wait for all of them.

        Raises
        ------
        FleetStartError
            One of them did not come up.
        """
        for image, kind in self._images:
            try:
                self._launcher.require(image, kind)
            except MmekitError as error:
                raise FleetStartError(str(error)) from error
        self._measuring = asyncio.ensure_future(self._measure_now_and_then())
        outcomes = await asyncio.gather(
            *(variant.start() for variant in self.all_variants), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, InstanceStartError):
                raise FleetStartError(str(outcome)) from outcome
            if isinstance(outcome, BaseException):
                raise outcome

    async def resize(self, variant: str, count: int) -> None:
        """Have so many instances of a variant; those that leave finish their requests first.

        Raises
        ------
        FleetStartError
            One more did not come up; those that did stay.
        AwsError
            There is no such variant.
        """
        try:
            await self._named(variant).resize(count)
        except InstanceStartError as error:
            raise FleetStartError(str(error)) from error

    def set_weight(self, variant: str, weight: float) -> None:
        """Give a variant another share of the traffic.

        Raises
        ------
        AwsError
            There is no such variant.
        """
        self._named(variant).weight = weight

    def _named(self, name: str) -> Variant:
        shadow = next((one for one in self.shadows if one.name == name), None)
        return self.variant_for(name) if shadow is None else shadow

    async def stop(self, *, drain: bool = False) -> None:
        """Stop every instance and remove its folder; with `drain`, let requests finish first."""
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.wait([self._measuring])
        # First: a copy that begins now would keep a shadow's instance from draining.
        if self.shadow_traffic is not None:
            await self.shadow_traffic.stop()
        await asyncio.gather(*(variant.stop(drain=drain) for variant in self.all_variants))
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def example(self, target: str) -> Example | None:
        """Return a request that a target model answers, as its archive tells; None if it does not.

        It is read where an instance has it unpacked, and otherwise from S3; nothing is loaded.

        Raises
        ------
        ArchiveError
            The archive is damaged, or its manifest cannot be read.
        """
        instances = [one for variant in self.variants for one in variant.known_instances()]
        folders = (instance.folder_of(target) for instance in instances)
        folder = next((one for one in folders if one is not None), None)
        return await asyncio.to_thread(self._example, target, folder)

    def _example(self, target: str, folder: Path | None) -> Example | None:
        if folder is not None and folder.is_dir():
            return example_of(folder)
        address = locate(self._data_url, target)
        content = self._read_object(address.bucket, address.key)
        return None if content is None else example_of(Path(address.key), content)

    def snapshot(self) -> FleetSnapshot:
        """Say how the endpoint is doing; it takes no measurement."""
        variants = tuple(variant.snapshot() for variant in self.all_variants)
        return FleetSnapshot(
            self.id.name,
            self.config_name,
            variants,
            asynchronous=self.asynchronous is not None,
            publish_seconds=self.publish_seconds,
        )

    def _variant(self, specification: VariantSpecification, folder: Path) -> Variant:
        options, serverless = self._options, specification.serverless
        kind = instance_type(specification.instance_type or "")
        memory = None if kind is None else kind.memory_bytes
        if serverless is not None:
            memory = serverless.memory_mb * _MIB
        template = InstanceTemplate(
            endpoint=self.id,
            variant=specification.name,
            model=specification.model,
            memory=options.memory or memory,
            vcpus=None if kind is None else kind.vcpus,
            launcher=self._launcher,
            account=self._account_of(specification.model.role),
            read_object=self._read_object,
            limits=_limits(self._limits, specification),
            metrics=self._metrics.variant(self.id, specification.name),
            event_log=self.event_log,
            new_sink=lambda: (
                None if self._logs is None else self._logs.sink(self.id, specification.name)
            ),
        )
        if serverless is not None:
            return ServerlessVariant(specification, serverless, template, folder)
        return Variant(specification, template, folder, specification.instance_count)

    async def _measure_now_and_then(self) -> None:
        meter = UsageMeter()
        former: object = None
        awake_until = whole_at = looked_at = -math.inf
        while True:
            now = time.monotonic()
            instances = [
                instance for variant in self.all_variants for instance in variant.known_instances()
            ]
            activity = [instance.activity for instance in instances]
            if activity != former or any(instance.in_flight for instance in instances):
                former, awake_until = activity, now + _AWAKE_SECONDS
            if now < awake_until or now - looked_at >= _REST_SECONDS:
                at_rest = now >= awake_until and now - whole_at < _WHOLE_SECONDS
                if not await self._measure(meter, instances, at_rest=at_rest):
                    whole_at = now
                looked_at = now
            await asyncio.sleep(_USAGE_SECONDS)

    async def _measure(
        self, meter: UsageMeter, known: Sequence[Instance], *, at_rest: bool
    ) -> bool:
        """Measure the containers; return whether it was enough to see that they are at rest."""
        instances = {instance.label: instance for instance in known}
        pids = {
            label: pid for label, instance in instances.items() if (pid := instance.pid) is not None
        }
        usage = None
        try:
            if at_rest:
                usage = meter.measure_at_rest(pids)
            rested = usage is not None
            if usage is None:
                usage = await asyncio.to_thread(meter.measure, pids)
            # Together: one that unloads a model, or does not answer, must not hold up the others.
            await asyncio.gather(
                *(instance.take_usage(usage.get(label)) for label, instance in instances.items())
            )
        except Exception:
            # The next may succeed; an error that left here would end all of them.
            logger.exception("endpoint %s: its instances cannot be measured", self.id.name)
            return False
        return rested


def _limits(limits: EndpointLimits, specification: VariantSpecification) -> EndpointLimits:
    """Return the limits of a variant, of which its endpoint config may say some."""
    if specification.volume_gb is not None and limits.disk_bytes is None:
        limits = replace(limits, disk_bytes=specification.volume_gb * _GIB)
    if specification.startup_seconds is not None:
        limits = replace(limits, start_seconds=specification.startup_seconds)
    return limits
