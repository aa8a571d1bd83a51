"""An invocation of InvokeEndpointAsync: its request, what became of it, what its topic is told.

Source of the message: AWS's "Check prediction results" in the SageMaker developer guide, which
shows both kinds; ``responseBody`` is there when IncludeInferenceResponseIn asks for it.
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from moto.core.utils import get_service_model

from mmekit_local.sagemaker.aws_client import ObjectAddress, locate
from mmekit_local.sagemaker.control.validation import violations_of
from mmekit_local.sagemaker.errors import validation_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit_local.sagemaker.api import Headers
    from mmekit_local.sagemaker.specification import AsyncSpecification, EndpointId

__all__ = ["AsyncOutcome", "AsyncRequest", "notification_message", "request_of"]

_TTL_S = 21_600
_TIMEOUT_S = 900
_FORWARDED = {  # a member of InvokeEndpointAsync: the header that the container gets
    "ContentType": b"content-type",
    "Accept": b"accept",
    "CustomAttributes": b"x-amzn-sagemaker-custom-attributes",
    "InferenceId": b"x-amzn-sagemaker-inference-id",
}
_ACCEPT_ANY = "*/*"
"""What a container gets of a client that says nothing, as with InvokeEndpoint."""
_MOST_INCLUDED = 128 * 1024
_INTEGER = re.compile(r"[+-]?\d{1,9}")


@dataclass(frozen=True, eq=False)
class AsyncRequest:
    """A request that waits, or that is being answered.

    Attributes
    ----------
    endpoint
        Whose request it is.
    specification
        Of the endpoint when the request came.
    inference_id
        The client's, or one that was made.
    input
        Where the payload is; None for one that came with the request.
    input_url
        The same, as the client wrote it.
    body
        The payload that came with the request.
    headers
        What the container gets.
    output, failure
        Where the answer or the error goes; `failure` may be None.
    ttl, timeout
        How many seconds it may wait, and how many it may be worked on.
    received
        When it came, in seconds of the epoch.
    began
        The same, of a clock that only goes forward.
    """

    endpoint: EndpointId
    specification: AsyncSpecification
    inference_id: str
    input: ObjectAddress | None
    input_url: str
    body: bytes
    headers: Headers
    output: str
    failure: str | None
    ttl: float
    timeout: float
    received: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)

    @property
    def content_type(self) -> str:
        """What the client says that its payload is; "" where it says nothing."""
        found = (value for name, value in self.headers if name == b"content-type")
        return next(found, b"").decode("latin-1")

    @property
    def age(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self.began


def request_of(
    endpoint: EndpointId,
    specification: AsyncSpecification,
    fields: Mapping[bytes, bytes],
    body: bytes,
) -> AsyncRequest:
    """Read a request.

    Parameters
    ----------
    endpoint
        The endpoint that it is for.
    specification
        The endpoint's AsyncInferenceConfig.
    fields
        The request's headers; names are in lower case.
    body
        The request's body.

    Raises
    ------
    AwsError
        It is not as InvokeEndpointAsync wants it.
    """
    members = _members(fields, body)
    if body and "InputLocation" in members:
        raise validation_error("Specify either InputLocation or Body, not both.")
    if not body and "InputLocation" not in members:
        raise validation_error("Specify InputLocation or Body: the request has no payload.")
    try:
        place = locate(members["InputLocation"]) if "InputLocation" in members else None
    except ValueError as error:
        raise validation_error(f"InputLocation: {error}.") from error
    extension = str(members.get("S3OutputPathExtension", "")).strip("/")
    if ".." in extension.split("/"):
        raise validation_error("S3OutputPathExtension must not contain '..'.")
    made = str(uuid.uuid4())
    name = members.get("Filename", f"{made}.out")
    members.setdefault("Accept", _ACCEPT_ANY)
    inference_id = str(members.setdefault("InferenceId", str(uuid.uuid4())))
    return AsyncRequest(
        endpoint=endpoint,
        specification=specification,
        inference_id=inference_id,
        input=place,
        input_url=str(members.get("InputLocation", "")),
        body=body,
        headers=[
            (header, str(members[member]).encode("latin-1"))
            for member, header in _FORWARDED.items()
            if member in members
        ],
        output=_below(specification.output, extension, str(name)),
        failure=_below(specification.failure, f"{made}-error.out")
        if specification.failure
        else None,
        ttl=float(members.get("RequestTTLSeconds", _TTL_S)),
        timeout=float(members.get("InvocationTimeoutSeconds", _TIMEOUT_S)),
    )


def _below(path: str, *names: str) -> str:
    """Return an address in S3 below another."""
    place = locate(path)
    key = "/".join(part for part in (place.key.strip("/"), *names) if part)
    return str(replace(place, key=key))


def _members(fields: Mapping[bytes, bytes], body: bytes) -> dict[str, Any]:
    """Return the members that came in headers; they are as botocore's service model wants them."""
    shape: Any = get_service_model("sagemaker-runtime").operation_model("InvokeEndpointAsync")
    shape = shape.input_shape
    # The name comes in the path; without one here it would be a member that is missing.
    members: dict[str, Any] = {"EndpointName": "checked-by-its-own-plane"}
    for name, member in shape.members.items():
        if member.serialization.get("location") != "header":
            continue
        raw = fields.get(member.serialization["name"].lower().encode())
        if raw is None:
            continue
        text = raw.decode("latin-1")
        if member.type_name == "integer":
            if not _INTEGER.fullmatch(text):
                raise validation_error(f"The value {text!r} of {name} is not an integer.")
            members[name] = int(text)
        else:
            members[name] = text
    violations = violations_of(shape, members)
    # `violations_of` knows no lengths of blobs.
    most = shape.members["Body"].metadata.get("max", 0) if "Body" in shape.members else 0
    if len(body) > most:
        violations = (
            "1 validation error detected: Value at 'body' failed to satisfy constraint: Member "
            f"must have length less than or equal to {most}"
        )
    if violations:
        raise validation_error(violations)
    return members


@dataclass(frozen=True)
class AsyncOutcome:
    """What became of an asynchronous invocation.

    Attributes
    ----------
    body
        The model's answer, or what it said of its error; None when it said nothing.
    content_type
        Of `body`; "" when that is not known.
    failure
        Why it failed; "" when it did not.
    model_microseconds, status
        What the container took, and the status that it answered with; 0 when it was not asked.
    variant
        Who was asked; "" for nobody.
    """

    body: bytes | None = None
    content_type: str = ""
    failure: str = ""
    model_microseconds: float = 0.0
    status: int = 0
    variant: str = ""


def notification_message(request: AsyncRequest, outcome: AsyncOutcome) -> str:
    """Return the message to the topic."""
    asked: dict[str, Any] = {"endpointName": request.endpoint.name}
    if request.content_type:
        asked = {"contentType": request.content_type, **asked}
    if request.input_url:
        asked["inputLocation"] = request.input_url
    message: dict[str, Any] = {
        "awsRegion": request.endpoint.region,
        "eventTime": _moment(time.time()),
        "receivedTime": _moment(request.received),
        "invocationStatus": "Failed" if outcome.failure else "Completed",
    }
    answered: dict[str, Any] = {}
    if outcome.content_type:
        answered["contentType"] = outcome.content_type
    if outcome.failure:
        message["failureReason"] = outcome.failure
        if request.failure is not None:
            answered["outputLocation"] = request.failure
    else:
        answered["outputLocation"] = request.output
    message["requestParameters"] = asked
    if answered:
        message["responseParameters"] = answered
    included = request.specification.error_has_answer
    if not outcome.failure:
        included = request.specification.success_has_answer
    if included and outcome.body is not None:
        message["responseBody"] = _included(outcome.body)
    return json.dumps(
        {
            **message,
            "inferenceId": request.inference_id,
            "eventVersion": "1.0",
            "eventSource": "aws:sagemaker",
            "eventName": "InferenceResult",
        }
    )


def _included(body: bytes) -> dict[str, str]:
    if len(body) > _MOST_INCLUDED:
        return {"message": f"The inference response is larger than {_MOST_INCLUDED} bytes."}
    content = base64.b64encode(body).decode()
    return {
        "message": "The inference response is included.",
        "content": content,
        "encoding": "BASE64",
    }


def _moment(at: float) -> str:
    moment = datetime.fromtimestamp(at, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
