"""The alarms: errors, latency, memory, disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit.deploy.account import VARIANT, owner, tags
from mmekit.deploy.step import Action, Report, Step, differences
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from mmekit.deploy.account import Site

__all__ = [
    "ROLLBACK_ALARMS",
    "alarm_names",
    "own_alarms",
    "plan_alarms",
    "plan_alarms_removal",
]

ROLLBACK_ALARMS = ("-5xx", "-latency")
"""Ends of the names of those that take a roll-out back."""

_OF_ENDPOINTS = "AWS/SageMaker"
_OF_INSTANCES = "/aws/sagemaker/Endpoints"
_PERIOD_S = 300
_MICROSECONDS = 1000  # in a millisecond


def plan_alarms(site: Site) -> tuple[Step, ...]:
    """Plan the alarms.

    Raises
    ------
    DeployError
        An alarm of somebody else's has the name.
    """
    if site.deployment.alarms is None:
        return plan_alarms_removal(site)
    there = _states(site)
    return tuple(
        _plan(site, name, wanted, there.get(name)) for name, wanted in _wanted(site).items()
    )


def plan_alarms_removal(site: Site) -> tuple[Step, ...]:
    """Plan to remove the deployment's alarms."""

    def removal(name: str) -> Step:
        def remove(_: Report) -> None:
            site.account.client("cloudwatch").delete_alarms(AlarmNames=[name])

        return Step(Action.REMOVE, "alarm", name, perform=remove)

    return tuple(removal(name) for name in own_alarms(site))


def own_alarms(site: Site) -> dict[str, str]:
    """Return the deployment's alarms that are there, and their states, such as OK."""
    there = _states(site).items()
    return {name: one.get("StateValue", "") for name, one in there if _is_own(site, one)}


def alarm_names(site: Site) -> tuple[str, ...]:
    """Return what the deployment's alarms are called, there or not."""
    return tuple(f"{site.name}-{what}" for what in ("5xx", "latency", "memory", "disk"))


def _wanted(site: Site) -> dict[str, dict[str, Any]]:
    alarms = site.deployment.alarms
    if alarms is None:
        return {}
    described = (
        {
            "AlarmDescription": f"{site.name} answers with 5xx. Look into its log.",
            "Namespace": _OF_ENDPOINTS,
            "MetricName": "Invocation5XXErrors",
            "Statistic": "Sum",
            "Threshold": float(alarms.errors_5xx),
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "EvaluationPeriods": 1,
        },
        {
            "AlarmDescription": f"The slowest hundredth of {site.name}'s calls takes too long. "
            "Look at cold loads, and at the number of instances.",
            "Namespace": _OF_ENDPOINTS,
            "MetricName": "ModelLatency",
            # To CloudWatch a percentile is no Statistic.
            "ExtendedStatistic": "p99",
            "Unit": "Microseconds",
            "Threshold": alarms.latency_ms * _MICROSECONDS,
            "EvaluationPeriods": 3,
        },
        {
            "AlarmDescription": f"{site.name} is short of memory: models are about to be unloaded "
            "and loaded again.",
            "Namespace": _OF_INSTANCES,
            "MetricName": "MemoryUtilization",
            "Statistic": "Maximum",
            "Threshold": alarms.memory_percent,
            "EvaluationPeriods": 2,
        },
        {
            "AlarmDescription": f"The disks of {site.name} fill up: archives are about to be "
            "deleted and downloaded again.",
            "Namespace": _OF_INSTANCES,
            "MetricName": "DiskUtilization",
            "Statistic": "Maximum",
            "Threshold": alarms.disk_percent,
            "EvaluationPeriods": 2,
        },
    )
    shared = {
        "Period": _PERIOD_S,
        "ComparisonOperator": "GreaterThanThreshold",
        # Nobody calling is no trouble.
        "TreatMissingData": "notBreaching",
        "Dimensions": [
            {"Name": "EndpointName", "Value": site.name},
            {"Name": "VariantName", "Value": VARIANT},
        ],
        "AlarmActions": list(alarms.notify),
        "OKActions": list(alarms.notify),
    }
    return {name: {**shared, **one} for name, one in zip(alarm_names(site), described, strict=True)}


def _states(site: Site) -> dict[str, dict[str, Any]]:
    client = site.account.client("cloudwatch")
    found = client.describe_alarms(AlarmNames=list(alarm_names(site)), AlarmTypes=["MetricAlarm"])
    return {one["AlarmName"]: one for one in found["MetricAlarms"]}


def _is_own(site: Site, alarm: dict[str, Any]) -> bool:
    client = site.account.client("cloudwatch")
    listed = client.list_tags_for_resource(ResourceARN=alarm["AlarmArn"])["Tags"]
    return owner(listed) == site.name


def _plan(site: Site, name: str, wanted: dict[str, Any], state: dict[str, Any] | None) -> Step:
    def put(*, new: bool) -> None:
        # An alarm that is there takes no tags.
        tagged = {"Tags": tags(site.deployment)} if new else {}
        site.account.client("cloudwatch").put_metric_alarm(AlarmName=name, **wanted, **tagged)

    if state is None:
        return Step(Action.CREATE, "alarm", name, perform=lambda _: put(new=True))
    if not _is_own(site, state):
        raise DeployError(
            "There is an alarm of this name that this deployment did not make.",
            where=name,
            remedy="Remove or rename it, or give the deployment another `name`.",
        )
    found = differences(
        {field: _in_order(state.get(field)) for field in wanted},
        {field: _in_order(value) for field, value in wanted.items()},
    )
    if not found:
        return Step(Action.KEEP, "alarm", name)
    return Step(Action.CHANGE, "alarm", name, found, perform=lambda _: put(new=False))


def _in_order(value: Any) -> Any:
    """Sort what AWS may return in another order than it was given."""
    return sorted(value, key=str) if isinstance(value, list) else value
