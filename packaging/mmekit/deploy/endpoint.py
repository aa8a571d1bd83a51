"""The endpoint: made once, updated without a gap, waited for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.deploy.account import VARIANT, is_missing, owner, tags
from mmekit.deploy.rollout import deployment_config, rollout_note
from mmekit.deploy.step import Action, Difference, Report, Step
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from datetime import datetime

    from mmekit.deploy.account import Site

__all__ = [
    "EndpointState",
    "endpoint_state",
    "plan_endpoint",
    "plan_endpoint_removal",
    "settled_endpoint",
]

_IN_SERVICE = "InService"
_WEIGHT = 1.0  # of the one variant
_NOT_SCALED = ("DesiredWeight", "DataCaptureConfig")  # the other variant properties
_FAILED = "Failed"
_IN_PROGRESS = frozenset({"Creating", "Updating", "Deleting", "RollingBack", "SystemUpdating"})
_LONGEST_S = 3600.0
_SAID_AGAIN_S = 30.0
_POLL_S = {True: 10.0, False: 0.2}  # of a real account, of the local service


@dataclass(frozen=True)
class EndpointState:
    """An endpoint, as it is.

    Attributes
    ----------
    status
        EndpointStatus, such as InService.
    config
        Its endpoint config.
    config_made
        When that was made; None when it is gone.
    failure
        FailureReason; empty for none.
    owner
        The deployment that made it; None for nobody's.
    instances, desired_instances
        How many there are, and how many there shall be.
    instance_type
        None when it cannot be told.
    volume_gb
        How large the instances' disks are; None for what SageMaker gives them.
    weight
        That the variant shall have.
    progress
        How far an update with a roll-out is; empty for none.
    """

    status: str
    config: str
    config_made: datetime | None
    failure: str
    owner: str | None
    instances: int
    desired_instances: int
    instance_type: str | None
    volume_gb: int | None = None
    weight: float = _WEIGHT
    progress: str = ""


def endpoint_state(site: Site) -> EndpointState | None:
    """Look the endpoint up; None when there is none."""
    sagemaker = site.account.client("sagemaker")
    try:
        found = sagemaker.describe_endpoint(EndpointName=site.name)
        listed = sagemaker.list_tags(ResourceArn=found["EndpointArn"])["Tags"]
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    config = found.get("EndpointConfigName", "")
    try:
        # SageMaker does not keep anybody from deleting the config of an endpoint that serves.
        described = sagemaker.describe_endpoint_config(EndpointConfigName=config)
    except ClientError as error:
        if not is_missing(error):
            raise
        described = {}
    variant = _variant(found.get("ProductionVariants", []))
    configured = _variant(described.get("ProductionVariants", []))
    return EndpointState(
        found["EndpointStatus"],
        config,
        described.get("CreationTime"),
        found.get("FailureReason", ""),
        owner(listed),
        variant.get("CurrentInstanceCount", 0),
        variant.get("DesiredInstanceCount", 0),
        configured.get("InstanceType"),
        configured.get("VolumeSizeInGB"),
        variant.get("DesiredWeight", _WEIGHT),
        _progress(found.get("PendingDeploymentSummary", {})),
    )


def _progress(pending: dict[str, Any]) -> str:
    told = _variant(pending.get("ProductionVariants", [])).get("VariantStatus", [])
    if not told:
        return ""
    return f"{told[0].get('Status', '')} {told[0].get('StatusMessage', '')}".strip()


def settled_endpoint(site: Site, report: Report) -> EndpointState | None:
    """Wait until nothing is in progress; return the endpoint, None when there is none.

    Raises
    ------
    DeployError
        It takes longer than an hour, besides the waits of a roll-out.
    """
    began = time.monotonic()
    rollout = site.deployment.rollout
    longest = _LONGEST_S + (0.0 if rollout is None else rollout.minutes * 60)
    said, said_at = "", 0.0
    while True:
        state = endpoint_state(site)
        if state is None or state.status not in _IN_PROGRESS:
            return state
        waited = time.monotonic() - began
        how = f"{state.status}, {state.progress}" if state.progress else state.status
        if how != said or waited - said_at > _SAID_AGAIN_S:
            said, said_at = how, waited
            report(f"endpoint {site.name}: {how} ({waited:.0f} s)")
        if waited > longest:
            raise DeployError(
                f"The endpoint is still {state.status} after {waited / 60:.0f} minutes.",
                where=site.name,
                remedy="Look at its logs (/aws/sagemaker/Endpoints), then run the command again: "
                "it goes on waiting.",
            )
        time.sleep(_POLL_S[site.account.is_real])


def plan_endpoint(
    site: Site, state: EndpointState | None, config: str, *, is_scaled: bool = False
) -> Step:
    """Plan the endpoint.

    Parameters
    ----------
    state
        As it is, settled.
    config
        The endpoint config that it shall have.
    is_scaled
        Whether autoscaling says how many instances it has: they stay then.

    Raises
    ------
    DeployError
        It is not the deployment's, or in a state that nothing but its removal ends; or SageMaker
        has no such roll-out.
    """
    if state is None:
        return Step(
            Action.CREATE, "endpoint", site.name, perform=lambda report: _make(site, config, report)
        )
    if state.owner != site.name:
        raise DeployError(
            "There is an endpoint of this name that this deployment did not make.",
            where=site.name,
            remedy="Give the deployment another `name`.",
        )
    # DeleteEndpoint is all that SageMaker still does with a failed endpoint.
    if state.status == _FAILED:
        return Step(
            Action.CHANGE,
            "endpoint",
            site.name,
            (Difference("status", _FAILED, _IN_SERVICE),),
            note=f"it never served ({state.failure}): removed and made anew",
            perform=lambda report: _make_again(site, config, report),
        )
    if state.status != _IN_SERVICE:
        raise DeployError(
            f"The endpoint is {state.status}: {state.failure or 'AWS gives no reason'}.",
            where=site.name,
            remedy="It cannot be updated: `mme destroy`, then `mme deploy`.",
        )
    return _plan_update(site, state, config, is_scaled=is_scaled)


def _plan_update(site: Site, state: EndpointState, config: str, *, is_scaled: bool) -> Step:
    found = []
    if state.config != config:
        found.append(Difference("endpoint config", state.config, config))
    wanted = state.desired_instances if is_scaled else site.deployment.first_instances
    if state.desired_instances != wanted:
        found.append(Difference("instances", str(state.desired_instances), str(wanted)))
    if state.weight != _WEIGHT:
        found.append(Difference("weight", f"{state.weight:g}", f"{_WEIGHT:g}"))
    own = ""
    if is_scaled and site.deployment.first_instances != state.desired_instances:
        own = f"autoscaling has {state.desired_instances} instances, and they stay"
    if not found:
        return Step(Action.KEEP, "endpoint", site.name, note=own)
    if state.config == config:
        return Step(
            Action.CHANGE,
            "endpoint",
            site.name,
            tuple(found),
            note=own or "the instances stay, apart from those that come or go",
            perform=lambda report: _resize(site, config, wanted, report),
        )
    deployment = deployment_config(site, wanted)
    notes = ("it serves meanwhile", own, rollout_note(site))
    return Step(
        Action.CHANGE,
        "endpoint",
        site.name,
        tuple(found),
        note="; ".join(filter(None, notes)),
        perform=lambda report: _update(site, config, deployment, report, is_scaled=is_scaled),
    )


def plan_endpoint_removal(site: Site, state: EndpointState | None) -> Step | None:
    """Plan to remove the endpoint, if it is the deployment's."""
    if state is None:
        return None
    if state.owner != site.name:
        return Step(Action.KEEP, "endpoint", site.name, note="not made by this deployment")
    return Step(Action.REMOVE, "endpoint", site.name, perform=lambda report: _remove(site, report))


def _variant(variants: list[dict[str, Any]]) -> dict[str, Any]:
    return next((one for one in variants if one.get("VariantName") == VARIANT), {})


def _make(site: Site, config: str, report: Report) -> None:
    site.account.client("sagemaker").create_endpoint(
        EndpointName=site.name, EndpointConfigName=config, Tags=tags(site.deployment)
    )
    _wait_for(site, config, report)


def _make_again(site: Site, config: str, report: Report) -> None:
    _remove(site, report)
    _make(site, config, report)


def _update(
    site: Site,
    config: str,
    deployment: dict[str, Any] | None,
    report: Report,
    *,
    is_scaled: bool,
) -> None:
    request: dict[str, Any] = {"EndpointName": site.name, "EndpointConfigName": config}
    if is_scaled:
        # How many instances there are stays; everything else is as the config says.
        request["RetainAllVariantProperties"] = True
        others = [{"VariantPropertyType": name} for name in _NOT_SCALED]
        request["ExcludeRetainedVariantProperties"] = others
    if deployment is not None:
        request["DeploymentConfig"] = deployment
    site.account.client("sagemaker").update_endpoint(**request)
    _wait_for(site, config, report)


def _resize(site: Site, config: str, instances: int, report: Report) -> None:
    """Change what the config is not asked for: no instance has to be replaced for it."""
    wanted = {"VariantName": VARIANT, "DesiredWeight": _WEIGHT, "DesiredInstanceCount": instances}
    site.account.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=site.name, DesiredWeightsAndCapacities=[wanted]
    )
    _wait_for(site, config, report)


def _wait_for(site: Site, config: str, report: Report) -> None:
    state = settled_endpoint(site, report)
    # InService alone may be the old config: an update that fails is rolled back.
    if state is not None and (state.status, state.config) == (_IN_SERVICE, config):
        report(f"endpoint {site.name}: {_IN_SERVICE}")
        return
    if state is None:
        raise DeployError(
            "The endpoint was deleted meanwhile.",
            where=site.name,
            remedy="Run `mme deploy` again to create it.",
        )
    kept = ""
    if state.status == _IN_SERVICE:
        kept = " What was there before goes on serving."
    raise DeployError(
        f"The endpoint did not come into service: {state.failure or state.status}.{kept}",
        where=site.name,
        remedy="Its logs (/aws/sagemaker/Endpoints/" + site.name + " in CloudWatch; locally what "
        "`mme up` prints) say more. Correct the file, then run `mme deploy` again.",
    )


def _remove(site: Site, report: Report) -> None:
    # SageMaker refuses to remove an endpoint that is being created or updated.
    state = settled_endpoint(site, report)
    if state is None:
        return
    try:
        site.account.client("sagemaker").delete_endpoint(EndpointName=site.name)
    except ClientError as error:
        if not is_missing(error):
            raise
    settled_endpoint(site, report)
