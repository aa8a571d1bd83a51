"""Where target models come from: an address in S3, made of ModelDataUrl and TargetModel."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

__all__ = ["ObjectAddress", "ReadObject", "locate"]

ReadObject = Callable[[str, str], "bytes | None"]
"""Takes a bucket and a key and returns the object's bytes; None when there is no such object."""

# s3.amazonaws.com, s3-REGION.amazonaws.com, s3.REGION.amazonaws.com, with a bucket before or not
_S3_HOST = re.compile(r"(?:(?P<bucket>.+)\.)?s3(?:[.-][a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?")


@dataclass(frozen=True)
class ObjectAddress:
    """An object in S3."""

    bucket: str
    key: str

    def __str__(self) -> str:
        """Return the address as an s3:// URL."""
        return f"s3://{self.bucket}/{self.key}"


def locate(data_url: str, target: str = "") -> ObjectAddress:
    """Join a prefix and a target model, literally, as SageMaker does.

    Source: AWS's "Create a Multi-Model Endpoint" (ModelDataUrl is a prefix, and nothing is put
    between it and the target model).

    Raises
    ------
    ValueError
        `data_url` is not an address in S3.

    Examples
    --------
    >>> str(locate("s3://bucket/models", "/a.tar.gz"))
    's3://bucket/models/a.tar.gz'
    >>> str(locate("https://s3-eu-west-1.amazonaws.com/bucket/models/", "team/a.tar.gz"))
    's3://bucket/models/team/a.tar.gz'
    >>> str(locate("https://bucket.s3.eu-west-1.amazonaws.com/models/", "a.tar.gz"))
    's3://bucket/models/a.tar.gz'
    """
    if data_url.startswith("s3://"):
        bucket, _, prefix = data_url[len("s3://") :].partition("/")
    else:
        parts = urlsplit(data_url)
        host = _S3_HOST.fullmatch(parts.hostname or "")
        if parts.scheme != "https" or host is None:
            raise ValueError(f"{data_url!r} is not an address in S3")
        path = unquote(parts.path).removeprefix("/")
        if host["bucket"]:
            bucket, prefix = host["bucket"], path
        else:
            bucket, _, prefix = path.partition("/")
    if not bucket:
        raise ValueError(f"{data_url!r} names no bucket")
    return ObjectAddress(bucket, prefix + target)
