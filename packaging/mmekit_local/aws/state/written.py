"""What of a request is written down: what playing it back needs, and no secret."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from mmekit_local.aws.state.entry import LogEntry
from mmekit_local.redaction import is_secret

if TYPE_CHECKING:
    from mmekit_local.sagemaker.api import ApiRequest

__all__ = ["body_of", "entry_of"]

_HEADERS = frozenset({"host", "cache-control", "expires", "user-agent", "x-moto-account-id"})
_FAMILIES = ("content-", "if-", "x-amz-")
_METADATA = "x-amz-meta-"
"""What it has is the object's, whatever its name."""
_PRESIGNED = frozenset(
    {"x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signedheaders"}
    | {"x-amz-content-sha256", "expires"}
)
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^\s;,]+))', re.IGNORECASE)
_FIELD = re.compile(rb"""(?<!\w)name\*?=(?:[\w-]*'[\w-]*')?("[^"\r\n]*"|[^\s;]+)""", re.IGNORECASE)


def entry_of(request: ApiRequest, at: float, seed: int, body: str, upload_id: str) -> LogEntry:
    """Return the entry of a request.

    Parameters
    ----------
    request
        The request.
    at, seed, body, upload_id
        As `Entry` has them.
    """
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in request.headers
        if _is_kept(name.decode("latin-1"))
    ]
    scope = _scope(request)
    if scope:
        headers.append(("authorization", f"AWS4-HMAC-SHA256 Credential={scope}, "))
    return LogEntry(
        at,
        seed=seed,
        method=request.method,
        path=request.path.decode("latin-1"),
        query=_without_secrets(request.query.decode("latin-1")),
        headers=tuple(headers),
        body=body,
        upload_id=upload_id,
    )


def body_of(request: ApiRequest, service: str) -> bytes:
    """Return the body of a request as it is kept: a form without secrets, all else as it is.

    Parameters
    ----------
    request
        The request.
    service
        moto's name of the service that answers it.
    """
    body = b"".join(request.body)
    kind = (request.header(b"content-type") or b"").decode("latin-1")
    if service == "s3" and request.method == "POST" and (boundary := _BOUNDARY.search(kind)):
        return _form_without_secrets(body, (boundary[1] or boundary[2]).encode("latin-1"))
    if service == "iam":
        return _without_secrets(body.decode("latin-1")).encode("latin-1")
    return body


def _is_kept(name: str) -> bool:
    if name.startswith(_METADATA):
        return True
    known = name in _HEADERS or name.startswith(_FAMILIES)
    return known and name != "content-length" and not is_secret(name)


def _is_credential(name: str) -> bool:
    """Say whether a parameter or a field is a secret, or is only of use together with one."""
    return not name.startswith(_METADATA) and (name in _PRESIGNED or is_secret(name))


def _without_secrets(query: str) -> str:
    """Return a query, or a form, without what proves who sent it.

    Of a presigned URL nothing remains but the scope: its signature would be good for others.
    """
    named = ((unquote(item.partition("=")[0]).lower(), item) for item in query.split("&"))
    return "&".join(item for name, item in named if item and not _is_credential(name))


def _form_without_secrets(body: bytes, boundary: bytes) -> bytes:
    """Return a multipart form without the fields that prove who sent it."""
    start, *parts = re.split(rb"(?:^|(?<=\n))--" + re.escape(boundary), body)
    kept = [start]
    for part in parts:
        head = re.split(rb"\r?\n\r?\n", part, maxsplit=1)[0]
        names = [found.strip(b'"').decode("latin-1") for found in _FIELD.findall(head)]
        if "file" in names or not any(_is_credential(one.lower()) for one in names):
            kept.append(b"--" + boundary + part)
    return b"".join(kept)


def _scope(request: ApiRequest) -> str:
    """Return the credential scope of a request's signature: who, when, where, which service."""
    authorization = (request.header(b"authorization") or b"").decode("latin-1")
    _, found, rest = authorization.partition("Credential=")
    if found:
        return rest.partition(",")[0].strip()
    for name, value in parse_qsl(request.query.decode("latin-1")):
        if name.lower() == "x-amz-credential":
            return value
    return ""
