"""What a topic is told of an asynchronous invocation.

Source: AWS's "Check prediction results" in the SageMaker developer guide, which shows both
messages; ``responseBody`` is there when IncludeInferenceResponseIn asks for it.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmekit_local.sagemaker.asynchronous.request import AsyncRequest

__all__ = ["Outcome", "notice_of"]

_MOST_INCLUDED = 128 * 1024


@dataclass(frozen=True)
class Outcome:
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


def notice_of(request: AsyncRequest, outcome: Outcome) -> str:
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
