"""InvokeEndpointWithResponseStream: a container's answer goes on to the client piece by piece.

It is wrapped in messages of `application/vnd.amazon.eventstream`. Sources: botocore's service model
of sagemaker-runtime (PayloadPart, ModelStreamError) and its `botocore.eventstream`, which reads
the same.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.instances.container_connection import (
    ContainerSilentError,
    ContainerTimeoutError,
)

if TYPE_CHECKING:
    import contextlib
    from collections.abc import AsyncIterator

    from mmekit_local.sagemaker.instances.container_connection import StreamedReply
    from mmekit_local.sagemaker.instances.variant import Variant

__all__ = ["CONTENT_TYPE", "ResponseStream"]

CONTENT_TYPE = b"application/vnd.amazon.eventstream"
_STRING = 7
_SUMS = 16
"""Bytes of a message that are neither headers nor payload: two lengths and two checksums."""
_OK = 200


class ResponseStream:
    """The events of one answer; it may be left at any moment.

    Parameters
    ----------
    variant
        Who answers.
    reply
        The container's answer, of which the head is there.
    held
        What is let go of at the end: the connection to the container, a place at the instance.
    began
        When the request came, by `time.perf_counter`.
    """

    def __init__(
        self,
        variant: Variant,
        reply: StreamedReply,
        held: contextlib.AsyncExitStack,
        began: float,
    ) -> None:
        self._variant = variant
        self._reply = reply
        self._held = held
        self._began = began
        self._sent_anything = False
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next event."""
        if self._ended:
            raise StopAsyncIteration
        try:
            piece = await self._reply.next_piece()
        except ContainerTimeoutError:
            return await self._broken(
                "The model failed to finish sending its response within the time that is allowed.",
                "ModelInvocationTimeExceeded",
            )
        except ContainerSilentError as error:
            return await self._broken(f"The model's response broke off: {error}.", "StreamBroken")
        if not piece:
            await self._end(by_model=True)
            raise StopAsyncIteration
        if not self._sent_anything:
            self._sent_anything = True
            total = (time.perf_counter() - self._began) * 1e6
            self._variant.metrics.streamed(self._reply.microseconds, total)
        return _payload_event(piece)

    async def aclose(self) -> None:
        """End: nobody reads any more."""
        if not self._ended:
            await self._end(by_model=False)

    async def _broken(self, message: str, code: str) -> bytes:
        self._variant.metrics.mid_stream_errors.count += 1
        await self._end(by_model=True)
        return _error_event("ModelStreamError", message, code)

    async def _end(self, *, by_model: bool) -> None:
        self._ended = True
        total = (time.perf_counter() - self._began) * 1e6
        took = min(self._reply.microseconds, total)
        # 200 even where it broke off: the head has gone out, and MidStreamErrors counts the rest.
        metrics = self._variant.metrics
        metrics.invoked(_OK, took, total, by_model=by_model)
        metrics.targets.asked("", total, failed=False)
        await self._held.aclose()


def _payload_event(piece: bytes) -> bytes:
    """Return a PayloadPart."""
    headers = _headers(
        (":message-type", "event"),
        (":event-type", "PayloadPart"),
        (":content-type", "application/octet-stream"),
    )
    return _message(headers, piece)


def _error_event(kind: str, message: str, code: str = "") -> bytes:
    """Return an exception, after which a stream ends: ModelStreamError, InternalStreamFailure."""
    headers = _headers(
        (":message-type", "exception"),
        (":exception-type", kind),
        (":content-type", "application/json"),
    )
    members = {"Message": message, "message": message}
    if code:
        members["ErrorCode"] = code
    return _message(headers, json.dumps(members).encode())


def _headers(*pairs: tuple[str, str]) -> bytes:
    written = b""
    for name, value in pairs:
        written += bytes([len(name)]) + name.encode() + bytes([_STRING])
        written += struct.pack("!H", len(value)) + value.encode()
    return written


def _message(headers: bytes, payload: bytes) -> bytes:
    prelude = struct.pack("!II", len(headers) + len(payload) + _SUMS, len(headers))
    prelude += struct.pack("!I", zlib.crc32(prelude))
    message = prelude + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))
