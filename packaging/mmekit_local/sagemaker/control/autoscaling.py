"""Application Auto Scaling of variants: moto keeps registrations and policies, this acts on them.

What is imitated: target tracking on SageMakerVariantInvocationsPerInstance, a metric of one value
a minute. AWS's alarms of such a policy look at three minutes above the target to scale out and at
fifteen below nine tenths of it to scale in (Application Auto Scaling's user guide, "Target
tracking scaling policies"); the capacity is that at which the metric would meet the target;
cooldowns are 300 s unless the policy says otherwise. Step and scheduled scaling, and other metrics,
are recorded and not acted on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moto.backends import get_backend

from mmekit_local.sagemaker.control.hosted_endpoint import VariantCapacity
from mmekit_local.sagemaker.control.rules import MOST_INSTANCES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit_local.sagemaker.control.endpoint_controller import EndpointController
    from mmekit_local.sagemaker.instances.variant import Variant
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["Autoscaler"]

logger = logging.getLogger("mmekit.endpoint")

_BACKEND = "moto.applicationautoscaling.models"
_DIMENSION = "sagemaker:variant:DesiredInstanceCount"
_METRIC = "SageMakerVariantInvocationsPerInstance"
_OUT_MINUTES = 3
_IN_MINUTES = 15
_IN_SHARE = 0.9
_COOLDOWN_S = 300.0
_MINUTE_S = 60.0


@dataclass
class _ScaledVariant:
    """A variant, as the minutes go by."""

    variant: Variant
    counted: int
    """Its invocations when the minute began."""
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=_IN_MINUTES))
    """Invocations per minute and instance, the latest minute last."""
    scaled_out: float = -math.inf
    scaled_in: float = -math.inf


@dataclass(frozen=True)
class _TargetTracking:
    """What a target-tracking policy says; seconds are of Application Auto Scaling's minutes."""

    target: float
    out_cooldown: float
    in_cooldown: float
    scales_in: bool


class Autoscaler:
    """Adds and removes instances.

    Parameters
    ----------
    controller
        Whose variants are scaled.
    minute
        How many seconds one of its minutes lasts. Cooldowns shrink and grow with it; a rate is
        per real minute, whatever this is.
    """

    def __init__(self, controller: EndpointController, minute: float) -> None:
        self._controller = controller
        self._minute = minute
        self._watched: dict[tuple[EndpointId, str], _ScaledVariant] = {}

    async def run(self) -> None:
        """Look once a minute, until cancelled."""
        while True:
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(self._minute)
            # By the clock: on a busy machine a sleep lasts longer, and rates would be too high.
            elapsed = asyncio.get_running_loop().time() - began
            try:
                self._evaluate(elapsed)
            except Exception:
                logger.exception("autoscaling failed; it goes on")

    def _evaluate(self, elapsed: float) -> None:
        present = set()
        for endpoint, fleet in list(self._controller.serving.items()):
            for variant in fleet.variants:
                key = (endpoint, variant.name)
                present.add(key)
                watched = self._watched.get(key)
                if watched is None:
                    self._watched[key] = _ScaledVariant(variant, variant.invocations)
                    continue
                if watched.variant is not variant:  # the endpoint has been updated
                    watched.variant, watched.counted = variant, 0
                count, watched.counted = variant.invocations - watched.counted, variant.invocations
                instances = max(len(variant.instances), 1)
                watched.rates.append(count / elapsed * _MINUTE_S / instances)
                self._scale(endpoint, variant.name, watched)
        for key in set(self._watched) - present:
            del self._watched[key]

    def _scale(self, endpoint: EndpointId, name: str, watched: _ScaledVariant) -> None:
        target = _registration(endpoint, name)
        now = self._controller.capacity(endpoint, name)
        if target is None or now is None:
            return
        least, most = int(target.min_capacity or 0), int(target.max_capacity or 0)
        least, most = min(least, MOST_INSTANCES), min(most, MOST_INSTANCES)
        policies = list(_policies(endpoint, name))
        if not policies or most < 1:
            return
        wanted = max(self._wanted(policy, watched, now) for policy in policies)
        suspended = target.suspended_state or {}
        if wanted > now and suspended.get("DynamicScalingOutSuspended"):
            wanted = now
        if wanted < now and suspended.get("DynamicScalingInSuspended"):
            wanted = now
        wanted = min(max(wanted, least, 1), most)
        if wanted == now:
            return
        time = asyncio.get_running_loop().time()
        if wanted > now:
            watched.scaled_out = time
        else:
            watched.scaled_in = time
        # The rates are per instance, and of a number of instances that is over now.
        watched.rates.clear()
        logger.info("endpoint %s: autoscaling %s from %d to %d", endpoint.name, name, now, wanted)
        self._controller.begin_update(endpoint)
        self._controller.set_capacities(endpoint, {name: VariantCapacity(wanted)})

    def _wanted(self, policy: _TargetTracking, watched: _ScaledVariant, now: int) -> int:
        """Return the capacity that a policy asks for, `now` when it asks for none."""
        time = asyncio.get_running_loop().time()
        scale = self._minute / _MINUTE_S
        latest = list(watched.rates)[-_OUT_MINUTES:]
        if len(latest) == _OUT_MINUTES and min(latest) > policy.target:
            rested = time - watched.scaled_out >= policy.out_cooldown * scale
            return math.ceil(now * latest[-1] / policy.target) if rested else now
        low = len(watched.rates) == _IN_MINUTES and (max(watched.rates) < policy.target * _IN_SHARE)
        if low and policy.scales_in:
            last = max(watched.scaled_in, watched.scaled_out)
            rested = time - last >= policy.in_cooldown * scale
            # By its busiest minute: a pause among the fifteen must not take too many away.
            return math.ceil(now * max(watched.rates) / policy.target) if rested else now
        return now


def _resource(endpoint: EndpointId, variant: str) -> str:
    return f"endpoint/{endpoint.name}/variant/{variant}"


def _registration(endpoint: EndpointId, variant: str) -> Any:
    if _BACKEND not in sys.modules:  # moto takes seconds to import it; nobody has asked for it
        return None
    backend = get_backend("applicationautoscaling")[endpoint.account][endpoint.region]
    return backend.targets.get(_DIMENSION, {}).get(_resource(endpoint, variant))


def _policies(endpoint: EndpointId, variant: str) -> Iterator[_TargetTracking]:
    backend = get_backend("applicationautoscaling")[endpoint.account][endpoint.region]
    for policy in list(backend.policies.values()):
        here = (policy.resource_id, policy.scalable_dimension)
        described: dict[str, Any] | None = policy.target_tracking_scaling_policy_configuration
        if here != (_resource(endpoint, variant), _DIMENSION) or not described:
            continue
        metric = described.get("PredefinedMetricSpecification", {}).get("PredefinedMetricType")
        if metric == _METRIC and float(described["TargetValue"]) > 0:  # AWS takes no other
            yield _TargetTracking(
                target=float(described["TargetValue"]),
                out_cooldown=float(described.get("ScaleOutCooldown", _COOLDOWN_S)),
                in_cooldown=float(described.get("ScaleInCooldown", _COOLDOWN_S)),
                scales_in=not described.get("DisableScaleIn", False),
            )
