"""Autoscaling: instances come and go with the invocations."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import TAG, is_missing
from mmekit.deploy.step import Action, Step, differences
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.deploy.account import Site

__all__ = ["is_scaled", "plan_scaling", "plan_scaling_removal"]

_NAMESPACE = "sagemaker"
_DIMENSION = "sagemaker:variant:DesiredInstanceCount"
_BOUNDS = ("minimum", "maximum")
_OTHERS = "others"
_METRIC = "SageMakerVariantInvocationsPerInstance"


def is_scaled(site: Site) -> bool:
    """Say whether how many instances there are is autoscaling's to say, and stays so."""
    state = _state(site)
    # A policy that somebody else has made is not fought with.
    return state is not None and bool(site.deployment.autoscaling or state[_OTHERS])


def plan_scaling(site: Site, *, interrupted: bool) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Plan the scalable target and its policy: what comes before the endpoint, what after it.

    Parameters
    ----------
    interrupted
        Whether it has to be taken away meanwhile. Source: SageMaker's developer guide, "Update
        endpoints that use auto scaling": an update that changes the instance type fails.

    Raises
    ------
    DeployError
        Somebody else's policy scales the endpoint.
    """
    state, name = _state(site), _policy_name(site)
    create = Step(Action.CREATE, "autoscaling", name, perform=lambda _: _make(site))
    if site.deployment.autoscaling is None:
        return (() if state is None else (_removal(site, state),)), ()
    if state is None:
        return (), (create,)
    if state[_OTHERS]:
        raise DeployError(
            "The endpoint is scaled by a policy that this deployment did not make.",
            where=site.scaled_resource,
            remedy="Remove that policy, or leave `autoscaling` out of the file.",
        )
    if interrupted:
        return (_removal(site, state, "no instance type changes while it is there"),), (create,)
    found = differences({**state, _OTHERS: None}, _wanted(site))
    if not found:
        return (), (Step(Action.KEEP, "autoscaling", name),)
    return (), (Step(Action.CHANGE, "autoscaling", name, found, perform=lambda _: _make(site)),)


def plan_scaling_removal(site: Site) -> Step | None:
    """Plan to remove both."""
    state = _state(site)
    return None if state is None else _removal(site, state)


def _client(site: Site) -> Any:
    return site.account.client("application-autoscaling")


def _policy_name(site: Site) -> str:
    return f"{site.name}-invocations"


def _removal(site: Site, state: dict[str, Any], note: str = "") -> Step:
    name = _policy_name(site)
    if state[_OTHERS]:
        return Step(Action.KEEP, "autoscaling", name, note="not made by this deployment")
    return Step(Action.REMOVE, "autoscaling", name, note=note, perform=lambda _: _remove(site))


def _wanted(site: Site) -> dict[str, Any]:
    scaling = site.deployment.autoscaling
    if scaling is None:
        return {}
    return {
        "minimum": scaling.minimum,
        "maximum": scaling.maximum,
        "invocations per instance": scaling.invocations_per_instance,
        "scale-out cooldown": scaling.scale_out_cooldown,
        "scale-in cooldown": scaling.scale_in_cooldown,
    }


def _address(site: Site) -> dict[str, str]:
    return {
        "ServiceNamespace": _NAMESPACE,
        "ResourceId": site.scaled_resource,
        "ScalableDimension": _DIMENSION,
    }


def _state(site: Site) -> dict[str, Any] | None:
    client = _client(site)
    targets = client.describe_scalable_targets(
        ServiceNamespace=_NAMESPACE,
        ResourceIds=[site.scaled_resource],
        ScalableDimension=_DIMENSION,
    )["ScalableTargets"]
    if not targets:
        return None
    policies = client.describe_scaling_policies(**_address(site))["ScalingPolicies"]
    own = [one for one in policies if one["PolicyName"] == _policy_name(site)]
    policy: dict[str, Any] = {}
    if own:
        policy = own[0].get("TargetTrackingScalingPolicyConfiguration", {})
    return {
        # A target without any policy is what an interrupted run leaves.
        _OTHERS: len(policies) > len(own),
        "minimum": targets[0]["MinCapacity"],
        "maximum": targets[0]["MaxCapacity"],
        "invocations per instance": policy.get("TargetValue"),
        "scale-out cooldown": policy.get("ScaleOutCooldown"),
        "scale-in cooldown": policy.get("ScaleInCooldown"),
    }


def _make(site: Site) -> None:
    client, wanted, state = _client(site), _wanted(site), _state(site)
    # First: a policy is for a target that is registered.
    if state is None or any(state[bound] != wanted[bound] for bound in _BOUNDS):
        client.register_scalable_target(
            **_address(site),
            MinCapacity=wanted["minimum"],
            MaxCapacity=wanted["maximum"],
            # A target that is registered already takes no tags.
            **({"Tags": {TAG: site.name}} if state is None else {}),
        )
    client.put_scaling_policy(
        PolicyName=_policy_name(site),
        **_address(site),
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": wanted["invocations per instance"],
            "PredefinedMetricSpecification": {"PredefinedMetricType": _METRIC},
            "ScaleOutCooldown": wanted["scale-out cooldown"],
            "ScaleInCooldown": wanted["scale-in cooldown"],
        },
    )


def _remove(site: Site) -> None:
    client = _client(site)
    with _if_there():
        client.delete_scaling_policy(PolicyName=_policy_name(site), **_address(site))
    with _if_there():
        client.deregister_scalable_target(**_address(site))


@contextlib.contextmanager
def _if_there() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if not is_missing(error):
            raise
