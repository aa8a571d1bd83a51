"""AWS's query protocol: forms in, XML out.

Source: https://smithy.io/2.0/aws/protocols/aws-query-protocol.html
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.core.serialize import QuerySerializer, SerializationContext
from moto.core.utils import get_service_model

from mmekit_local.sagemaker.api import ApiReply, ApiRequest
from mmekit_local.sagemaker.errors import AwsError

__all__ = ["error_reply", "members_of", "reply_of"]

_NAMESPACE = "http://cloudformation.amazonaws.com/doc/2010-05-15/"
_XML = (b"content-type", b"text/xml")


def members_of(request: ApiRequest) -> tuple[str, dict[str, Any]]:
    """Return the operation that a request names, and its members; every value is text."""
    form = b"".join(request.body) or request.query
    pairs = parse_qsl(form.decode("utf-8", "replace"), keep_blank_values=True)
    members: dict[str, Any] = {}
    for name, value in pairs:
        _put(members, name.split("."), value)
    operation = str(members.pop("Action", ""))
    members.pop("Version", None)
    return operation, {name: _lists(value) for name, value in members.items()}


def reply_of(operation: str, result: dict[str, Any], request_id: bytes) -> ApiReply:
    """Return an operation's answer."""
    model = get_service_model("cloudformation").operation_model(operation)
    context = SerializationContext(request_id.decode())
    answer = QuerySerializer(model, context=context).serialize(result)
    return ApiReply(200, [_XML, (b"x-amzn-requestid", request_id)], _bytes(answer["body"]))


def error_reply(error: AwsError, request_id: bytes) -> ApiReply:
    """Return an error."""
    body = (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type>'
        f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
        f"<RequestId>{request_id.decode()}</RequestId></ErrorResponse>"
    )
    return ApiReply(error.status, [_XML, (b"x-amzn-requestid", request_id)], body.encode())


def _bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body


def _put(members: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        inner = members.setdefault(part, {})
        if not isinstance(inner, dict):
            raise AwsError(400, "MalformedQueryString", f"{'.'.join(path)} is given twice.")
        members = inner
    members[path[-1]] = value


def _lists(value: Any) -> Any:
    """Make lists of what the form has as member.1 and so on."""
    if not isinstance(value, dict):
        return value
    inner = value.get("member", value)
    if isinstance(inner, dict) and inner and all(re.fullmatch(r"\d+", name) for name in inner):
        return [_lists(inner[name]) for name in sorted(inner, key=int)]
    return {name: _lists(item) for name, item in value.items()}
