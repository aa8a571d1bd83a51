"""Data capture: invocations as JSON lines in S3, when DataCaptureConfig asks for it.

Keys and format: AWS's "Capture data from real-time endpoint" in the SageMaker developer guide.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol

from mmekit_local.sagemaker.aws_client import locate, object_put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit_local.sagemaker.aws_client import AwsClient
    from mmekit_local.sagemaker.specification import (
        CaptureSpecification,
        EndpointId,
        EndpointSpecification,
    )

__all__ = ["CapturedReply", "DataCapture", "EndpointCapture"]

logger = logging.getLogger("mmekit.endpoint")

_WAITING_BYTES = 64 * 1024 * 1024  # of bodies between two flushes; beyond, nothing is captured
_FORMER = 2  # fleets of an endpoint that may still be draining
_CUSTOM_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
_INFERENCE_ID = b"x-amzn-sagemaker-inference-id"
_FIRST_ERROR = 400
_UNTYPED = b"application/octet-stream"


class CapturedReply(Protocol):
    """A container's answer, as far as it is captured."""

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """Its headers; names are in lower case."""
        ...

    @property
    def body(self) -> bytes:
        """Its body."""
        ...


@dataclass(frozen=True)
class _CapturedInvocation:
    """A request and its answer, as they will be written."""

    at: float
    id: str
    variant: str
    request: Mapping[bytes, bytes]
    body: bytes
    reply: CapturedReply

    @property
    def size(self) -> int:
        return len(self.body) + len(self.reply.body)


class EndpointCapture:
    """What is captured at one endpoint."""

    def __init__(self, endpoint: EndpointId, specification: CaptureSpecification) -> None:
        self.endpoint = endpoint
        self._specification = specification
        self._share = specification.percentage / 100.0
        self._csv = _lowered(specification.csv_types)
        self._json = _lowered(specification.json_types)
        self._waiting: list[_CapturedInvocation] = []
        self._waiting_bytes = 0

    def add(
        self,
        variant: str,
        request: Mapping[bytes, bytes],
        body: bytes,
        reply: CapturedReply,
        request_id: bytes,
    ) -> None:
        """Keep an invocation for the next flush, if it is among those to be captured.

        Parameters
        ----------
        variant
            Who answered.
        request
            The request's headers, names in lower case.
        body
            The request's body.
        reply
            The container's answer.
        request_id
            Becomes the event's id.
        """
        if random.random() >= self._share:  # noqa: S311 - this is no cryptography
            return
        invocation = _CapturedInvocation(
            time.time(), request_id.decode(), variant, request, body, reply
        )
        if self._waiting_bytes + invocation.size <= _WAITING_BYTES:
            self._waiting_bytes += invocation.size
            self._waiting.append(invocation)

    def take(self) -> list[_CapturedInvocation]:
        """Return what waits, and begin anew."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return waiting

    def files_of(self, captured: list[_CapturedInvocation]) -> dict[str, bytes]:
        """Return invocations as files by their s3:// addresses, one a variant and hour.

        It may run in a thread: it changes nothing.
        """
        files: dict[str, list[_CapturedInvocation]] = {}
        for invocation in captured:
            hour = datetime.fromtimestamp(invocation.at, timezone.utc).strftime("%Y/%m/%d/%H")
            files.setdefault(f"{invocation.variant}/{hour}", []).append(invocation)
        prefix = f"{self._specification.destination.rstrip('/')}/{self.endpoint.name}"
        return {
            f"{prefix}/{folder}/{_file_name(invocations[0].at)}": self._lines(invocations)
            for folder, invocations in files.items()
        }

    def _lines(self, invocations: list[_CapturedInvocation]) -> bytes:
        lines = (json.dumps(self._record(one), separators=(",", ":")) for one in invocations)
        return "".join(f"{line}\n" for line in lines).encode()

    def _record(self, invocation: _CapturedInvocation) -> dict[str, object]:
        request, reply = invocation.request, invocation.reply
        data: dict[str, object] = {}
        if self._specification.captures_input:
            content_type = request.get(b"content-type", _UNTYPED)
            data["endpointInput"] = self._part("INPUT", content_type, invocation.body)
        if self._specification.captures_output:
            content_type = reply.headers.get(b"content-type", _UNTYPED)
            data["endpointOutput"] = self._part("OUTPUT", content_type, bytes(reply.body))
        metadata: dict[str, object] = {"eventId": invocation.id}
        if _CUSTOM_ATTRIBUTES in request:
            metadata["customAttributes"] = [request[_CUSTOM_ATTRIBUTES].decode("latin-1")]
        if _INFERENCE_ID in request:
            metadata["inferenceId"] = request[_INFERENCE_ID].decode("latin-1")
        at = datetime.fromtimestamp(invocation.at, timezone.utc)
        metadata["inferenceTime"] = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"captureData": data, "eventMetadata": metadata, "eventVersion": "0"}

    def _part(self, mode: str, raw_type: bytes, body: bytes) -> dict[str, str]:
        content_type = raw_type.decode("latin-1")
        encoding = self._encoding(content_type)
        try:
            data = body.decode() if encoding != "BASE64" else ""
        except UnicodeDecodeError:
            encoding = "BASE64"
        if encoding == "BASE64":
            data = base64.b64encode(body).decode()
        return {
            "observedContentType": content_type,
            "mode": mode,
            "data": data,
            "encoding": encoding,
        }

    def _encoding(self, content_type: str) -> str:
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type in self._csv:
            return "CSV"
        return "JSON" if media_type in self._json else "BASE64"


class DataCapture:
    """The captures of all endpoints.

    Parameters
    ----------
    aws
        Has the buckets.
    """

    def __init__(self, aws: AwsClient) -> None:
        self._aws = aws
        self._warned: set[str] = set()
        self._captures: dict[EndpointId, list[EndpointCapture]] = {}
        self._gone: set[EndpointId] = set()

    def of(self, specification: EndpointSpecification) -> EndpointCapture | None:
        """Return where a fleet's invocations are captured; None when they are not.

        An endpoint's former fleet goes on capturing into its own until it has drained.
        """
        if specification.capture is None:
            return None
        capture = EndpointCapture(specification.id, specification.capture)
        former = self._captures.get(specification.id, [])
        self._captures[specification.id] = [*former[-_FORMER:], capture]
        self._gone.discard(specification.id)
        return capture

    def forget(self, endpoint: EndpointId) -> None:
        """Let go of an endpoint that is gone, once what was captured is written."""
        self._gone.add(endpoint)
        self._warned.discard(endpoint.name)

    async def flush(self) -> None:
        """Write to S3 what was captured since the last time."""
        for endpoint, captures in tuple(self._captures.items()):
            if endpoint in self._gone:
                self._gone.discard(endpoint)
                del self._captures[endpoint]
            for capture in captures:
                captured = capture.take()
                if not captured:
                    continue
                # In a thread: up to 64 MiB become base64 and JSON.
                files = await asyncio.to_thread(capture.files_of, captured)
                for address, content in files.items():
                    await self._write(capture.endpoint, address, content)

    async def _write(self, endpoint: EndpointId, address: str, content: bytes) -> None:
        """Put an object as a client would, so that the bucket's own rules and --state hold."""
        try:
            place = locate(address)
        except ValueError as error:
            self._warn_once(endpoint, str(error))
            return
        kind = [(b"content-type", b"application/jsonlines")]
        reply = await self._aws.answer(object_put(endpoint, place, content, kind))
        if reply.status >= _FIRST_ERROR:
            self._warn_once(endpoint, f"{address}: {reply.body.decode('utf-8', 'replace')}")

    def _warn_once(self, endpoint: EndpointId, reason: str) -> None:
        if endpoint.name not in self._warned:  # each second would be too often
            self._warned.add(endpoint.name)
            logger.warning("endpoint %s: data cannot be captured: %s", endpoint.name, reason)


def _file_name(at: float) -> str:
    moment = datetime.fromtimestamp(at, timezone.utc)
    return f"{moment:%M-%S}-{moment.microsecond // 1000:03d}-{uuid.uuid4()}.jsonl"


def _lowered(types: tuple[str, ...]) -> frozenset[str]:
    return frozenset(content_type.lower() for content_type in types)
