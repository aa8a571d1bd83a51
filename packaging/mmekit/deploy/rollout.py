"""How traffic moves to new instances, in the members of UpdateEndpoint, and what ends that.

Sources: "Deployment guardrails" in SageMaker's developer guide (canary, linear, automatic roll
back, exclusions) and the API reference's pages of BlueGreenUpdatePolicy and AutoRollbackConfig.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mmekit.deploy.alarms import ROLLBACK_ALARMS, alarm_names, own_alarms
from mmekit.errors import DeployError
from mmekit.plural import counted

if TYPE_CHECKING:
    from mmekit.deploy.account import Site

__all__ = ["deployment_config", "rollout_note"]

_MINUTE_S = 60
_LEAST_S, _MOST_S = 600, 28_800  # MaximumExecutionTimeoutInSeconds
_STARTING_S = 3600  # for new instances to come up, besides the waits
_HALF = 2
_LEAST_MINUTES = 5  # the shortest period of the alarms
_WITHOUT_GUARDRAILS = "ml.inf1."


def deployment_config(site: Site, instances: int) -> dict[str, Any] | None:
    """Return the DeploymentConfig that the file asks for; None for none.

    Parameters
    ----------
    instances
        How many the new variant will have.

    Raises
    ------
    DeployError
        SageMaker has no such roll-out.
    """
    rollout = site.deployment.rollout
    if rollout is None:
        return None
    _check(site, instances)
    routing: dict[str, Any] = {
        "Type": "ALL_AT_ONCE",
        "WaitIntervalInSeconds": _seconds(rollout.wait_minutes),
    }
    if rollout.canary is not None:
        size = _size(rollout.canary.percent, rollout.canary.instances)
        routing |= {"Type": "CANARY", "CanarySize": size}
    if rollout.linear is not None:
        routing |= {"Type": "LINEAR", "LinearStepSize": _size(rollout.linear.percent, None)}
    most = min(max(_seconds(rollout.minutes) + _STARTING_S, _LEAST_S), _MOST_S)
    config: dict[str, Any] = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": _seconds(rollout.keep_old_minutes),
            "MaximumExecutionTimeoutInSeconds": most,
        }
    }
    if site.deployment.alarms is not None:
        alarms = [{"AlarmName": name} for name in _watched(site)]
        config["AutoRollbackConfiguration"] = {"Alarms": alarms}
    return config


def rollout_note(site: Site) -> str:
    """Return how the traffic moves and what takes it back; empty without a roll-out."""
    rollout = site.deployment.rollout
    if rollout is None:
        return ""
    if rollout.canary is not None:
        canary = rollout.canary
        size = f"{canary.percent} %" if canary.percent else f"{canary.instances} instances' part"
        how = f"{size} of the traffic first, then the rest"
    elif rollout.linear is not None:
        how = f"{rollout.linear.percent} % of the traffic at a time"
    else:
        how = "all traffic at once"
    waits = f"{rollout.wait_minutes:g} minutes after each step"
    return f"{how}, {waits}; {_guard(site, rollout.wait_minutes)}"


def _guard(site: Site, minutes: float) -> str:
    if site.deployment.alarms is None:
        return "nothing takes it back: the file has no `alarms`"
    names = _watched(site)
    states = own_alarms(site)
    firing = [name for name in names if states.get(name) == "ALARM"]
    if firing:
        return (
            f"{', '.join(firing)} is in ALARM already and would take it back at once: leave "
            "`rollout` out of the file to deploy what mends it"
        )
    late = ""
    if minutes < _LEAST_MINUTES:
        late = f" (they look at {_LEAST_MINUTES} minutes and more: longer waits would see more)"
    return f"taken back by {' or '.join(names)}{late}"


def _watched(site: Site) -> list[str]:
    """Return the alarms that tell of a bad roll-out.

    Memory and disks of a multi-model endpoint fill up by design, and the old instances' would take
    each roll-out back.
    """
    return [name for name in alarm_names(site) if name.endswith(ROLLBACK_ALARMS)]


def _size(percent: int | None, instances: int | None) -> dict[str, Any]:
    if percent is not None:
        return {"Type": "CAPACITY_PERCENT", "Value": percent}
    return {"Type": "INSTANCE_COUNT", "Value": instances}


def _seconds(minutes: float) -> int:
    return math.ceil(minutes * _MINUTE_S)


def _check(site: Site, instances: int) -> None:
    rollout = site.deployment.rollout
    canary = None if rollout is None else rollout.canary
    if canary is not None and canary.instances and canary.instances * _HALF > instances:
        raise DeployError(
            f"A canary of {canary.instances} is more than half of "
            f"{counted(instances, 'instance')}, which is the most that SageMaker takes.",
            where=f"{site.name}, rollout.canary.instances",
            remedy="Give it `percent` (1 to 50) instead, or the endpoint more instances.",
        )
    kind = site.deployment.instance_type
    if kind.startswith(_WITHOUT_GUARDRAILS):
        raise DeployError(
            f"SageMaker has no deployment guardrails for {kind}: it would move all traffic at "
            "once, and take nothing back.",
            where=f"{site.name}, rollout",
            remedy="Leave `rollout` out of the file, or choose another `instance_type`.",
        )
