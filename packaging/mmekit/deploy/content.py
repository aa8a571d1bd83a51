"""What becomes of what is in the bucket: archives, their layers, and which of them are current."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.deploy.bucket import bucket_owner
from mmekit.deploy.coming import (
    ComingReleases,
    coming_releases,
    plan_release,
)
from mmekit.deploy.current import now_at
from mmekit.deploy.former import models_left_behind
from mmekit.deploy.layers import plan_layers, short_name, stored_layers
from mmekit.deploy.models import plan_objects, stored_archives
from mmekit.deploy.releases import CURRENT, ModelVersion
from mmekit.deploy.step import Action, Difference, Report, Step
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mmekit.deploy.account import Site
    from mmekit.deploy.models import PackedModel
    from mmekit.deploy.objects import StoredObject

__all__ = ["Content", "older_versions", "plan_content", "plan_older_versions", "taken_back"]


@dataclass(frozen=True)
class Content:
    """The steps of a bucket's content, and what the others have to know of it.

    Attributes
    ----------
    stored
        The archives that are there.
    layers, uploads
        What brings layers and archives there.
    keeps
        What is said or done of older versions.
    gone
        What is to go when the endpoint is in service.
    fetches_layers
        Whether an archive, or one that could be gone back to, names layers it does not bring along.
    coming
        What is current by then; None without versions.
    note
        What one should know of that besides.
    """

    stored: tuple[StoredObject, ...]
    layers: tuple[Step, ...]
    uploads: tuple[Step, ...]
    keeps: tuple[Step, ...]
    gone: tuple[Step, ...]
    fetches_layers: bool
    coming: ComingReleases | None
    note: str = ""

    def release(self, site: Site, config: str) -> tuple[Step, ...]:
        """Plan current.json, once the endpoint has this config."""
        if self.coming is None:
            return ()
        return (plan_release(site, self.coming, config, self.note),)


def plan_content(site: Site, models: Sequence[PackedModel], *, is_new: bool) -> Content:
    """Plan what the file says of models.

    Parameters
    ----------
    is_new
        Whether there is no bucket yet.

    Raises
    ------
    DeployError
        Something of somebody else's is in the way, a layer is missing, or the models are at the
        place that the file named before and would go with it.
    """
    stored = () if is_new else stored_archives(site)
    wanted = {model.name: ModelVersion(model.key, model.sha256) for model in models}
    # Without models in the file it is `mme promote` that brings them.
    coming = coming_releases(site, wanted if models else None, stored, how="deploy")
    if coming is not None:
        _check_left_behind(site, coming, has_packages=bool(models))
    kept = older_versions(site, coming, stored, {model.key for model in models})
    uploads, gone = plan_objects(site, models, stored, [one.key for one in kept])
    layers_there = () if is_new else stored_layers(site)
    now = now_at(site) if coming is None else coming.now
    layers, gone_layers = plan_layers(site, models, layers_there, stored, kept, now=now)
    uploaded = {layer.entry.sha256 for model in models for layer in model.thin_layers}
    return Content(
        stored,
        layers,
        uploads,
        plan_older_versions(site, coming, kept, layers_there, uploaded),
        (*gone, *gone_layers),
        any(model.thin_layers for model in models) or any(one.layers for one in kept),
        coming,
        taken_back(coming),
    )


def _check_left_behind(site: Site, coming: ComingReleases, *, has_packages: bool) -> None:
    """Refuse to move to another place without the models: they would go with the one before."""
    lacks = "has other packages" if has_packages else "no packages"
    for former, names in models_left_behind(site, coming.after.models, plain=not has_packages):
        raise DeployError(
            f"The models of {site.name} are at {former.data_url}, and the file names another place "
            f"and {lacks}: {len(names)} would be gone, {names[0]} among them.",
            where=site.data_url,
            remedy=f"Bring them along: copy the file to before.yaml, with the `bucket` and "
            f"`prefix` of before ({former.bucket}, {former.deployment.prefix}); then `mme promote "
            "before THIS_FILE`."
            if not has_packages
            else "Deploy the file with the `bucket` and `prefix` of before "
            f"({former.bucket}, {former.deployment.prefix}): what leaves it stops being current "
            "there, and can be gone back to. Then move.",
        )


def older_versions(
    site: Site,
    coming: ComingReleases | None,
    stored: Sequence[StoredObject],
    wanted: set[str],
) -> tuple[StoredObject, ...]:
    """Return the archives that stay in the bucket although they are not among those wanted."""
    if coming is None:
        return ()
    keys = coming.kept(stored, site.deployment.keep_days)
    return tuple(
        one
        for one in stored
        if one.owner == site.name and one.key in keys and one.key not in wanted
    )


def plan_older_versions(
    site: Site,
    coming: ComingReleases | None,
    kept: Sequence[StoredObject],
    layers: Sequence[StoredObject] = (),
    uploaded: Collection[str] = (),
) -> tuple[Step, ...]:
    """Say how many there are; and encrypt them with the key that the file names now.

    Parameters
    ----------
    kept, layers
        The archives that stay, and the layers that are in the bucket.
    uploaded
        Layers that are uploaded anew where that is needed.
    """
    if coming is None or not kept:
        return ()
    current = {one.key for one in coming.after.models.values()}
    older = sum(one.key not in current for one in kept)
    days = site.deployment.keep_days
    steps = []
    if older:
        many = "archive" if older == 1 else "archives"
        note = f"each until it has not been current for {days} days"
        steps.append(Step(Action.KEEP, "older versions", f"{older} {many}", note=note))
    named = {sha256 for one in kept for sha256 in one.layers} - set(uploaded)
    found = [("archive", site.prefix, one) for one in kept]
    found += [
        ("layer", site.layers_prefix, one)
        for one in layers
        if one.owner == site.name and one.key.removesuffix(".tar.gz") in named
    ]
    key = site.deployment.kms_key
    others = [(kind, prefix, one) for kind, prefix, one in found if one.kms_key != key]
    # Others' buckets encrypt as they like.
    if others and bucket_owner(site) == site.name:
        steps += [_encryption(site, kind, prefix, one) for kind, prefix, one in others]
    return tuple(steps)


def _encryption(site: Site, kind: str, prefix: str, stored: StoredObject) -> Step:
    key, whole = site.deployment.kms_key, prefix + stored.key

    def copy(_: Report) -> None:
        s3 = site.account.client("s3")
        # Onto itself: S3 encrypts with what the bucket says now. The metadata go along.
        head = s3.head_object(Bucket=site.bucket, Key=whole)
        s3.copy(
            {"Bucket": site.bucket, "Key": whole},
            site.bucket,
            whole,
            ExtraArgs={
                "Metadata": head["Metadata"],
                "MetadataDirective": "REPLACE",
                "ContentType": head["ContentType"],
            },
        )

    change = Difference("key", stored.kms_key or "S3's own", key or "S3's own")
    name = stored.key if kind == "archive" else short_name(stored.key)
    note = "of an older version; encrypted anew"
    return Step(Action.CHANGE, kind, name, (change,), note=note, perform=copy)


def taken_back(coming: ComingReleases | None) -> str:
    """Say that a deployment makes current what a rollback took back."""
    if coming is None or not coming.undone:
        return ""
    back = coming.before.current
    return (
        f"{CURRENT} was rolled back to release {back.restores}; this makes what release "
        f"{back.number} took back current. To keep what is, "
        "put the file back as it was"
    )
