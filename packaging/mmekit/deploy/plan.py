"""What would be done: every resource of a deployment, in the order in which it is dealt with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.deploy.alarms import plan_alarms, plan_alarms_removal
from mmekit.deploy.bucket import plan_bucket, plan_bucket_removal
from mmekit.deploy.endpoint import plan_endpoint, plan_endpoint_removal, settled_endpoint
from mmekit.deploy.former import plan_former_removal
from mmekit.deploy.hosting import own_configs, own_models, plan_hosting, removal_of
from mmekit.deploy.objects import plan_objects, plan_objects_removal, stored_archives
from mmekit.deploy.role import plan_role, plan_role_removal
from mmekit.deploy.scaling import plan_scaling, plan_scaling_removal
from mmekit.deploy.step import Action, Report, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.deploy.archives import PackedModel
    from mmekit.deploy.endpoint import EndpointState
    from mmekit.deploy.objects import StoredArchive
    from mmekit.deploy.site import Site

__all__ = ["Plan", "plan_deployment", "plan_removal"]

_SIGNS = {Action.CREATE: "+", Action.CHANGE: "~", Action.KEEP: " ", Action.REMOVE: "-"}


@dataclass(frozen=True)
class Plan:
    """Steps in their order."""

    steps: tuple[Step, ...]

    @property
    def changes(self) -> tuple[Step, ...]:
        """Return the steps that change something."""
        return tuple(step for step in self.steps if step.perform is not None)

    def lines(self) -> list[str]:
        """Return it as text: a line a resource, and below it what differs."""
        lines = []
        for step in self.steps:
            note = f" ({step.note})" if step.note else ""
            sign = _SIGNS[step.action]
            lines.append(f"{sign} {step.action.value:<6} {step.kind} {step.name}{note}")
            lines += [
                f"      {difference.field}: {difference.before} -> {difference.after}"
                for difference in step.differences
            ]
        return lines

    def perform(self, report: Report) -> None:
        """Do it, step by step. What fails or is interrupted can be planned and done again."""
        for step in self.changes:
            report(f"{step.action.value} {step.kind} {step.name}")
            if step.perform is not None:
                step.perform(report)


def plan_deployment(site: Site, models: Sequence[PackedModel], report: Report) -> Plan:
    """Plan to make everything as the file says. Looks, waits for what is in progress, no more.

    Raises
    ------
    DeployError
        Something of somebody else's is in the way.
    """
    bucket = plan_bucket(site)
    stored = () if bucket.action is Action.CREATE else stored_archives(site)
    uploads, gone = plan_objects(site, models, stored)
    state = settled_endpoint(site, report)
    serving = state if state is not None and state.status == "InService" else None
    hosting = plan_hosting(
        site,
        None if serving is None else serving.config,
        {} if serving is None else _renewed(models, stored, uploads, serving),
    )
    endpoint = plan_endpoint(site, state, hosting.config)
    moves = serving is not None and endpoint.action is not Action.KEEP
    role, narrowed_role = plan_role(site, serves_meanwhile=moves)
    before, after = plan_scaling(site, interrupted=hosting.changes_instance_type)
    return Plan(
        (
            bucket,
            *role,
            *uploads,
            *hosting.steps,
            *before,
            endpoint,
            *after,
            *plan_alarms(site),
            *narrowed_role,
            *plan_former_removal(site),
            *hosting.leftovers,
            *gone,
        )
    )


def plan_removal(site: Site, report: Report) -> Plan:
    """Plan to remove what the deployment made, and nothing else."""
    state = settled_endpoint(site, report)
    endpoint = plan_endpoint_removal(site, state)
    is_own = endpoint is not None and endpoint.action is Action.REMOVE
    # What is left of an interrupted run has no endpoint any more.
    scaling = plan_scaling_removal(site) if is_own or state is None else None
    bucket = plan_bucket_removal(site)
    last = (plan_role_removal(site), bucket)
    return Plan(
        (
            *plan_alarms_removal(site),
            *([] if scaling is None else [scaling]),
            *([] if endpoint is None else [endpoint]),
            *plan_former_removal(site),
            *(removal_of(site, "endpoint config", name) for name in sorted(own_configs(site))),
            *(removal_of(site, "model", name) for name in sorted(own_models(site))),
            *(plan_objects_removal(site, stored_archives(site)) if bucket is not None else ()),
            *(step for step in last if step is not None),
        )
    )


def _renewed(
    models: Sequence[PackedModel],
    stored: Sequence[StoredArchive],
    uploads: Sequence[Step],
    serving: EndpointState,
) -> dict[str, str]:
    """Return the archives that took another's key since the instances were started."""
    changing = {step.name for step in uploads if step.action is Action.CHANGE}
    made = serving.config_made
    since = {one.key for one in stored if one.replaces and made is not None and one.modified > made}
    return {model.key: model.sha256 for model in models if model.key in changing | since}
