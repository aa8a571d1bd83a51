"""The archives in the bucket: uploaded once, told apart by their hash."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from mmekit.deploy.account import is_missing
from mmekit.deploy.bucket import bucket_owner
from mmekit.deploy.step import Action, Difference, Report, Step
from mmekit.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mmekit.deploy.archives import PackedModel
    from mmekit.deploy.site import Site

__all__ = ["StoredArchive", "plan_objects", "plan_objects_removal", "stored_archives"]

_SHA256 = "sha256"
_DEPLOYMENT = "mmekit-deployment"
_REPLACES = "mmekit-replaces"
_THREADS = 8
_TENTHS = 10


@dataclass(frozen=True)
class StoredArchive:
    """An object under the prefix.

    Attributes
    ----------
    key
        What comes after the prefix: the target model.
    size
        Bytes.
    modified
        When it was uploaded.
    sha256
        What its metadata say; None when they say nothing.
    owner
        The deployment that uploaded it; None for nobody's.
    replaces
        Whether another archive had the key before it: instances may still have that one.
    kms_key
        ARN of what it is encrypted with; None for S3's own.
    """

    key: str
    size: int
    modified: datetime
    sha256: str | None
    owner: str | None
    replaces: bool
    kms_key: str | None


def stored_archives(site: Site) -> tuple[StoredArchive, ...]:
    """Look up what is under the prefix; nothing when there is no bucket."""
    s3 = site.account.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=site.bucket, Prefix=site.prefix)
    try:
        listed = [one for page in pages for one in page.get("Contents", [])]
    except ClientError as error:
        if is_missing(error):
            return ()
        raise
    with ThreadPoolExecutor(_THREADS) as threads:
        heads = threads.map(lambda one: _head(s3, site.bucket, one["Key"]), listed)
        return tuple(
            StoredArchive(
                one["Key"].removeprefix(site.prefix),
                one["Size"],
                one["LastModified"],
                head.metadata.get(_SHA256),
                head.metadata.get(_DEPLOYMENT),
                _REPLACES in head.metadata,
                head.kms_key,
            )
            for one, head in zip(listed, heads, strict=True)
        )


def plan_objects(
    site: Site, models: Sequence[PackedModel], stored: Sequence[StoredArchive]
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Plan the uploads; and apart from them what is to go when the endpoint is in service.

    Raises
    ------
    DeployError
        Somebody else's object has the key.
    """
    there = {one.key: one for one in stored}
    # Others' buckets encrypt as they like.
    own = bool(there) and bucket_owner(site) == site.name
    uploads = tuple(
        _plan_upload(site, model, there.get(model.key), encrypts=own) for model in models
    )
    wanted = {model.key for model in models}
    gone = [one for one in stored if one.owner == site.name and one.key not in wanted]
    return uploads, tuple(_removal(site, one) for one in gone)


def plan_objects_removal(site: Site, stored: Sequence[StoredArchive]) -> tuple[Step, ...]:
    """Plan to remove what the deployment uploaded."""
    return tuple(
        _removal(site, one)
        if one.owner == site.name
        else Step(Action.KEEP, "archive", one.key, note="not uploaded by this deployment")
        for one in stored
    )


class _Head(NamedTuple):
    metadata: dict[str, str]
    kms_key: str | None


def _head(s3: Any, bucket: str, key: str) -> _Head:
    try:
        found = s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if is_missing(error):  # removed since it was listed
            return _Head({}, None)
        raise
    return _Head(found["Metadata"], found.get("SSEKMSKeyId"))


def _plan_upload(
    site: Site, model: PackedModel, there: StoredArchive | None, *, encrypts: bool
) -> Step:
    if there is None:
        return Step(
            Action.CREATE,
            "archive",
            model.key,
            note=f"{_mib(model.size)} to upload",
            perform=lambda report: _upload(site, model, None, report),
        )
    key = site.deployment.kms_key
    is_own = there.owner == site.name
    if there.sha256 == model.sha256 and is_own and encrypts and there.kms_key != key:
        # A bucket's new key is for what is uploaded from then on, and the role loses the old one.
        return Step(
            Action.CHANGE,
            "archive",
            model.key,
            (Difference("key", there.kms_key or "S3's own", key or "S3's own"),),
            note=f"{_mib(model.size)} to upload again",
            perform=lambda report: _upload(site, model, None, report),
        )
    if there.sha256 == model.sha256:
        return Step(Action.KEEP, "archive", model.key, note="the same bytes are there")
    if not is_own:
        raise DeployError(
            f"Under the key {model.key} is an object that this deployment did not upload, and it "
            "is not known to be the same.",
            where=f"{site.data_url}{model.key}",
            remedy="Give the package another `key`, or remove the object.",
        )
    change = Difference("sha256", (there.sha256 or "unknown")[:12], model.sha256[:12])
    return Step(
        Action.CHANGE,
        "archive",
        model.key,
        (change,),
        note=f"{_mib(model.size)} to upload; instances that have it keep the old one, so the "
        "endpoint gets new ones. A new key would need none",
        perform=lambda report: _upload(site, model, there, report),
    )


def _removal(site: Site, stored: StoredArchive) -> Step:
    def remove(_: Report) -> None:
        site.account.client("s3").delete_object(Bucket=site.bucket, Key=site.prefix + stored.key)

    return Step(Action.REMOVE, "archive", stored.key, perform=remove)


def _upload(site: Site, model: PackedModel, old: StoredArchive | None, report: Report) -> None:
    metadata = {_SHA256: model.sha256, _DEPLOYMENT: site.name}
    if old is not None:
        metadata[_REPLACES] = old.sha256 or "unknown"
    progress = _Progress(model, report)
    site.account.client("s3").upload_file(
        str(model.path),
        site.bucket,
        site.prefix + model.key,
        ExtraArgs={"Metadata": metadata, "ContentType": "application/gzip"},
        Callback=progress,
    )


class _Progress:
    """Says each tenth of an upload that is not over at once."""

    _LARGE = 32 << 20

    def __init__(self, model: PackedModel, report: Report) -> None:
        self._model = model
        self._report = report
        self._sent = 0
        self._said = 0

    def __call__(self, sent: int) -> None:
        self._sent += sent
        tenths = self._sent * _TENTHS // self._model.size
        if self._model.size >= self._LARGE and self._said < tenths < _TENTHS:
            self._said = tenths
            self._report(f"archive {self._model.key}: {tenths}0 % of {_mib(self._model.size)}")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
