"""Where moto differs from AWS in ways that matter here, set right: a table of it all, and S3."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.s3.models import FakeBucket
from moto.s3.responses import S3Response

from mmekit_local.aws.moto.cloudwatch import correct_cloudwatch
from mmekit_local.aws.moto.identities import correct_identities
from mmekit_local.aws.moto.sagemaker_corrections import correct_sagemaker

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MOTO", "Correction", "correct_moto"]

_ORIGINAL = "_mmekit_put_bucket"


@dataclass(frozen=True)
class Correction:
    """Something that moto does otherwise than AWS, and that is set right here.

    Attributes
    ----------
    subject
        What it is about.
    moto
        What moto does with it. tests/mmekit_local/endpoint/test_moto_itself.py asks moto without
        these corrections: when a newer one answers as AWS does, the correction can go.
    seen
        The last version that was seen to do it.
    """

    subject: str
    moto: str
    seen: str = "5.2.5"


MOTO = (
    Correction(
        "instance types",
        "refuses ml.m6i.large, ml.g5.xlarge and others: its list is of 2020",
    ),
    Correction(
        "models listed",
        "ignores NameContains, MaxResults, SortBy and NextToken of ListModels",
    ),
    Correction(
        "newest first",
        "lists the oldest endpoints and configs first where nobody names an order",
    ),
    Correction(
        "empty members",
        "describes what was not given as empty: VpcConfig {}, Containers []",
    ),
    Correction(
        "network isolation",
        "forgets EnableNetworkIsolation of CreateModel",
    ),
    Correction(
        "tags of the same key",
        "keeps both",
    ),
    Correction(
        "the ARN of nothing",
        "fails with 500 when it is asked for the tags of an ARN that nothing has",
    ),
    Correction(
        "shadow variants",
        "forgets ShadowProductionVariants and MetricsConfig of CreateEndpointConfig",
    ),
    Correction(
        "deployment config",
        "forgets DeploymentConfig of CreateEndpoint",
    ),
    Correction(
        "status of a model package",
        "gives none, and an update that names neither clears status and description",
    ),
    Correction(
        "a policy with a condition",
        "takes each condition for met: a Deny of plain HTTP shuts the bucket",
    ),
    Correction(
        "tags of a new bucket",
        "forgets the tags that CreateBucket names",
    ),
    Correction(
        "percentiles",
        "has none: a data point without a value, and a GetMetricData that fails",
    ),
    Correction(
        "namespace of a metric",
        "does not look at it in GetMetricData where there are dimensions",
    ),
    Correction(
        "who am I",
        "says user/moto, of which SageMaker's SDKs make no role",
    ),
    Correction(
        "the role of who am I",
        "does not know it",
    ),
    Correction(
        "code of a function",
        "takes bytes that are no zip, and a key that is not there",
    ),
    Correction(
        "running a function",
        "asks Docker, and answers 'error running docker' where there is none",
    ),
    # Not by a question to a client, but read in its sources:
    Correction(
        "chance and clock",
        "draws other identifiers and dates at each replay: state.recorder",
    ),
    Correction(
        "completing an upload",
        "forgets the upload before it is completed: state.rollback",
    ),
    Correction(
        "expressions of metrics",
        "computes some by itself, and wrongly, in GetMetricData",
    ),
    Correction(
        "pages of other sites",
        "lets them read every answer: services",
    ),
)
"""All corrections, of moto 5.1.22 to 5.2.5; pyproject.toml lets in what has been tried."""


def correct_moto() -> None:
    """Set right what differs, but for functions (`Functions` does); a second time does no harm."""
    correct_sagemaker()
    correct_cloudwatch()
    correct_identities()
    _correct_buckets()


def _correct_buckets() -> None:
    """Set right what differs; a second time does no harm."""
    setattr(FakeBucket, "get_permission", _get_permission)  # noqa: B010
    if not hasattr(S3Response, _ORIGINAL):
        setattr(S3Response, _ORIGINAL, S3Response._bucket_response_put)  # noqa: SLF001
        setattr(S3Response, "_bucket_response_put", _put_bucket)  # noqa: B010


def _get_permission(bucket: FakeBucket, action: str, resource: str) -> Any:
    """Leave out statements with a condition: moto knows no request's values, and would deny.

    A policy that refuses plain HTTP (aws:SecureTransport) would shut the bucket altogether, and
    this port is plain HTTP on loopback.
    """
    if bucket.policy is None:
        return PermissionResult.NEUTRAL
    statements = json.loads(bucket.policy)["Statement"]
    listed = statements if isinstance(statements, list) else [statements]
    unconditional = [one for one in listed if not one.get("Condition")]
    return IAMPolicy(json.dumps({"Statement": unconditional})).is_action_permitted(action, resource)


def _put_bucket(
    response: Any, request: Any, bucket_name: str, querystring: Mapping[str, Any]
) -> Any:
    """Give a new bucket the tags that CreateBucket names: moto has not heard of them."""
    tags = _tags(response.body) if not querystring else {}
    # Before moto answers: S3 of us-east-1 makes one's own bucket a second time, with 200.
    is_new = bucket_name not in response.backend.buckets
    answer = getattr(response, _ORIGINAL)(request, bucket_name, querystring)
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
