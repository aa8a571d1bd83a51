"""What a request asks for: who signed it, and the operation, as moto finds it too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, parse_qsl

from mmekit_local.sagemaker.caller import caller_of

if TYPE_CHECKING:
    from mmekit_local.sagemaker.caller import Caller
    from mmekit_local.sagemaker.http import Request

__all__ = ["caller_of_request", "operation_of", "operations_of", "withheld"]

_WITHHELD = (  # what operations on these make or take must not lie on a disk
    "AccessKey",
    "LoginProfile",
    "ChangePassword",
    "MFADevice",
    "ServerCertificate",
    "SigningCertificate",
    "ServiceSpecificCredential",
)
_ACTION_NAME = re.compile(rb'name="?Action"?')
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LINE = re.compile(rb"[^\r\n]*")


def caller_of_request(request: Request) -> Caller | None:
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


def operation_of(request: Request) -> str:
    """Return the operation that a request names, in its header or its form; "" for S3's."""
    return next(iter(operations_of(request)), "")


def operations_of(request: Request) -> list[str]:
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


def withheld(request: Request) -> bool:
    """Say whether a request is about secrets of IAM's, which are not kept."""
    return any(word in one for one in operations_of(request) for word in _WITHHELD)
