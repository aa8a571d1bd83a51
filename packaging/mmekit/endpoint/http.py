"""A request and a reply, as they pass between the front and the two planes."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Headers",
    "Receive",
    "Reply",
    "Request",
    "Scope",
    "Send",
    "new_request_id",
    "read_body",
    "send_reply",
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_SLICE = 256 * 1024  # of a large body, so that a slow client's back pressure is felt


@dataclass(frozen=True)
class Request:
    """One HTTP request, read to its end.

    ``path`` and ``query`` are as the client sent them, still percent-encoded; header names are
    in lower case. ``body`` is in the pieces in which it came, so that a large upload is joined
    in a worker thread and not on the event loop.
    """

    method: str
    path: bytes
    query: bytes
    headers: Headers
    body: tuple[bytes, ...] = ()
    server: tuple[str, int] = ("127.0.0.1", 80)
    client: tuple[str, int] = ("127.0.0.1", 0)

    def header(self, name: bytes) -> bytes | None:
        """Return a header's (first) value; `name` in lower case."""
        return next((value for known, value in self.headers if known == name), None)


@dataclass(frozen=True)
class Reply:
    """One HTTP response; its Content-Length is added on the way out unless `headers` has it."""

    status: int
    headers: Headers
    body: bytes = b""


def new_request_id() -> bytes:
    """Return a fresh value for ``x-amzn-RequestId``."""
    return str(uuid.uuid4()).encode()


async def read_body(receive: Receive, limit: int | None = None) -> tuple[bytes, ...] | None:
    """Read a request's body to its end, in pieces.

    Returns None when it is longer than `limit` bytes. The surplus is read all the same, and
    thrown away: a client that is still sending would otherwise see a broken pipe, not the answer.
    """
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if limit is not None and size > limit:
            pieces.clear()
        elif piece:
            pieces.append(piece)
        if not message.get("more_body", False):
            break
    if limit is not None and size > limit:
        return None
    return tuple(pieces)


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a reply through ASGI."""
    headers = reply.headers
    if not any(name == b"content-length" for name, _ in headers):
        headers = [*headers, (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = reply.body
    if len(body) <= _SLICE:
        await send({"type": "http.response.body", "body": body})
        return
    view = memoryview(body)
    for start in range(0, len(body), _SLICE):
        piece = bytes(view[start : start + _SLICE])
        more = start + _SLICE < len(body)
        await send({"type": "http.response.body", "body": piece, "more_body": more})
