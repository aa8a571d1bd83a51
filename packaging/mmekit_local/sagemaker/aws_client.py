"""What SageMaker's side asks of the rest of AWS: S3, SNS, CloudWatch, and addresses in S3.

Requests that the service makes itself go the way of a client's, so a bucket's own rules,
notifications and `--state` hold for what endpoints write.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, unquote, urlencode, urlsplit

from mmekit_local.sagemaker.api import ApiRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit_local.sagemaker.api import ApiReply, Headers
    from mmekit_local.sagemaker.observability.observations import Observation
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = [
    "AwsClient",
    "ObjectAddress",
    "ReadObject",
    "locate",
    "notification",
    "object_put",
]

_FORM = b"application/x-www-form-urlencoded; charset=utf-8"

ReadObject = Callable[[str, str], "bytes | None"]
"""Takes a bucket and a key and returns the object's bytes; None when there is no such object."""

# s3.amazonaws.com, s3-REGION.amazonaws.com, s3.REGION.amazonaws.com, with a bucket before or not
_S3_HOST = re.compile(r"(?:(?P<bucket>.+)\.)?s3(?:[.-][a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?")


class AwsClient(Protocol):
    """The rest of AWS: the seam at which whatever plays it plugs in."""

    @property
    def is_replaying(self) -> bool:
        """Whether what a state folder holds is being played back."""
        ...

    async def answer(self, request: ApiRequest) -> ApiReply:
        """Answer a request of whoever signed it."""
        ...

    async def keep(self, request: ApiRequest) -> None:
        """Write down a request that is answered elsewhere, where changes are written down.

        Raises
        ------
        AwsError
            There is no room for it.
        """
        ...

    def read_object(self, account: str, region: str, bucket: str, key: str) -> bytes | None:
        """Return an S3 object's bytes, or None when there is no such object. Blocks."""
        ...

    def keys(self, account: str, region: str, place: ObjectAddress) -> list[str]:
        """Return the keys of a bucket's objects that begin with `place.key`."""
        ...

    def put_metrics(
        self, account: str, region: str, namespace: str, observations: Sequence[Observation]
    ) -> None:
        """Add observations to CloudWatch."""
        ...


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


def object_put(
    endpoint: EndpointId, place: ObjectAddress, content: bytes, headers: Headers
) -> ApiRequest:
    """Return a PutObject of an endpoint's; `headers` are those that describe the object."""
    path = quote(f"/{place.bucket}/{place.key}").encode()
    signed = _signed(endpoint.account, endpoint.region, "s3")
    return ApiRequest("PUT", path, b"", [*signed, *headers], (content,))


def notification(topic: str, message: str) -> ApiRequest:
    """Return a Publish to a topic, which is named by its ARN."""
    _, _, _, region, account, _ = topic.split(":", 5)
    form = {"Action": "Publish", "Version": "2010-03-31", "TopicArn": topic, "Message": message}
    headers = [*_signed(account, region, "sns"), (b"content-type", _FORM)]
    return ApiRequest("POST", b"/", b"", headers, (urlencode(form).encode(),))


def _signed(account: str, region: str, service: str) -> Headers:
    # Nobody verifies it, so any key and date will do; moto takes the account from its own header.
    credential = f"endpoint/20260101/{region}/{service}/aws4_request"
    return [
        (b"host", b"localhost"),
        (b"authorization", f"AWS4-HMAC-SHA256 Credential={credential}".encode()),
        (b"x-moto-account-id", account.encode()),
    ]
