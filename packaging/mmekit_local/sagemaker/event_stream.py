"""Messages of `application/vnd.amazon.eventstream`, of which response streams are made.

Sources: botocore's service model of sagemaker-runtime (PayloadPart, ModelStreamError) and its
`botocore.eventstream`, which reads the same.
"""

from __future__ import annotations

import json
import struct
import zlib

__all__ = ["CONTENT_TYPE", "error_event", "payload_event"]

CONTENT_TYPE = b"application/vnd.amazon.eventstream"
_STRING = 7
_SUMS = 16
"""Bytes of a message that are neither headers nor payload: two lengths and two checksums."""


def payload_event(piece: bytes) -> bytes:
    """Return a PayloadPart."""
    headers = _headers(
        (":message-type", "event"),
        (":event-type", "PayloadPart"),
        (":content-type", "application/octet-stream"),
    )
    return _message(headers, piece)


def error_event(kind: str, message: str, code: str = "") -> bytes:
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
