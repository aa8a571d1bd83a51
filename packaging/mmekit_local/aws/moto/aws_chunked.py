"""The content coding ``aws-chunked``: chunks, which may be signed, and trailers.

moto decodes it too, but one of its two ways copies what it has for every chunk, which makes a
100 MB upload take many seconds. Format: AWS's "Signature Calculations for the Authorization
Header: Transferring Payload in Multiple Chunks" (Amazon S3 API Reference).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from mmekit_local.http import Body

if TYPE_CHECKING:
    from mmekit_local.sagemaker.api import ApiRequest, Headers

__all__ = ["decode", "is_chunked"]

_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_TRAILER_BYTES = 16 << 10
_LENGTH = b"x-amz-decoded-content-length"
_REPLACED = frozenset(
    {
        b"content-encoding",
        b"content-length",
        b"x-amz-content-sha256",
        _LENGTH,
        b"x-amz-trailer",
    }
)


def is_chunked(request: ApiRequest) -> bool:
    """Say whether a request's body is in this coding."""
    return (request.header(b"x-amz-content-sha256") or b"").startswith(b"STREAMING-")


def decode(request: ApiRequest) -> ApiRequest:
    """Return the request as it would be without the coding; trailers become headers.

    Raises
    ------
    ValueError
        The body ends early, is not in the coding or has not the length that is said.
    """
    body, trailers = _split(b"".join(request.body))
    length = request.header(_LENGTH)
    if length is not None and length != b"%d" % body.size:
        raise ValueError("the body has another length")
    headers = [header for header in request.headers if header[0] not in _REPLACED]
    headers += [(name, value) for name, value in trailers if name.startswith(b"x-amz-checksum-")]
    headers.append((b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"))
    codings = [
        coding.strip()
        for coding in (request.header(b"content-encoding") or b"").split(b",")
        if coding.strip() not in (b"", b"aws-chunked")
    ]
    if codings:
        headers.append((b"content-encoding", b",".join(codings)))
    return replace(request, headers=headers, body=tuple(body.take()))


def _split(coded: bytes) -> tuple[Body, Headers]:
    view = memoryview(coded)
    body = Body()
    position = 0
    while size := _size_at(coded, position):
        start = coded.index(b"\r\n", position) + 2
        position = start + size
        if coded[position : position + 2] != b"\r\n":
            raise ValueError("a chunk does not end where it says")
        body.add(bytes(view[start:position]))
        position += 2
    position = coded.index(b"\r\n", position) + 2
    if len(coded) - position > _TRAILER_BYTES:
        raise ValueError("the trailers are too long")
    lines = coded[position:].split(b"\r\n")
    trailers = [line.partition(b":") for line in lines if b":" in line]
    return body, [(name.strip().lower(), value.strip()) for name, _, value in trailers]


def _size_at(coded: bytes, position: int) -> int:
    """Return the size of the chunk that begins there, which a semicolon or a line end follows."""
    match = _SIZE.match(coded, position)
    if match is None or coded[match.end() : match.end() + 1] not in (b";", b"\r"):
        raise ValueError("a chunk has no size")
    return int(match[0], 16)
