"""The places that a deployment had before: what would be lost with them, and their removal."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from mmekit.deploy.account import Site, is_denied
from mmekit.deploy.bucket import plan_bucket_removal
from mmekit.deploy.current import (
    now_at,
    plan_releases_removal,
    releases_so_far,
    stored_releases,
)
from mmekit.deploy.hosting import own_data_urls
from mmekit.deploy.layers import plan_layers_removal, stored_layers
from mmekit.deploy.models import plan_objects_removal, stored_archives
from mmekit.deploy.step import Action, Step

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["former_sites", "models_left_behind", "plan_former_removal"]


def models_left_behind(
    site: Site, names: Collection[str], *, plain: bool = True
) -> list[tuple[Site, list[str]]]:
    """Return the places before that have models of other names than these, and which.

    Places that may not be looked up are not removed either.

    Parameters
    ----------
    plain
        Whether what was deployed there without versions counts.
    """
    found = []
    for former in former_sites(site):
        try:
            archives = stored_archives(former)
            stored = stored_releases(former)
        except ClientError as error:
            if not is_denied(error):
                raise
            continue
        if stored is None and not plain:
            continue
        left = releases_so_far(former, archives, stored, now_at(former)).models.keys() - set(names)
        if left:
            found.append((former, sorted(left)))
    return found


def plan_former_removal(site: Site) -> tuple[Step, ...]:
    """Plan to remove what the deployment uploaded elsewhere, and the buckets it made for that.

    Its models say where. So they have to outlive these steps, for the next run to find what an
    interrupted one has left.
    """
    objects: dict[str, Step] = {}
    buckets: dict[str, Step] = {}
    for former in former_sites(site):
        try:
            stored = stored_archives(former)
            removals = (
                *((former.data_url, step) for step in plan_releases_removal(former)),
                *((former.data_url, step) for step in plan_objects_removal(former, stored)),
                *(
                    (former.layers_url, step)
                    for step in plan_layers_removal(former, stored_layers(former), stored)
                ),
            )
        except ClientError as error:
            if not is_denied(error):
                raise
            note = "may not be looked up: what is there stays"
            objects[former.data_url] = Step(Action.KEEP, "archives", former.data_url, note=note)
            continue
        for place, step in removals:
            url = f"{place}{step.name}"
            # One prefix may be in another: what is under the present ones is not former.
            is_present = url.startswith((site.data_url, site.layers_url))
            if step.kind == "releases":
                is_present = url.rpartition("/")[0] + "/" == site.data_url
            if step.action is Action.REMOVE and not is_present:
                objects[url] = dataclasses.replace(step, name=url)
        bucket = plan_bucket_removal(former) if former.bucket != site.bucket else None
        if bucket is not None and bucket.action is Action.REMOVE:
            buckets[bucket.name] = bucket
    return (*objects.values(), *buckets.values())


def former_sites(site: Site) -> list[Site]:
    """Return the places besides the present that the deployment's models in SageMaker say."""
    sites = []
    for url in sorted(own_data_urls(site) - {site.data_url}):
        # Without versions: another deployment's current.json may be there by now.
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        before = {"bucket": bucket, "prefix": prefix.rstrip("/"), "versions": False}
        sites.append(Site(site.account, site.deployment.model_copy(update=before)))
    return sites
