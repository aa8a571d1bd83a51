"""Traffic that moves from old instances to new ones, watched by alarms."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mmekit_local.sagemaker.control.alarms import Alarms
from mmekit_local.sagemaker.control.records import set_members, variant_summaries
from mmekit_local.sagemaker.instances.fleet import Successor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit_local.sagemaker.control.deployments import Deployment
    from mmekit_local.sagemaker.control.hosted import Hosted
    from mmekit_local.sagemaker.instances.fleet import Fleet
    from mmekit_local.sagemaker.instances.variant import Variant
    from mmekit_local.sagemaker.observability.metrics import Metrics, TwinMetrics
    from mmekit_local.sagemaker.specification import EndpointId, EndpointSpecification

__all__ = ["Shift"]

_MINUTE_S = 60.0
_LOOK_S = 1.0
_LOOKS_A_MINUTE = 30


@dataclass(frozen=True)
class Shift:
    """One deployment's move from an old fleet to a new one, both of which are in service.

    Attributes
    ----------
    endpoint, hosted, wanted
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
    tell
        Called with what happens.
    """

    endpoint: EndpointId
    hosted: Hosted
    wanted: EndpointSpecification
    old: Fleet
    new: Fleet
    deployment: Deployment
    minute: float
    metrics: Metrics
    closing: asyncio.Event
    tell: Callable[[str], None]

    async def run(self) -> str:
        """Move the traffic; return why it went back to the old fleet, or "".

        Otherwise it stays with the new one, whatever the old one is still asked for.
        """
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
        reason = self._trouble(began)
        for share in self.deployment.shares:
            if reason:
                return reason
            self.old.successor = Successor(self.new, share)
            self._show("Baking", share)
            if len(self.deployment.shares) > 1:
                self.tell(f"{share:.0%} of the requests go to the new instances")
            reason = await self._bake(self.deployment.wait, began)
        return reason or await self._bake(self.deployment.termination, began)

    @contextlib.contextmanager
    def _watched(self) -> Any:
        """Give the new fleet metrics of its own for the block, and show it."""
        with contextlib.ExitStack() as stack:
            for variant in self.new.variants:
                twin = self.metrics.twin(self.endpoint, variant.name, self.wanted.config_name)
                stack.enter_context(_recorded_by(twin, variant))
            self._show("ActivatingTraffic", 0.0)
            try:
                yield
            finally:
                set_members(self.hosted.record, pending_deployment_summary=None)

    def _show(self, status: str, share: float) -> None:
        """Write into moto's record how far it is."""
        now = datetime.now(timezone.utc).replace(tzinfo=None)  # moto is naive
        running = {variant.name: variant for variant in self.new.variants}
        variants = variant_summaries(self.hosted.record, self.wanted.variants, running)
        message = f"{share:.0%} of the traffic"
        for variant in variants:
            told = {"Status": status, "StatusMessage": message, "StartTime": now}
            variant["VariantStatus"] = [told]
        pending = {
            "EndpointConfigName": self.wanted.config_name,
            "ProductionVariants": variants,
            "StartTime": now,
        }
        set_members(self.hosted.record, pending_deployment_summary=pending)

    async def _bake(self, seconds: float, began: float) -> str:
        """Wait, and return at once when something is amiss: why, or ""."""
        until = time.monotonic() + seconds * self.minute / _MINUTE_S
        while True:
            if reason := self._trouble(began):
                return reason
            rest = until - time.monotonic()
            if rest <= 0:
                return ""
            look = min(_LOOK_S, self.minute / _LOOKS_A_MINUTE, rest)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.closing.wait(), max(look, 0.01))

    def _trouble(self, began: float) -> str:
        if self.closing.is_set() or self.hosted.leaving:
            return "The endpoint service ends."
        most = self.deployment.most
        if time.monotonic() - began > most:
            return f"The deployment took longer than {most:g} seconds and was rolled back."
        if not self.deployment.alarms:
            return ""
        self.metrics.flush()
        account, region, _ = self.endpoint
        found = Alarms(account, region, self.deployment.alarms, self.minute).in_alarm()
        if not found:
            return ""
        return (
            f"The deployment was rolled back: the CloudWatch alarm(s) {', '.join(found)} went into "
            "the ALARM state."
        )


@contextlib.contextmanager
def _recorded_by(twin: TwinMetrics, variant: Variant) -> Iterator[None]:
    """Have a variant's invocations recorded by its twin's metrics as well, for the block."""
    variant.metrics = twin
    try:
        yield
    finally:
        variant.metrics = twin.whole
