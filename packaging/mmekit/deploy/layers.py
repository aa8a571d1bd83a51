"""Layers of thin archives: each is in the bucket once, beside the models.

Its name is the SHA-256 of what is in it, so an object of that name is never another: it is uploaded
once, whoever did it, and only goes away when nothing names it any more.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from mmekit.archive.files import sha256_of
from mmekit.archive.layers import file_name
from mmekit.deploy.bucket import bucket_owner
from mmekit.deploy.layer_files import thin_layers
from mmekit.deploy.objects import Upload, removal_of_object, stored_objects
from mmekit.deploy.step import Action, Difference, Report, Step
from mmekit.plural import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from mmekit.deploy.account import Site
    from mmekit.deploy.layer_files import ThinLayer
    from mmekit.deploy.models import PackedModel
    from mmekit.deploy.objects import StoredObject

__all__ = ["layer_upload", "plan_layers", "plan_layers_removal", "short_name", "stored_layers"]

_DIGITS = 12
_LATE = timedelta(days=1)


def stored_layers(site: Site) -> tuple[StoredObject, ...]:
    """Look up which layers are in the bucket."""
    return stored_objects(site, site.layers_prefix)


def plan_layers(
    site: Site,
    models: Sequence[PackedModel],
    stored: Sequence[StoredObject],
    archives: Sequence[StoredObject],
    kept: Sequence[StoredObject] = (),
    *,
    now: datetime,
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Plan the uploads; and apart from them what is to go when the endpoint is in service.

    Parameters
    ----------
    stored, archives
        The layers and the archives that are in the bucket.
    kept
        Those among the archives that stay although no model has them: their layers stay, too.
    now
        The time, by S3's clock.

    Raises
    ------
    DeployError
        A layer that is not in the bucket is not beside its archive, or it is damaged.
    """
    there = {one.key: one for one in stored}
    # Others' buckets encrypt as they like.
    own = bool(there) and bucket_owner(site) == site.name
    wanted = thin_layers((model.path, model.layers) for model in models)
    uploads = tuple(
        _plan_upload(site, layer, there.get(layer.object_name), encrypts=own) for layer in wanted
    )
    names = {layer.object_name for layer in wanted}
    names |= {file_name(sha256) for one in kept for sha256 in one.layers}
    # A layer goes up before the archives that name it: another run may be between the two.
    named = {file_name(sha256) for one in archives for sha256 in one.layers}
    names |= {one.key for one in stored if one.key not in named and one.modified > now - _LATE}
    unnamed = [one for one in stored if one.key not in names]
    return uploads, tuple(
        step
        for step in plan_layers_removal(site, unnamed, archives, serves=True)
        if step.action is Action.REMOVE
    )


def plan_layers_removal(
    site: Site,
    stored: Sequence[StoredObject],
    archives: Sequence[StoredObject],
    *,
    serves: bool = False,
) -> tuple[Step, ...]:
    """Plan to remove layers that the deployment uploaded and that no archive of others' names.

    Of an archive that neither a deployment nor `mme` has uploaded it is not known what it names.

    Parameters
    ----------
    serves
        Whether models are served from here afterwards: then one that an archive names by then
        stays.
    """
    others = [one for one in archives if one.owner != site.name]
    unknown = [one.key for one in others if one.sha256 is None]
    of_others = {name for one in others for name in one.layers}
    return tuple(_plan_removal(site, one, of_others, unknown, serves=serves) for one in stored)


def short_name(sha256: str) -> str:
    """Return what plans and tables call a layer."""
    return sha256[:_DIGITS]


def layer_upload(layer: ThinLayer, file: Path, prefix: str) -> Upload:
    """Return how a layer's file becomes an object."""
    return Upload(
        "layer",
        short_name(layer.entry.sha256),
        file,
        file.stat().st_size,
        prefix + layer.object_name,
        sha256_of(file),
    )


def _plan_upload(
    site: Site, layer: ThinLayer, there: StoredObject | None, *, encrypts: bool
) -> Step:
    name, entry, key = short_name(layer.entry.sha256), layer.entry, site.deployment.kms_key
    what = f"{entry.kind} of {counted(len(layer.named), 'model')}"
    if there is not None:
        is_own = there.owner == site.name
        if not (is_own and encrypts and there.kms_key != key):
            by = "" if is_own else ", not uploaded by this deployment"
            return Step(Action.KEEP, "layer", name, note=f"{what}; it is there{by}")
    # Before anything is changed: half a deployment helps nobody.
    upload = layer_upload(layer, layer.found(), site.layers_prefix)

    def send(report: Report) -> None:
        upload.send(site.account.client("s3"), site.bucket, report, deployment=site.name)

    if there is None:
        return Step(Action.CREATE, "layer", name, note=what, size=upload.size, perform=send)
    change = Difference("key", there.kms_key or "S3's own", key or "S3's own")
    note = f"{what}; encrypted anew"
    return Step(Action.CHANGE, "layer", name, (change,), note=note, size=upload.size, perform=send)


def _plan_removal(
    site: Site,
    stored: StoredObject,
    of_others: set[str],
    unknown: Sequence[str],
    *,
    serves: bool,
) -> Step:
    sha256 = stored.key.removesuffix(".tar.gz")
    if stored.owner != site.name:
        note = "not uploaded by this deployment"
        return Step(Action.KEEP, "layer", short_name(sha256), note=note)
    if sha256 in of_others:
        note = "archives that others uploaded name it"
        return Step(Action.KEEP, "layer", short_name(sha256), note=note)
    if unknown:
        note = f"{unknown[0]} was uploaded by other means and may name it"
        return Step(Action.KEEP, "layer", short_name(sha256), note=note)
    key = site.layers_prefix + stored.key

    def is_needed() -> str:
        # Archives that go are gone by now: this is one that another run has brought since.
        archives = stored_objects(site, site.prefix) if serves else ()
        return next((f"{one.key} names it" for one in archives if sha256 in one.layers), "")

    return removal_of_object(site, "layer", short_name(sha256), key, is_needed)
