"""Where moto's buckets differ from S3's in ways that matter here, set right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.s3.models import FakeBucket
from moto.s3.responses import S3Response

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["correct_buckets"]

_MOTOS = "_mmekit_put_bucket"


def correct_buckets() -> None:
    """Set right what differs; a second time does no harm."""
    setattr(FakeBucket, "get_permission", _permission)  # noqa: B010
    if not hasattr(S3Response, _MOTOS):
        setattr(S3Response, _MOTOS, S3Response._bucket_response_put)  # noqa: SLF001
        setattr(S3Response, "_bucket_response_put", _put_bucket)  # noqa: B010


def _permission(bucket: FakeBucket, action: str, resource: str) -> Any:
    """Leave out statements with a condition: moto knows no request's values, and would deny.

    A policy that refuses plain HTTP (aws:SecureTransport) would shut the bucket altogether, and
    this port is plain HTTP on loopback.
    """
    if bucket.policy is None:
        return PermissionResult.NEUTRAL
    statements = json.loads(bucket.policy)["Statement"]
    listed = statements if isinstance(statements, list) else [statements]
    heeded = [one for one in listed if not one.get("Condition")]
    return IAMPolicy(json.dumps({"Statement": heeded})).is_action_permitted(action, resource)


def _put_bucket(
    response: Any, request: Any, bucket_name: str, querystring: Mapping[str, Any]
) -> Any:
    """Give a new bucket the tags that CreateBucket names: moto has not heard of them."""
    tags = _tags(response.body) if not querystring else {}
    is_new = bucket_name not in response.backend.buckets
    answer = getattr(response, _MOTOS)(request, bucket_name, querystring)
    if tags and is_new:
        response.backend.put_bucket_tagging(bucket_name, tags)
    return answer


def _tags(body: Any) -> dict[str, str]:
    if not body:
        return {}
    try:
        root = ET.fromstring(body)  # noqa: S314 - no more than moto itself does with it
    except ET.ParseError:
        return {}
    return {
        tag.findtext("{*}Key") or "": tag.findtext("{*}Value") or ""
        for tag in root.findall("{*}Tags/{*}Tag")
    }
