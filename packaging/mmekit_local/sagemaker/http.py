"""A request and a reply, as they pass between the front and the two planes."""

from __future__ import annotations

import itertools
import random
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from mmekit_local.http import HttpResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Headers", "Reply", "Request", "new_request_id", "response_of"]

Headers = list[tuple[bytes, bytes]]

_REASONS = {status.value: status.phrase for status in HTTPStatus}

# A UUID costs two microseconds and a system call; these are as unique, and differ in their ends.
_FIRST = str(uuid.uuid4())[:24].encode()
_NUMBERS = itertools.count(random.getrandbits(40))


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
    """One HTTP response: a body, or a stream of pieces that go out as they come.

    Content-Length is added on the way out; in the answer to HEAD `headers` may have it. Whatever
    waits in `stream` is cancelled when the client goes away.
    """

    status: int
    headers: Headers
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None


def new_request_id() -> bytes:
    """Return a fresh value for ``x-amzn-RequestId``."""
    return b"%b%012x" % (_FIRST, next(_NUMBERS) & 0xFFFF_FFFF_FFFF)


def response_of(reply: Reply) -> HttpResponse:
    """Return a reply as the server of HTTP takes it."""
    headers = []
    length = None
    for name, value in reply.headers:
        if name == b"content-length":
            length = int(value)
        else:
            headers.append((name.decode("latin-1"), value.decode("latin-1")))
    reason = _REASONS.get(reply.status, "")
    return HttpResponse(reply.status, reason, headers, reply.body, reply.stream, length)
