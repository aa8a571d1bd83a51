"""A Lambda function that asks a SageMaker endpoint for a prediction, and says how long it took.

Its event is JSON. Either ``image``, an image in base64, or ``body``, anything else (in base64 where
``isBase64Encoded`` is true, as API Gateway has it; JSON where it is no string) is what the model
gets. An event may also say

======================  =========================================================  ===============
``endpoint``            the endpoint's name                                        ENDPOINT_NAME
``content_type``        what the body is                                           see below
``accept``              what the answer shall be
``target_model``        of a multi-model endpoint
``max_attempts``        how often botocore tries again; 0 for never                MAX_ATTEMPTS
``retry_mode``          standard, adaptive or legacy                               RETRY_MODE
======================  =========================================================  ===============

where the last column names the environment variable that holds otherwise: an image is
``application/x-image``, a body ``application/json``.

The answer has ``prediction`` (JSON where the model answers JSON, else text; base64 with
``isBase64Encoded`` where it is neither), ``content_type``, ``elapsed_time`` in seconds and
``retries``. An error of the endpoint's, such as ThrottlingException, is raised: Lambda tells it to
whoever called. The time-outs are 900 s, Lambda's own limit: botocore's must not come before it.
"""

# ruff: noqa: INP001 - what is in the zip is no package

from __future__ import annotations

import base64
import binascii
import functools
import json
import os
import time
from typing import Any

import boto3
from botocore.config import Config

_TIME_OUT_S = 900
_MODES = ("standard", "adaptive", "legacy")


def handler(event: dict[str, Any], _: object) -> dict[str, Any]:
    """Ask the endpoint.

    Raises
    ------
    ValueError
        The event or a setting makes no sense; says which.
    ClientError
        The endpoint refused, after all retries.
    """
    if not isinstance(event, dict):
        raise ValueError("The event has to be an object with `image` or `body`.")  # noqa: TRY004
    body, content_type = _body(event)
    request = {
        "EndpointName": event.get("endpoint") or os.environ.get("ENDPOINT_NAME"),
        "Body": body,
        "ContentType": event.get("content_type") or content_type,
        "Accept": event.get("accept"),
        "TargetModel": event.get("target_model"),
    }
    if not request["EndpointName"]:
        raise ValueError("Neither the event's `endpoint` nor ENDPOINT_NAME names an endpoint.")
    client = _client(*_retries(event))
    began = time.perf_counter()
    response = client.invoke_endpoint(**{name: value for name, value in request.items() if value})
    answer = response["Body"].read()
    elapsed = time.perf_counter() - began
    answered = response.get("ContentType") or ""
    return {
        **_prediction(answer, answered),
        "content_type": answered,
        "elapsed_time": round(elapsed, 6),
        "retries": response["ResponseMetadata"].get("RetryAttempts", 0),
    }


def _body(event: dict[str, Any]) -> tuple[bytes, str]:
    if "image" in event:
        return _decoded(event["image"], "image"), "application/x-image"
    if "body" not in event:
        raise ValueError("The event has neither `image` nor `body`.")
    body = event["body"]
    if event.get("isBase64Encoded"):
        return _decoded(body, "body"), "application/json"
    return (body if isinstance(body, str) else json.dumps(body)).encode(), "application/json"


def _decoded(text: object, name: str) -> bytes:
    try:
        return base64.b64decode(str(text).partition("base64,")[2] or str(text), validate=True)
    except binascii.Error as error:
        raise ValueError(f"The event's `{name}` is not base64: {error}") from None


def _retries(event: dict[str, Any]) -> tuple[int, Any]:
    attempts = event.get("max_attempts", os.environ.get("MAX_ATTEMPTS", "100"))
    mode = event.get("retry_mode", os.environ.get("RETRY_MODE", "standard"))
    if not str(attempts).isdigit():
        raise ValueError(f"max_attempts is {attempts!r}; it has to be a whole number from 0.")
    if mode not in _MODES:
        raise ValueError(f"retry_mode is {mode!r}; it may be {', '.join(_MODES)}.")
    return int(attempts), mode


@functools.cache
def _client(attempts: int, mode: Any) -> Any:
    """Return a client; the next call in the same execution environment takes it again."""
    config = Config(
        read_timeout=_TIME_OUT_S,
        connect_timeout=_TIME_OUT_S,
        retries={"max_attempts": attempts, "mode": mode},
    )
    return boto3.client("sagemaker-runtime", config=config)


def _prediction(answer: bytes, content_type: str) -> dict[str, Any]:
    try:
        text = answer.decode()
        return {"prediction": json.loads(text) if "json" in content_type else text}
    except ValueError:  # neither UTF-8 nor JSON
        return {"prediction": base64.b64encode(answer).decode(), "isBase64Encoded": True}
