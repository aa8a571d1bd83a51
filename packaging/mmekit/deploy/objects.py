"""Objects in the bucket, and what their metadata say: listed, uploaded, removed.

Archives and layers are both uploaded so: with their SHA-256 and the deployment's name as metadata,
by which the next run knows what is there and whose it is.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from mmekit.archive.files import size_text
from mmekit.deploy.account import is_missing
from mmekit.deploy.step import Action, Step

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from mmekit.deploy.account import Site
    from mmekit.deploy.step import Report

__all__ = ["StoredObject", "Upload", "removal_of_object", "stored_objects"]

SHA256 = "sha256"
DEPLOYMENT = "mmekit-deployment"
_REPLACES = "mmekit-replaces"
_LAYERS = "mmekit-layers"
_THREADS = 8
_TENTHS = 10
_LARGE = 32 << 20


@dataclass(frozen=True)
class StoredObject:
    """An object under a prefix.

    Attributes
    ----------
    key
        What comes after the prefix: of an archive the target model.
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
    layers
        The layers that an archive names and does not bring along.
    """

    key: str
    size: int
    modified: datetime
    sha256: str | None
    owner: str | None
    replaces: bool
    kms_key: str | None
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Upload:
    """A file that becomes an object.

    Attributes
    ----------
    kind, name
        What the step of the plan calls it, and what reports do.
    path, size
        The file, and its bytes.
    key
        The object's whole key.
    sha256
        Of the file.
    layers
        As `StoredObject` has them.
    """

    kind: str
    name: str
    path: Path
    size: int
    key: str
    sha256: str
    layers: tuple[str, ...] = ()

    def metadata(self, deployment: str | None, replaced: StoredObject | None) -> dict[str, str]:
        """Return what is kept with the object."""
        metadata = {SHA256: self.sha256}
        if deployment is not None:
            metadata[DEPLOYMENT] = deployment
        if self.layers:
            metadata[_LAYERS] = ",".join(self.layers)
        if replaced is not None:
            # With the object, so that a run after an interrupted one knows that new instances are
            # due.
            metadata[_REPLACES] = replaced.sha256 or "unknown"
        return metadata

    def send(
        self,
        s3: Any,
        bucket: str,
        report: Report,
        *,
        deployment: str | None,
        replaced: StoredObject | None = None,
    ) -> None:
        """Upload it, in parts when it is large, and say each tenth of what is not over at once."""
        s3.upload_file(
            str(self.path),
            bucket,
            self.key,
            ExtraArgs={
                "Metadata": self.metadata(deployment, replaced),
                "ContentType": "application/gzip",
            },
            Callback=_Progress(self, report),
        )


def stored_objects(site: Site, prefix: str) -> tuple[StoredObject, ...]:
    """Look up what is under a prefix; nothing when there is no bucket."""
    s3 = site.account.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=site.bucket, Prefix=prefix)
    try:
        listed = [one for page in pages for one in page.get("Contents", [])]
    except ClientError as error:
        if is_missing(error):
            return ()
        raise
    # A listing has no metadata: each object needs a HEAD of its own.
    with ThreadPoolExecutor(_THREADS) as threads:
        heads = threads.map(lambda one: _head(s3, site.bucket, one["Key"]), listed)
        return tuple(
            StoredObject(
                one["Key"].removeprefix(prefix),
                one["Size"],
                one["LastModified"],
                head.metadata.get(SHA256),
                head.metadata.get(DEPLOYMENT),
                _REPLACES in head.metadata,
                head.kms_key,
                tuple(filter(None, head.metadata.get(_LAYERS, "").split(","))),
            )
            for one, head in zip(listed, heads, strict=True)
        )


def removal_of_object(site: Site, kind: str, name: str, key: str) -> Step:
    """Plan to remove an object.

    Parameters
    ----------
    name
        What the plan calls it.
    key
        Its whole key.
    """

    def remove(_: Report) -> None:
        site.account.client("s3").delete_object(Bucket=site.bucket, Key=key)

    return Step(Action.REMOVE, kind, name, perform=remove)


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


class _Progress:
    """Says each tenth of an upload that is not over at once."""

    def __init__(self, upload: Upload, report: Report) -> None:
        self._upload = upload
        self._report = report
        self._sent = 0
        self._said = 0

    def __call__(self, sent: int) -> None:
        self._sent += sent
        size = self._upload.size
        tenths = self._sent * _TENTHS // max(size, 1)
        if size >= _LARGE and self._said < tenths < _TENTHS:
            self._said = tenths
            name = f"{self._upload.kind} {self._upload.name}"
            self._report(f"{name}: {tenths}0 % of {size_text(size)}")
