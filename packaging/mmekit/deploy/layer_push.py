"""Layers uploaded by hand, for endpoints that `mme deploy` did not make."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from mmekit.archive.files import size_text
from mmekit.deploy.account import deploy_errors, is_denied, is_missing
from mmekit.deploy.layers import layer_upload, short_name
from mmekit.errors import DeployError
from mmekit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.deploy.layer_files import ThinLayer
    from mmekit.deploy.objects import Upload
    from mmekit.deploy.step import Report

__all__ = ["LayerPlace", "PushedLayer", "push_layers"]

_URL = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<prefix>[\w!.*'()-][\w!.*'()/-]*)?"
)


@dataclass(frozen=True)
class LayerPlace:
    """A prefix of a bucket.

    Attributes
    ----------
    bucket, prefix
        Its names; the prefix ends with a slash, unless it is empty.
    """

    bucket: str
    prefix: str

    @classmethod
    def of(cls, url: str) -> LayerPlace:
        """Take an URL apart.

        Raises
        ------
        DeployError
            It is none.

        Examples
        --------
        >>> LayerPlace.of("s3://models/layers")
        LayerPlace(bucket='models', prefix='layers/')
        """
        found = _URL.fullmatch(url)
        prefix = "" if found is None or not found["prefix"] else found["prefix"].rstrip("/") + "/"
        if found is None or ".." in prefix.split("/") or "//" in prefix:
            raise DeployError(
                "A place of layers is a bucket and a prefix.",
                where=url,
                remedy="Name one such as s3://my-bucket/models-layers/.",
            )
        return cls(found["bucket"], prefix)

    def __str__(self) -> str:
        """Return its URL."""
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True)
class PushedLayer:
    """A layer that is at its place now.

    Attributes
    ----------
    sha256, kind, says
        What it is.
    url
        Where.
    size
        Bytes of the file.
    is_new
        Whether it was uploaded; it was there already otherwise.
    """

    sha256: str
    kind: str
    says: str
    url: str
    size: int
    is_new: bool

    def __str__(self) -> str:
        """Return it as a line."""
        done = f"{size_text(self.size)} uploaded" if self.is_new else "there already"
        return f"layer {short_name(self.sha256)} ({self.kind}: {self.says}): {done}"


def push_layers(
    layers: Sequence[ThinLayer], place: LayerPlace, report: Report
) -> tuple[PushedLayer, ...]:
    """Upload the layers that are not there yet.

    Raises
    ------
    DeployError
        A layer is missing or damaged: then nothing is uploaded. Or there is no such bucket, or S3
        refuses.
    """
    found = [(layer, layer_upload(layer, layer.found(), place.prefix)) for layer in layers]
    settings = Settings()
    with deploy_errors(settings):
        s3 = settings.client("s3", retries={"mode": "standard"})
        try:
            _look_for(s3, place)
            return tuple(_pushed(s3, place, layer, upload, report) for layer, upload in found)
        finally:
            s3.close()


def _pushed(
    s3: Any, place: LayerPlace, layer: ThinLayer, upload: Upload, report: Report
) -> PushedLayer:
    is_new = not _is_there(s3, place.bucket, upload.key)
    if is_new:
        upload.send(s3, place.bucket, report, deployment=None)
    entry, url = layer.entry, f"s3://{place.bucket}/{upload.key}"
    return PushedLayer(entry.sha256, entry.kind, entry.says, url, upload.size, is_new)


def _is_there(s3: Any, bucket: str, key: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        # Who may not list a bucket is told 403 of a key that is not there.
        if is_missing(error) or is_denied(error):
            return False
        raise
    return True


def _look_for(s3: Any, place: LayerPlace) -> None:
    try:
        s3.head_bucket(Bucket=place.bucket)
    except ClientError as error:
        if is_missing(error):
            raise DeployError(
                "The bucket does not exist.",
                where=str(place),
                remedy="Create it, or name another; bucket names are global.",
            ) from error
        if not is_denied(error):  # of a bucket that may only be written to
            raise
