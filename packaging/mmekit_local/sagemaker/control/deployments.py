"""Deployments of UpdateEndpoint: in which steps traffic shifts, what ends that, and the shift.

Sources: AWS's "Deployment guardrails" in the SageMaker developer guide (canary, linear, all at
once, auto-rollback, exclusions) and the API reference's pages of TrafficRoutingConfig,
BlueGreenUpdatePolicy and AutoRollbackConfig.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mmekit.errors import SettingsError
from mmekit_local.sagemaker.control.alarms import (
    DeploymentAlarms,
    unknown_alarms,
    unsupported_reason,
)
from mmekit_local.sagemaker.control.records import set_members, variant_summaries
from mmekit_local.sagemaker.errors import validation_exception
from mmekit_local.sagemaker.instances.fleet import Successor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mmekit_local.sagemaker.control.hosted_endpoint import HostedEndpoint
    from mmekit_local.sagemaker.control.records import Records
    from mmekit_local.sagemaker.instances.fleet import Fleet
    from mmekit_local.sagemaker.instances.variant import Variant
    from mmekit_local.sagemaker.observability.metrics import DeploymentMetrics, Metrics
    from mmekit_local.sagemaker.specification import EndpointId, EndpointSpecification

__all__ = [
    "ALL_AT_ONCE",
    "BlueGreenDeployment",
    "TrafficShift",
    "baking_minute",
    "check_deployment",
    "deployment_of",
]

_VARIABLE = "MMEKIT_BAKING_MINUTE_S"
_MINUTE_S = 60.0
_LEAST_LINEAR, _MOST = 0.1, 0.5
_ROUNDING = 1e-9
_LOOK_S = 1.0
_LOOKS_A_MINUTE = 30


@dataclass(frozen=True)
class BlueGreenDeployment:
    """How traffic moves from the old instances to the new; all times are seconds.

    Attributes
    ----------
    shares
        Of the traffic that the new instances get, step by step; the last is 1.
    wait, termination
        After each step, and before the old instances go.
    most
        For all of it.
    alarms
        Names of CloudWatch's alarms, any of which ends it.
    """

    shares: tuple[float, ...] = (1.0,)
    wait: float = 0.0
    termination: float = 0.0
    most: float = math.inf
    alarms: tuple[str, ...] = ()

    @property
    def waiting(self) -> float:
        """The seconds that it waits, if nothing ends it."""
        return self.wait * len(self.shares) + self.termination


ALL_AT_ONCE = BlueGreenDeployment()


def baking_minute() -> float:
    """Return how many seconds a minute of a deployment's waits lasts, as the environment says.

    Raises
    ------
    SettingsError
        It is no number above 0.
    """
    text = os.environ.get(_VARIABLE, "").strip()
    if not text:
        return _MINUTE_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        remedy = "give the seconds that a minute of a deployment's waits shall last, such as 2"
        raise SettingsError(f"not a number above 0: {text!r}", where=_VARIABLE, remedy=remedy)
    return seconds


def deployment_of(config: dict[str, Any] | None, counts: Sequence[int]) -> BlueGreenDeployment:
    """Return what a DeploymentConfig, which is in order, says.

    Parameters
    ----------
    config
        None for an update without one: all at once.
    counts
        The instances of each new variant.
    """
    if not config:
        return ALL_AT_ONCE
    alarms = config.get("AutoRollbackConfiguration", {}).get("Alarms", ())
    names = tuple(alarm["AlarmName"] for alarm in alarms)
    policy = config.get("BlueGreenUpdatePolicy")
    if not policy:
        return BlueGreenDeployment(alarms=names)
    routing = policy["TrafficRoutingConfiguration"]
    step = _share(_size(routing), counts)
    if routing["Type"] == "CANARY":
        shares = [step, 1.0]
    elif routing["Type"] == "LINEAR":
        shares = [step * number for number in range(1, math.ceil(1 / step - _ROUNDING))]
        shares.append(1.0)
    else:
        shares = [1.0]
    return BlueGreenDeployment(
        shares=tuple(shares),
        wait=float(routing["WaitIntervalInSeconds"]),
        termination=float(policy.get("TerminationWaitInSeconds", 0)),
        most=float(policy.get("MaximumExecutionTimeoutInSeconds", math.inf)),
        alarms=names,
    )


def check_deployment(
    config: dict[str, Any], variants: Sequence[dict[str, Any]], records: Records
) -> None:
    """Raise what cannot be done of a DeploymentConfig.

    Parameters
    ----------
    config
        As CreateEndpoint or UpdateEndpoint is given it.
    variants
        The variants of the new endpoint config.
    records
        Of whose account and region the alarms are.

    Raises
    ------
    AwsError
        A ValidationException.
    """
    policy = config.get("BlueGreenUpdatePolicy")
    if config.get("RollingUpdatePolicy"):
        if policy:
            raise validation_exception(
                "A DeploymentConfig can have only one of BlueGreenUpdatePolicy and "
                "RollingUpdatePolicy."
            )
        raise validation_exception(
            "RollingUpdatePolicy cannot be rehearsed on this machine: instances are not replaced "
            "batch by batch. BlueGreenUpdatePolicy can, with ALL_AT_ONCE, CANARY and LINEAR."
        )
    if policy:
        _check_routing(policy["TrafficRoutingConfiguration"], variants)
        counts = [int(one.get("InitialInstanceCount") or 1) for one in variants]
        deployment = deployment_of(config, counts)
        if deployment.waiting > deployment.most:
            raise validation_exception(
                f"MaximumExecutionTimeoutInSeconds is {deployment.most:g}, and must be larger than "
                f"the total waiting time of {deployment.waiting:g} seconds."
            )
    _check_alarms(config, records)


def _check_routing(routing: dict[str, Any], variants: Sequence[dict[str, Any]]) -> None:
    kind = routing["Type"]
    for member, its_kind, least in (
        ("CanarySize", "CANARY", 0.0),
        ("LinearStepSize", "LINEAR", _LEAST_LINEAR),
    ):
        if kind != its_kind:
            if member in routing:
                raise validation_exception(
                    f"{member} can be specified only when the Type of TrafficRoutingConfiguration "
                    f"is {its_kind}."
                )
            continue
        if member not in routing:
            raise validation_exception(
                f"{member} must be specified when the Type of TrafficRoutingConfiguration is "
                f"{its_kind}."
            )
        size = routing[member]
        for variant in variants:
            name, count = variant["VariantName"], int(variant.get("InitialInstanceCount") or 0)
            if size["Type"] == "INSTANCE_COUNT" and not count:
                raise validation_exception(
                    f'{member} in instances cannot be had of variant "{name}", which has none of '
                    "its own: use CAPACITY_PERCENT."
                )
            share = _share(size, [count])
            if not least - _ROUNDING <= share <= _MOST + _ROUNDING:
                bounds = f"{least:.0%} to " if least else "at most "
                raise validation_exception(
                    f"{member} must be {bounds}{_MOST:.0%} of the instances of variant "
                    f'"{name}"; it is {share:.0%}.'
                )


def _check_alarms(config: dict[str, Any], records: Records) -> None:
    if records.are_replayed:  # alarms do not come back with the state
        return
    alarms = config.get("AutoRollbackConfiguration", {}).get("Alarms", ())
    names = [alarm["AlarmName"] for alarm in alarms if "AlarmName" in alarm]
    if len(names) < len(alarms):
        raise validation_exception("Every alarm of AutoRollbackConfiguration must have a name.")
    missing = unknown_alarms(records.account, records.region, names)
    if missing:
        raise validation_exception(
            f"The CloudWatch alarm(s) {', '.join(missing)} of AutoRollbackConfiguration do not "
            f"exist in account {records.account}, region {records.region}."
        )
    for name in names:
        reason = unsupported_reason(records.account, records.region, name)
        if reason:
            raise validation_exception(
                f"The CloudWatch alarm {name} cannot be rehearsed on this machine: {reason}."
            )


def _size(routing: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = routing.get("CanarySize") or routing.get("LinearStepSize") or {}
    return found


def _share(size: dict[str, Any], counts: Sequence[int]) -> float:
    """Return what part of the new instances a CapacitySize is."""
    if not size:
        return 1.0
    if size["Type"] == "CAPACITY_PERCENT":
        return float(size["Value"]) / 100.0
    return float(size["Value"]) / max(min(counts, default=1), 1)


@dataclass(frozen=True)
class TrafficShift:
    """One deployment's move from an old fleet to a new one, both of which are in service.

    Attributes
    ----------
    endpoint, hosted, desired
        What is deployed.
    old, new
        The fleets.
    deployment
        In which steps.
    minute
        How many seconds a minute of its waits lasts.
    metrics
        Brought up to date before alarms are looked at.
    closing
        Set when the service is to end.
    announce
        Called with what happens.
    """

    endpoint: EndpointId
    hosted: HostedEndpoint
    desired: EndpointSpecification
    old: Fleet
    new: Fleet
    deployment: BlueGreenDeployment
    minute: float
    metrics: Metrics
    closing: asyncio.Event
    announce: Callable[[str], None]

    async def run(self) -> str:
        """Move the traffic; return why it went back to the old fleet, or "".

        Otherwise it stays with the new one, whatever the old one is still asked for.
        """
        # Stands where `_move` raises or is cancelled: the traffic goes back then, too.
        reason = "It ended before its time."
        try:
            with self._watched():
                reason = await self._move()
        finally:
            if reason:
                self.old.successor = None
        return reason

    async def _move(self) -> str:
        began = time.monotonic()
        reason = self._rollback_reason(began)
        for share in self.deployment.shares:
            if reason:
                return reason
            self.old.successor = Successor(self.new, share)
            self._show("Baking", share)
            if len(self.deployment.shares) > 1:
                self.announce(f"{share:.0%} of the requests go to the new instances")
            reason = await self._bake(self.deployment.wait, began)
        return reason or await self._bake(self.deployment.termination, began)

    @contextlib.contextmanager
    def _watched(self) -> Any:
        """Give the new fleet metrics of its own for the block, and show it."""
        with contextlib.ExitStack() as stack:
            for variant in self.new.variants:
                metrics = self.metrics.of_deployment(
                    self.endpoint, variant.name, self.desired.config_name
                )
                stack.enter_context(_recorded_by(metrics, variant))
            self._show("ActivatingTraffic", 0.0)
            try:
                yield
            finally:
                set_members(self.hosted.record, pending_deployment_summary=None)

    def _show(self, status: str, share: float) -> None:
        """Write into moto's record how far it is."""
        now = datetime.now(timezone.utc).replace(tzinfo=None)  # moto is naive
        running = {variant.name: variant for variant in self.new.variants}
        variants = variant_summaries(self.hosted.record, self.desired.variants, running)
        message = f"{share:.0%} of the traffic"
        for variant in variants:
            told = {"Status": status, "StatusMessage": message, "StartTime": now}
            variant["VariantStatus"] = [told]
        pending = {
            "EndpointConfigName": self.desired.config_name,
            "ProductionVariants": variants,
            "StartTime": now,
        }
        set_members(self.hosted.record, pending_deployment_summary=pending)

    async def _bake(self, seconds: float, began: float) -> str:
        """Wait, and return at once when something is amiss: why, or ""."""
        until = time.monotonic() + seconds * self.minute / _MINUTE_S
        while True:
            if reason := self._rollback_reason(began):
                return reason
            rest = until - time.monotonic()
            if rest <= 0:
                return ""
            look = min(_LOOK_S, self.minute / _LOOKS_A_MINUTE, rest)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.closing.wait(), max(look, 0.01))

    def _rollback_reason(self, began: float) -> str:
        if self.closing.is_set() or self.hosted.stopping:
            return "The endpoint service ends."
        most = self.deployment.most
        if time.monotonic() - began > most:
            return f"The deployment took longer than {most:g} seconds and was rolled back."
        if not self.deployment.alarms:
            return ""
        self.metrics.flush()
        account, region, _ = self.endpoint
        found = DeploymentAlarms(account, region, self.deployment.alarms, self.minute).in_alarm()
        if not found:
            return ""
        return (
            f"The deployment was rolled back: the CloudWatch alarm(s) {', '.join(found)} went into "
            "the ALARM state."
        )


@contextlib.contextmanager
def _recorded_by(metrics: DeploymentMetrics, variant: Variant) -> Iterator[None]:
    """Have a variant's invocations recorded by a deployment's metrics as well, for the block."""
    variant.metrics = metrics
    try:
        yield
    finally:
        variant.metrics = metrics.whole
