"""A stack's parameters: given and default values, held against their constraints.

Source: the CloudFormation user guide, "Parameters" (types, constraints) and "Rules"; messages as
CloudFormation words them.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.stack import template_error
from mmekit_local.aws.cloudformation.stack_table import is_true

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmekit_local.aws.cloudformation.template import Template

__all__ = ["given_parameters", "resolved_parameters", "shown_parameters"]

_HIDDEN = "****"

_SSM = re.compile(r"AWS::SSM::Parameter::Value<(.+)>")


def resolved_parameters(
    described: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, str],
    stored: Callable[[str], str],
) -> dict[str, Any]:
    """Return every parameter's value: text, or a list of texts.

    Parameters
    ----------
    described
        The template's section.
    given
        The caller's values, by name.
    stored
        Returns the value of a parameter of the SSM parameter store; LookupError for none.

    Raises
    ------
    AwsError
        One is unknown, missing or out of its range.
    """
    unknown = sorted(set(given) - set(described))
    if unknown:
        raise template_error(f"Parameters: [{', '.join(unknown)}] do not exist in the template")
    texts = {
        name: given.get(name, _text(one.get("Default")))
        for name, one in described.items()
        if name in given or "Default" in one
    }
    missing = [name for name in described if name not in texts]
    if missing:
        raise template_error(f"Parameters: [{', '.join(missing)}] must have values")
    return {name: _value(name, described[name], text, stored) for name, text in texts.items()}


def given_parameters(members: dict[str, Any], before: dict[str, str]) -> dict[str, str]:
    """Return the parameters that a request gives, or says shall stay as they were before."""
    given = {}
    for one in members.get("Parameters") or ():
        name = one["ParameterKey"]
        if is_true(one.get("UsePreviousValue")):
            if name in before:
                given[name] = before[name]
        else:
            given[name] = str(one.get("ParameterValue", ""))
    return given


def shown_parameters(template: Template, values: dict[str, Any]) -> dict[str, str]:
    """Return parameters as they may be seen."""
    shown = {}
    for name, one in template.parameters.items():
        value = values[name]
        text = ",".join(value) if isinstance(value, list) else str(value)
        shown[name] = _HIDDEN if str(one.get("NoEcho", False)).lower() == "true" else text
    return shown


def _value(
    name: str, described: Mapping[str, Any], text: str, stored: Callable[[str], str]
) -> str | list[str]:
    kind = str(described.get("Type", "String"))
    match = _SSM.fullmatch(kind)
    if match is not None:
        kind = match[1]
        try:
            text = stored(text)
        except LookupError as error:
            raise template_error(
                f"Unable to fetch parameters [{text}] from parameter store for this account."
            ) from error
    if kind == "CommaDelimitedList" or kind.startswith("List<"):
        items = [item.strip() for item in text.split(",")] if text else []
        for item in items:
            _check(name, described, item, numeric=kind == "List<Number>")
        return items
    _check(name, described, text, numeric=kind == "Number")
    return text


def _check(name: str, described: Mapping[str, Any], text: str, *, numeric: bool) -> None:
    allowed = described.get("AllowedValues")
    if allowed is not None and text not in map(_text, allowed):
        values = ", ".join(map(_text, allowed))
        raise _refused(name, described, f"must be one of AllowedValues: [{values}]")
    if numeric:
        _check_number(name, described, text)
        return
    least, most = described.get("MinLength"), described.get("MaxLength")
    if least is not None and len(text) < int(least):
        raise _refused(name, described, f"must contain at least {least} characters")
    if most is not None and len(text) > int(most):
        raise _refused(name, described, f"must contain at most {most} characters")
    pattern = described.get("AllowedPattern")
    if pattern is not None and re.fullmatch(str(pattern), text) is None:
        raise _refused(name, described, f"must match pattern {pattern}")


def _check_number(name: str, described: Mapping[str, Any], text: str) -> None:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    # float reads nan too, which is below no least and above no most.
    if not math.isfinite(number):
        raise _refused(name, described, "must be a number")
    least, most = described.get("MinValue"), described.get("MaxValue")
    if least is not None and number < float(least):
        raise _refused(name, described, f"must be a number not less than {least}")
    if most is not None and number > float(most):
        raise _refused(name, described, f"must be a number not greater than {most}")


def _refused(name: str, described: Mapping[str, Any], what: str) -> Exception:
    reason = described.get("ConstraintDescription")
    said = f"failed to satisfy constraint: {reason}" if reason else what
    return template_error(f"Parameter '{name}' {said}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
