"""What would be done: every resource of a deployment, in the order in which it is dealt with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmekit.deploy.alarms import plan_alarms, plan_alarms_removal
from mmekit.deploy.bucket import plan_bucket, plan_bucket_removal
from mmekit.deploy.content import Content, older_versions, plan_content
from mmekit.deploy.current import plan_releases_removal
from mmekit.deploy.endpoint import plan_endpoint, plan_endpoint_removal, settled_endpoint
from mmekit.deploy.former import plan_former_removal
from mmekit.deploy.hosting import own_configs, own_models, plan_hosting, removal_of
from mmekit.deploy.layers import plan_layers_removal, stored_layers
from mmekit.deploy.models import plan_objects_removal, stored_archives
from mmekit.deploy.outline import plan_lines, plan_members, totals_line
from mmekit.deploy.promotion import Promotion, plan_promotion
from mmekit.deploy.role import plan_role, plan_role_removal
from mmekit.deploy.samples import asked_models, replacing_models
from mmekit.deploy.scaling import is_scaled, plan_scaling, plan_scaling_removal
from mmekit.deploy.step import Action, Report, Step
from mmekit.deploy.warm_up import warmed_up, warmed_up_before

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.deploy.account import Site
    from mmekit.deploy.endpoint import EndpointState
    from mmekit.deploy.models import PackedModel

__all__ = ["Plan", "plan_deployment", "plan_removal"]


@dataclass(frozen=True)
class Plan:
    """What would be done.

    Attributes
    ----------
    steps
        In their order.
    undone
        Archives that a rollback took back, and that would be current again.
    kept_bytes
        What stays in S3 besides the archives of the file and their layers.
    models
        How many are current by then.
    """

    steps: tuple[Step, ...]
    undone: tuple[str, ...] = ()
    kept_bytes: int = 0
    models: int = 0

    @property
    def changes(self) -> tuple[Step, ...]:
        """Return the steps that change something."""
        return tuple(step for step in self.steps if step.perform is not None)

    def lines(self, *, verbose: bool = False) -> list[str]:
        """Return it as text: a line a resource, or what is alike, and below it what differs."""
        return plan_lines(self.steps, verbose=verbose)

    def totals(self) -> str:
        """Return how much of what is done in all."""
        return totals_line(self.steps)

    def members(self) -> dict[str, Any]:
        """Return it for a program."""
        return plan_members(self.steps)

    def perform(self, report: Report) -> None:
        """Do it, step by step. What fails or is interrupted can be planned and done again."""
        for step in self.changes:
            report(f"{step.action.value} {step.kind} {step.name}")
            if step.perform is not None:
                step.perform(report)


def plan_deployment(
    site: Site,
    models: Sequence[PackedModel],
    report: Report,
    promotion: Promotion | None = None,
) -> Plan:
    """Plan to make everything as the file says. Looks, waits for what is in progress, no more.

    Parameters
    ----------
    models
        The file's.
    promotion
        Models of another deployment, instead of them.

    Raises
    ------
    DeployError
        Something of somebody else's is in the way.
    """
    bucket = plan_bucket(site)
    is_new = bucket.action is Action.CREATE
    if promotion is None:
        content = plan_content(site, models, is_new=is_new)
    else:
        content = plan_promotion(site, promotion, is_new=is_new)
    site = dataclasses.replace(site, fetches_layers=content.fetches_layers)
    state = settled_endpoint(site, report)
    serving = state if state is not None and state.status == "InService" else None
    scaled = serving is not None and is_scaled(site)
    hosting = plan_hosting(
        site,
        None if serving is None else serving.config,
        {} if serving is None else _renewed(models, content, serving),
        is_scaled=scaled,
    )
    endpoint = plan_endpoint(site, state, hosting.config, is_scaled=scaled)
    asked = asked_models(models, content.coming)
    endpoint = warmed_up(site, endpoint, asked)
    releases = content.release(site, hosting.config)
    if endpoint.action is Action.KEEP:
        # The same instances have what is replaced, and nobody waits for what replaces it.
        replacing = replacing_models(models, content.coming)
        releases = tuple(warmed_up_before(site, one, replacing) for one in releases)
    moves = serving is not None and endpoint.action is not Action.KEEP
    role, narrowed_role = plan_role(site, serves_meanwhile=moves)
    before, after = plan_scaling(site, interrupted=hosting.changes_instance_type)
    alarms = plan_alarms(site)
    # A roll-out is watched by them, so they have to be there.
    is_watched = moves and site.deployment.rollout is not None
    return Plan(
        (
            bucket,
            *role,
            # Before the archives: whoever has one of these has what it names.
            *content.layers,
            *content.uploads,
            *content.keeps,
            *hosting.steps,
            *before,
            *(alarms if is_watched else ()),
            endpoint,
            # Whoever asks for what becomes current finds instances that can load it.
            *releases,
            *after,
            *(() if is_watched else alarms),
            # The old instances are gone by now, and with them what only they needed.
            *narrowed_role,
            # Before the models, which alone say where that is.
            *plan_former_removal(site),
            *hosting.leftovers,
            *content.gone,
        ),
        () if content.coming is None else content.coming.undone,
        kept_bytes=_kept_bytes(site, models, content),
        models=len(asked),
    )


def plan_removal(site: Site, report: Report) -> Plan:
    """Plan to remove what the deployment made, and nothing else."""
    state = settled_endpoint(site, report)
    endpoint = plan_endpoint_removal(site, state)
    is_own = endpoint is not None and endpoint.action is Action.REMOVE
    # What is left of an interrupted run has no endpoint any more.
    scaling = plan_scaling_removal(site) if is_own or state is None else None
    bucket = plan_bucket_removal(site)
    stored = () if bucket is None else stored_archives(site)
    # Instances need the role until the endpoint is gone, and S3 removes empty buckets only.
    last = (plan_role_removal(site), bucket)
    return Plan(
        (
            *plan_alarms_removal(site),
            *([] if scaling is None else [scaling]),
            *([] if endpoint is None else [endpoint]),
            *plan_former_removal(site),
            *(removal_of(site, "endpoint config", name) for name in sorted(own_configs(site))),
            *(removal_of(site, "model", name) for name in sorted(own_models(site))),
            *(() if bucket is None else plan_releases_removal(site)),
            *plan_objects_removal(site, stored),
            *(() if bucket is None else plan_layers_removal(site, stored_layers(site), stored)),
            *(step for step in last if step is not None),
        )
    )


def _renewed(
    models: Sequence[PackedModel], content: Content, serving: EndpointState
) -> dict[str, str]:
    """Return the archives that took another's key since the instances were started."""
    changing = {step.name for step in content.uploads if step.action is Action.CHANGE}
    made = serving.config_made
    since = {
        one.key
        for one in content.stored
        if one.replaces and made is not None and one.modified > made
    }
    return {model.key: model.sha256 for model in models if model.key in changing | since}


def _kept_bytes(site: Site, models: Sequence[PackedModel], content: Content) -> int:
    kept = older_versions(site, content.coming, content.stored, {model.key for model in models})
    named = {sha256 for one in kept for sha256 in one.layers}
    named -= {layer.entry.sha256 for model in models for layer in model.thin_layers}
    there = stored_layers(site) if named else ()
    layers = [one for one in there if one.key.removesuffix(".tar.gz") in named]
    return sum(one.size for one in (*kept, *layers))
