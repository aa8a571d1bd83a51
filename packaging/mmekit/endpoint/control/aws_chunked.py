"""The content coding ``aws-chunked``: chunks, which may be signed, and trailers.

moto decodes it too, but one of its two ways copies what it has for every chunk, which makes a
100 MB upload take many seconds. Format: AWS's "Signature Calculations for the Authorization
Header: Transferring Payload in Multiple Chunks" (Amazon S3 API Reference).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmekit.endpoint.http import Headers, Request

__all__ = ["decode", "is_chunked"]

_REPLACED = frozenset(
    {
        b"content-encoding",
        b"content-length",
        b"x-amz-content-sha256",
        b"x-amz-decoded-content-length",
        b"x-amz-trailer",
    }
)


def is_chunked(request: Request) -> bool:
    """Say whether a request's body is in this coding."""
    return (request.header(b"x-amz-content-sha256") or b"").startswith(b"STREAMING-")


def decode(request: Request) -> Request:
    """Return the request as it would be without the coding; trailers become headers.

    Raises
    ------
    ValueError
        The body ends early or is not in the coding.
    """
    body, trailers = _split(b"".join(request.body))
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
    return replace(request, headers=headers, body=(body,))


def _split(coded: bytes) -> tuple[bytes, Headers]:
    view = memoryview(coded)
    chunks: list[memoryview] = []
    position = 0
    while True:
        end = coded.index(b"\r\n", position)
        size = int(coded[position:end].partition(b";")[0], 16)
        position = end + 2
        if size == 0:
            break
        if position + size > len(coded):
            raise ValueError("the body ends inside a chunk")
        chunks.append(view[position : position + size])
        position += size + 2  # the chunk's data ends with CR LF
    lines = coded[position:].split(b"\r\n")
    trailers = [line.partition(b":") for line in lines if b":" in line]
    return b"".join(chunks), [(name.strip().lower(), value.strip()) for name, _, value in trailers]
