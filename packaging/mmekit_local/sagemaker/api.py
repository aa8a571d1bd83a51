"""A request to AWS's API and its reply, as they pass between the front and the planes."""

from __future__ import annotations

import itertools
import random
import re
import uuid
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, parse_qsl

from mmekit_local.http import HttpResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = [
    "ApiReply",
    "ApiRequest",
    "Caller",
    "Headers",
    "caller_of",
    "caller_of_request",
    "new_request_id",
    "operation_of",
    "operations_of",
    "response_of",
]

Headers = list[tuple[bytes, bytes]]

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_ACTION_NAME = re.compile(rb'name="?Action"?')
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LINE = re.compile(rb"[^\r\n]*")

# A UUID costs two microseconds and a system call; these are as unique, and differ in their ends.
_FIRST = str(uuid.uuid4())[:24].encode()
_NUMBERS = itertools.count(random.getrandbits(40))


@dataclass(frozen=True)
class ApiRequest:
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
class ApiReply:
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


def response_of(reply: ApiReply) -> HttpResponse:
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


class Caller(NamedTuple):
    """Account, region and service that a signature (AWS Signature Version 4) speaks for."""

    account: str
    region: str
    service: str


def caller_of(authorization: bytes | None) -> Caller | None:
    """Return the caller that an Authorization header names, or None when it names none.

    The signature itself is not verified: on loopback there is nobody to keep out, and moto
    does not do it either.
    """
    if authorization is None:
        return None
    # Without the signature, which is another at each request: the rest can be cached.
    return _caller_of_scope(authorization.partition(b",")[0])


@lru_cache(maxsize=1024)
def _caller_of_scope(scope: bytes) -> Caller | None:
    # AWS4-HMAC-SHA256 Credential=<access key>/<date>/<region>/<service>/aws4_request
    _, found, credential = scope.decode("latin-1").partition("Credential=")
    parts = credential.strip().split("/")
    if not found or len(parts) != 5:  # noqa: PLR2004 - the five parts shown above
        return None
    access_key, _, region, service, _ = parts

    # Here: a command that only wants the names of this module need not wait for moto.
    from moto.iam.models import get_account_id_from

    return Caller(get_account_id_from(access_key), region, service.lower())


def caller_of_request(request: ApiRequest) -> Caller | None:
    """Return who signed a request, in its header or, as a presigned URL does, in its query."""
    caller = caller_of(request.header(b"authorization"))
    if caller is None and b"credential=" in request.query.lower():
        credential = next(
            (
                value
                for name, value in parse_qsl(request.query.decode("latin-1"))
                if name.lower() == "x-amz-credential"
            ),
            "",
        )
        caller = caller_of(b"Credential=" + credential.encode())
    return caller


def operation_of(request: ApiRequest) -> str:
    """Return the operation that a request names, in its header or its form; "" for S3's."""
    return next(iter(operations_of(request)), "")


def operations_of(request: ApiRequest) -> list[str]:
    """Return the operations that a request names, wherever moto looks, each once."""
    found = []
    target = request.header(b"x-amz-target")
    if target is not None:
        found.append(target.rpartition(b".")[2].decode("latin-1"))
    kind = (request.header(b"content-type") or b"").lower()
    if kind.startswith(b"multipart/form-data"):
        found += _action_fields(b"".join(request.body))
    found += parse_qs(request.query.decode("latin-1")).get("Action", [])
    if kind.startswith(b"application/x-www-form-urlencoded") or (not found and not request.query):
        found += parse_qs(b"".join(request.body).decode("latin-1")).get("Action", [])
    if not found:  # what has neither a query nor a form is asked by its headers
        found += [value.decode("latin-1") for name, value in request.headers if name == b"action"]
    return list(dict.fromkeys(found))


def _action_fields(form: bytes) -> list[str]:
    """Return the values of a multipart form's fields of that name; each byte is looked at once."""
    found, at = [], 0
    while (named := _ACTION_NAME.search(form, at)) is not None:
        head_end = _HEAD_END.search(form, named.end())
        if head_end is None:
            break
        at = head_end.end()
        value = _LINE.match(form, at)
        found += [value[0].decode("latin-1")] if value else []
    return found
