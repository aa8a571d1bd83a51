"""Where a deployment kept its archives before the file named another bucket or prefix."""

from __future__ import annotations

import dataclasses

from botocore.exceptions import ClientError

from mmekit.deploy.account import is_denied
from mmekit.deploy.bucket import plan_bucket_removal
from mmekit.deploy.hosting import own_data_urls
from mmekit.deploy.objects import plan_objects_removal, stored_archives
from mmekit.deploy.site import Site
from mmekit.deploy.step import Action, Step

__all__ = ["plan_former_removal"]


def plan_former_removal(site: Site) -> tuple[Step, ...]:
    """Plan to remove what the deployment uploaded elsewhere, and the buckets it made for that.

    Its models say where. So they have to outlive these steps, for the next run to find what an
    interrupted one has left.
    """
    archives: dict[str, Step] = {}
    buckets: dict[str, Step] = {}
    for former in _former_sites(site):
        try:
            stored = stored_archives(former)
        except ClientError as error:
            if not is_denied(error):
                raise
            note = "may not be looked up: what is there stays"
            archives[former.data_url] = Step(Action.KEEP, "archives", former.data_url, note=note)
            continue
        for step in plan_objects_removal(former, stored):
            url = f"{former.data_url}{step.name}"
            # One prefix may be in another: what is under the present one is not former.
            if step.action is Action.REMOVE and not url.startswith(site.data_url):
                archives[url] = dataclasses.replace(step, name=url)
        bucket = plan_bucket_removal(former) if former.bucket != site.bucket else None
        if bucket is not None and bucket.action is Action.REMOVE:
            buckets[bucket.name] = bucket
    return (*archives.values(), *buckets.values())


def _former_sites(site: Site) -> list[Site]:
    sites = []
    for url in sorted(own_data_urls(site) - {site.data_url}):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        before = {"bucket": bucket, "prefix": prefix.rstrip("/")}
        sites.append(Site(site.account, site.deployment.model_copy(update=before)))
    return sites
