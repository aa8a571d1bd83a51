"""The errors that clients of the endpoint see, in the shapes that botocore expects.

These are answers, not failures of mmekit, so they are no part of `mmekit.errors`. Shapes:
botocore's service models ``sagemaker-runtime`` (rest-json) and ``sagemaker`` (json 1.1).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.api import ApiReply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit_local.sagemaker.specification import EndpointId

__all__ = [
    "AwsError",
    "access_denied",
    "control_reply",
    "internal_failure",
    "invocation_timed_out",
    "model_error",
    "model_not_ready",
    "runtime_reply",
    "service_unavailable",
    "throttled",
    "unknown_region",
    "unsigned",
    "validation_error",
    "validation_exception",
]

_LAST_CLIENT_ERROR = 499


class AwsError(Exception):
    """An error as a client of AWS sees it.

    Parameters
    ----------
    status
        The HTTP status.
    code
        The error's name in botocore's service model.
    message
        The sentence that the client reads.
    members
        Further members of the error's shape.
    """

    def __init__(
        self, status: int, code: str, message: str, members: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.members = dict(members or {})


def validation_error(message: str) -> AwsError:
    """Return the data plane's error for a request that cannot be served as it is."""
    return AwsError(400, "ValidationError", message)


def validation_exception(message: str) -> AwsError:
    """Return the control plane's error for a request that cannot be served as it is."""
    return AwsError(400, "ValidationException", message)


def resource_limit_exceeded(what: str, most: int, current: int, wanted: int) -> AwsError:
    """Return the control plane's error for more instances than a quota allows."""
    return AwsError(
        400,
        "ResourceLimitExceeded",
        f"The account-level service limit '{what}' is {most} Instances, with current utilization "
        f"of {current} Instances and a request delta of {wanted - current} Instances. Please use "
        "AWS Service Quotas to request an increase for this quota. If AWS Service Quotas is not "
        "available, contact AWS support to request an increase for this quota.",
    )


def unknown_region() -> AwsError:
    """Return the error for a signature whose region is none."""
    return AwsError(
        403, "InvalidSignatureException", "Credential should be scoped to a valid region."
    )


def unsigned() -> AwsError:
    """Return the error for a request without a signature."""
    return AwsError(403, "MissingAuthenticationTokenException", "Missing Authentication Token")


def access_denied(message: str) -> AwsError:
    """Return the error for whom nobody hears."""
    return AwsError(403, "AccessDeniedException", message)


def service_unavailable(message: str) -> AwsError:
    """Return the error for an endpoint that has nobody to serve a request."""
    return AwsError(503, "ServiceUnavailable", message)


def throttled() -> AwsError:
    """Return the error for a request beyond the MaxConcurrency of a serverless variant."""
    return AwsError(400, "ThrottlingException", "Rate exceeded")


def internal_failure(message: str) -> AwsError:
    """Return the error for a mistake of our own."""
    return AwsError(500, "InternalFailure", message)


def model_not_ready(endpoint: EndpointId, variant: str) -> AwsError:
    """Return the error for a model whose first load takes longer than a call may."""
    return AwsError(
        429,
        "ModelNotReadyException",
        f"Model for endpoint {endpoint.name} variant {variant} is not ready for inference yet.",
    )


def model_error(endpoint: EndpointId, status: int, answer: str) -> AwsError:
    """Return the error for a container's 4xx or 5xx.

    Parameters
    ----------
    endpoint
        The endpoint, for the place of its log.
    status
        The container's HTTP status; 0 when it gave no answer.
    answer
        The body of the container's answer.
    """
    side = "client" if 0 < status <= _LAST_CLIENT_ERROR else "server"
    group = f"/aws/sagemaker/Endpoints/{endpoint.name}"
    region, account = endpoint.region, endpoint.account
    return AwsError(
        424,
        "ModelError",
        f'Received {side} error ({status}) from model with message "{answer}". '
        f"See https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
        f"#logEventViewer:group={group} in account {account} for more information.",
        {
            "OriginalStatusCode": status,
            "OriginalMessage": answer,
            "LogStreamArn": f"arn:aws:logs:{region}:{account}:log-group:{group}",
        },
    )


def invocation_timed_out(endpoint: EndpointId) -> AwsError:
    """Return the error for a container that does not answer an invocation in time."""
    return model_error(
        endpoint,
        0,
        "Your invocation timed out while waiting for a response from container model. Review the "
        "latency metrics for each container in Amazon CloudWatch, resolve the issue, and try "
        "again.",
    )


def runtime_reply(error: AwsError, request_id: bytes) -> ApiReply:
    """Return an error as the data plane sends it (rest-json)."""
    # The error's shape says Message, and botocore looks for message first.
    body = {"Message": error.message, "message": error.message, **error.members}
    return ApiReply(
        error.status,
        [
            (b"content-type", b"application/json"),
            (b"x-amzn-errortype", error.code.encode()),
            (b"x-amzn-requestid", request_id),
        ],
        json.dumps(body).encode(),
    )


def control_reply(error: AwsError, request_id: bytes) -> ApiReply:
    """Return an error as the control plane sends it (json 1.1)."""
    body = {"__type": error.code, "message": error.message, **error.members}
    return ApiReply(
        error.status,
        [(b"content-type", b"application/x-amz-json-1.1"), (b"x-amzn-requestid", request_id)],
        json.dumps(body).encode(),
    )
