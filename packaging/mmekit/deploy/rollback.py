"""Back to the models of an earlier release: one put, nothing built and nothing uploaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmekit.deploy.coming import ComingReleases, plan_release
from mmekit.deploy.current import now_at, stored_releases
from mmekit.deploy.endpoint import endpoint_state
from mmekit.deploy.layers import short_name, stored_layers
from mmekit.deploy.models import stored_archives
from mmekit.deploy.plan import Plan
from mmekit.deploy.releases import CURRENT
from mmekit.deploy.step import Action, Step
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit.deploy.account import Site
    from mmekit.deploy.current import StoredReleases
    from mmekit.deploy.endpoint import EndpointState
    from mmekit.deploy.releases import ModelVersion, Release, Releases

__all__ = ["own_releases", "plan_rollback"]

_NAMED = 5
_WITHOUT = (
    "Set `versions: true` in the deployment file and deploy: from then on there are releases."
)


def own_releases(site: Site) -> StoredReleases:
    """Return the releases of a deployment.

    Raises
    ------
    DeployError
        There are none.
    """
    stored = stored_releases(site)
    if stored is None:
        raise DeployError(
            f"The deployment has no releases: there is no {CURRENT} of {site.name}.",
            where=f"{site.data_url}{CURRENT}",
            remedy="Run `mme deploy` first." if site.deployment.versions else _WITHOUT,
        )
    return stored


def plan_rollback(site: Site, to: int | None = None) -> Plan:
    """Plan to make the models of an earlier release current.

    Parameters
    ----------
    to
        Its number. Otherwise that before the release whose models are current: after a rollback
        the next one goes further back.

    Raises
    ------
    DeployError
        There is none; or an archive or a layer of it is not there any more.
    """
    if not site.deployment.versions:
        raise DeployError(
            "Versions are off: callers ask for plain keys, whose old archives are gone.",
            where=site.name,
            remedy=f"Put the file back as it was and deploy it. {_WITHOUT}",
        )
    stored = own_releases(site)
    releases, now = stored.releases, now_at(site)
    target = _target(site, releases, to)
    models = releases.models_of(target.number)
    state = endpoint_state(site)
    _check(site, models, target, state)
    endpoint = _endpoint(site, target, state)
    if models == releases.models:
        note = f"the models of release {target.number} are current already"
        return Plan((*endpoint, Step(Action.KEEP, "releases", CURRENT, note=note)))
    after = releases.followed_by(
        models,
        how="rollback",
        config="",
        now=now,
        restores=target.origin,
    )
    step = plan_release(
        site,
        ComingReleases(stored, releases, after, now),
        "" if state is None else state.config,
        f"rollback to release {target.origin}; until the file is as it was then, `mme deploy` "
        "is refused without --over-rollback",
    )
    return Plan((*endpoint, step))


def _target(site: Site, releases: Releases, to: int | None) -> Release:
    numbers = [one.number for one in releases.history]
    where = f"{site.data_url}{CURRENT}"
    days = site.deployment.keep_days
    if to is None:
        found = releases.before()
        if found is not None:
            return found
        raise DeployError(
            f"There is nothing to go back to: no release before {releases.current.origin}, whose "
            "models are current, is remembered.",
            where=where,
            remedy=f"`mme releases` lists them; they are remembered for {days} days (`keep_days`) "
            "after others followed. `--to` names one, a later one too.",
        )
    found = releases.release(to)
    if found is None:
        raise DeployError(
            f"Release {to} is not remembered.",
            where=where,
            remedy=f"Name one of {', '.join(map(str, numbers))}; `mme releases` lists them. They "
            f"are remembered for {days} days (`keep_days`) after others followed.",
        )
    return found


def _check(
    site: Site,
    models: Mapping[str, ModelVersion],
    target: Release,
    state: EndpointState | None,
) -> None:
    """Look whether everything is still there, with the bytes that it had."""
    there = {one.key: one for one in stored_archives(site)}
    faults = []
    for name, version in sorted(models.items()):
        stored = there.get(version.key)
        if stored is None:
            faults.append(f"{version.key} of {name} is gone")
        elif stored.sha256 != version.sha256:
            faults.append(f"{version.key} of {name} has other bytes now")
    needed = {
        layer for one in models.values() if (got := there.get(one.key)) for layer in got.layers
    }
    if needed:
        layers = {one.key.removesuffix(".tar.gz") for one in stored_layers(site)}
        faults += [f"the layer {short_name(one)} is gone" for one in sorted(needed - layers)]
    if faults:
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise DeployError(
            f"Release {target.number} cannot be brought back: {'; '.join(faults[:_NAMED])}{more}. "
            f"{CURRENT} was left as it is.",
            where=site.data_url,
            remedy="Choose another release (`mme releases`), or deploy the file as it was then.",
        )
    if state is None:
        raise DeployError(
            "There is no endpoint, so that nothing would answer.",
            where=site.name,
            remedy="Run `mme deploy`.",
        )


def _endpoint(site: Site, target: Release, state: EndpointState | None) -> tuple[Step, ...]:
    """Say truthfully what a rollback does not touch."""
    if state is None or not target.config or target.config == state.config:
        return (Step(Action.KEEP, "endpoint", site.name, note="no new instances"),)
    note = (
        f"release {target.number} came with endpoint config {target.config}; it has "
        f"{state.config} now and keeps it. Other instances or another image come back with "
        "`mme deploy` of the file as it was"
    )
    return (Step(Action.KEEP, "endpoint", site.name, note=note),)
