"""Checks a request's members against botocore's service model, as AWS does before anything else.

boto3 checks some of this before it sends; other clients do not, and boto3 checks no patterns. The
wording is that of AWS's JSON services ("1 validation error detected: Value … at '…' failed to
satisfy constraint: …"); the constraints are the service model's own.
"""

from __future__ import annotations

import json
import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from moto.core.utils import get_service_model

from mmekit_local.sagemaker.errors import AwsError, validation_exception

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from botocore.model import Shape

__all__ = ["checked_members", "violations_of"]

_SHOWN = 10  # violations in one message

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "structure": ((dict,), "a structure"),
    "map": ((dict,), "a map"),
    "list": ((list,), "a list"),
    "string": ((str,), "a String"),
    "integer": ((int,), "an Integer"),
    "long": ((int,), "a Long"),
    "float": ((int, float), "a Float"),
    "double": ((int, float), "a Double"),
    "boolean": ((bool,), "a Boolean"),
}


def checked_members(service: str, operation: str, body: bytes) -> dict[str, Any]:
    """Return a request's members, which are as the operation's input shape wants them.

    Parameters
    ----------
    service
        As botocore spells it.
    operation
        The operation's name; ``DescribeEndpoint``, say.
    body
        The request's body, JSON.

    Raises
    ------
    AwsError
        The operation is unknown, the body is no JSON object, a member is of the wrong type, or
        one violates a constraint.
    """
    model = get_service_model(service)
    if operation not in model.operation_names:
        raise AwsError(400, "UnknownOperationException", f"There is no operation {operation!r}.")
    try:
        members = json.loads(body or b"{}", parse_constant=_refuse_constant)
    except ValueError as error:
        raise AwsError(400, "SerializationException", f"The body is not JSON: {error}") from error
    except RecursionError as error:
        raise AwsError(400, "SerializationException", "The body is nested too deeply.") from error
    if not isinstance(members, dict):
        raise AwsError(400, "SerializationException", "The body is not a JSON object.")
    # A member that is null counts as absent.
    members = {name: value for name, value in members.items() if value is not None}
    found = violations_of(model.operation_model(operation).input_shape, members)
    if found:
        raise validation_exception(found)
    return members


def violations_of(shape: Shape | None, members: dict[str, Any]) -> str:
    """Return what AWS would say of members that violate a shape's constraints; "" if none does."""
    found = list(_violations(shape, members, "")) if shape is not None else []
    plural = "" if len(found) == 1 else "s"
    told = f"{len(found)} validation error{plural} detected: {'; '.join(found[:_SHOWN])}"
    return told if found else ""


def _violations(shape: Shape, value: Any, path: str) -> Iterator[str]:
    _require_type(shape, value, path)
    if (check := _CHECKS.get(shape.type_name)) is not None:
        yield from check(shape, value, path)


def _require_type(shape: Shape, value: Any, path: str) -> None:
    types, type_name = _TYPES.get(shape.type_name, ((object,), "anything"))
    fits = isinstance(value, types)
    # In Python a bool is an int.
    if isinstance(value, bool) and bool not in types and object not in types:
        fits = False
    if not fits:
        where = f" at '{path}'" if path else ""
        text = f"The value{where} can not be converted to {type_name}."
        raise AwsError(400, "SerializationException", text)


def _in_structure(shape: Any, value: dict[str, Any], path: str) -> Iterator[str]:
    for name, member in shape.members.items():
        at = f"{path}.{_spelled(name)}" if path else _spelled(name)
        given = value.get(name)
        if given is not None:
            yield from _violations(member, given, at)
        elif name in shape.required_members:
            yield _violation("null", at, "Member must not be null")


def _in_list(shape: Any, value: list[Any], path: str) -> Iterator[str]:
    yield from _length(shape, value, path)
    for place, item in enumerate(value, 1):
        if item is not None:
            yield from _violations(shape.member, item, f"{path}.{place}.member")


def _in_map(shape: Any, value: dict[str, Any], path: str) -> Iterator[str]:
    yield from _length(shape, value, path)
    for key, item in value.items():
        yield from _violations(shape.key, key, path)
        if item is not None:
            yield from _violations(shape.value, item, f"{path}.{key}.member")


def _in_string(shape: Shape, value: str, path: str) -> Iterator[str]:
    allowed = shape.metadata.get("enum")
    if allowed is not None and value not in allowed:
        what = f"Member must satisfy enum value set: [{', '.join(allowed)}]"
        yield _violation(f"'{value}'", path, what)
        return
    yield from _length(shape, value, path)
    pattern = shape.metadata.get("pattern")
    if pattern is not None and not _matches(pattern, value):
        what = f"Member must satisfy regular expression pattern: {pattern}"
        yield _violation(f"'{value}'", path, what)


def _in_number(shape: Shape, value: float, path: str) -> Iterator[str]:
    largest = _FLOAT_MAX if shape.type_name == "float" else math.inf
    # 1e400 is JSON, and infinite in Python.
    if not math.isfinite(value) or abs(value) > largest:
        text = f"The value at '{path}' is out of range."
        raise AwsError(400, "SerializationException", text)
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and value < least:
        what = f"Member must have value greater than or equal to {least}"
        yield _violation(f"'{value}'", path, what)
    if most is not None and value > most:
        what = f"Member must have value less than or equal to {most}"
        yield _violation(f"'{value}'", path, what)


def _length(shape: Shape, value: str | list[Any] | dict[str, Any], path: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and len(value) < least:
        what = f"Member must have length greater than or equal to {least}"
        yield _violation(f"'{_shown(value)}'", path, what)
    if most is not None and len(value) > most:
        what = f"Member must have length less than or equal to {most}"
        yield _violation(f"'{_shown(value)}'", path, what)


_FLOAT_MAX = 3.4028235e38
"""Java's Float.MAX_VALUE, of 32 bits."""

_CHECKS: dict[str, Callable[[Any, Any, str], Iterator[str]]] = {
    "structure": _in_structure,
    "list": _in_list,
    "map": _in_map,
    "string": _in_string,
    "integer": _in_number,
    "long": _in_number,
    "float": _in_number,
    "double": _in_number,
}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _violation(value: str, path: str, constraint: str) -> str:
    return f"Value {value} at '{path}' failed to satisfy constraint: {constraint}"


def _shown(value: str | list[Any] | dict[str, Any]) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _spelled(name: str) -> str:
    return name[:1].lower() + name[1:]


@cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern)
    except re.error:  # Java's dialect has more than Python's: \p{L}, surrogates
        return None


def _matches(pattern: str, value: str) -> bool:
    compiled = _compiled(pattern)
    # The whole value, as Java's `matches` has it: many of the patterns have no anchors.
    return compiled is None or compiled.fullmatch(value) is not None
