"""Requests that the service sends to moto itself, as a client would.

So a bucket's own rules, notifications and `--state` hold for what endpoints write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from mmekit_local.sagemaker.api import ApiRequest

if TYPE_CHECKING:
    from mmekit_local.sagemaker.api import Headers
    from mmekit_local.sagemaker.instances.model_source import ObjectAddress
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["notification", "object_put"]

_FORM = b"application/x-www-form-urlencoded; charset=utf-8"


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
    credential = f"endpoint/20260101/{region}/{service}/aws4_request"
    return [
        (b"host", b"localhost"),
        (b"authorization", f"AWS4-HMAC-SHA256 Credential={credential}".encode()),
        (b"x-moto-account-id", account.encode()),
    ]
