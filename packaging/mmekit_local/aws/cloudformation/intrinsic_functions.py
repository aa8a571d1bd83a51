"""CloudFormation's functions: a template's values with everything in them worked out.

Source: the CloudFormation user guide, "Intrinsic function reference" and "Rule functions".
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.stack import template_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmekit_local.aws.cloudformation.template import Template

__all__ = ["Evaluator"]

_NOTHING = object()
_SUBSTITUTED = re.compile(r"\$\{([^{}]*)\}")


class Evaluator:
    """Where a template's values are worked out.

    Parameters
    ----------
    template
        Its conditions and mappings.
    parameters
        The values of parameters and pseudo parameters.
    reference
        Returns a resource's identifier; LookupError when there is none.
    attribute
        Returns an attribute of a resource; LookupError when there is none.
    exported
        What other stacks export, by name.
    """

    def __init__(
        self,
        template: Template,
        parameters: Mapping[str, Any],
        reference: Callable[[str], str],
        attribute: Callable[[str, str], Any],
        exported: Mapping[str, str],
    ) -> None:
        self._template = template
        self._parameters = parameters
        self._reference = reference
        self._attribute = attribute
        self._exported = exported
        self._functions: dict[str, Callable[[Any], Any]] = {
            "Ref": self._ref,
            "Condition": lambda name: self.holds(str(name)),
            "Fn::And": lambda items: all(map(self._truth, items)),
            "Fn::Base64": lambda text: base64.b64encode(self._text(text).encode()).decode(),
            "Fn::Contains": lambda pair: self._text(pair[1]) in self._list(pair[0]),
            "Fn::EachMemberIn": lambda pair: set(self._list(pair[0])) <= set(self._list(pair[1])),
            "Fn::Equals": lambda pair: self._text(pair[0]) == self._text(pair[1]),
            "Fn::FindInMap": self._find_in_map,
            "Fn::GetAZs": lambda region: [f"{self._region(region)}{zone}" for zone in "abc"],
            "Fn::GetAtt": self._get_attribute,
            "Fn::If": self._if,
            "Fn::ImportValue": self._import,
            "Fn::Join": lambda pair: self._text(pair[0]).join(map(_plain, self._list(pair[1]))),
            "Fn::Length": lambda items: len(self._list(items)),
            "Fn::Not": lambda items: not self._truth(items[0]),
            "Fn::Or": lambda items: any(map(self._truth, items)),
            "Fn::Select": self._select,
            "Fn::Split": lambda pair: self._text(pair[1]).split(self._text(pair[0])),
            "Fn::Sub": self._substitute,
            "Fn::ToJsonString": lambda value: json.dumps(self.value(value)),
        }

    def value(self, part: Any) -> Any:
        """Return a part of the template with its functions worked out.

        What is AWS::NoValue is left out; at the top it is None.

        Raises
        ------
        AwsError
            A function is unknown, or what it is given makes no sense.
        """
        found = self._value(part)
        return None if found is _NOTHING else found

    def holds(self, condition: str) -> bool:
        """Say whether one of the template's conditions is met."""
        if condition not in self._template.conditions:
            raise template_error(f"Template error: unresolved condition dependency {condition}.")
        return self._truth(self._template.conditions[condition])

    def check_rules(self) -> None:
        """Hold the parameters against the template's rules.

        Raises
        ------
        AwsError
            An assertion does not hold.
        """
        for rule in self._template.rules.values():
            if "RuleCondition" in rule and not self._truth(rule["RuleCondition"]):
                continue
            for assertion in rule.get("Assertions", ()):
                if not self._truth(assertion["Assert"]):
                    said = assertion.get("AssertDescription", "An assertion of a rule failed.")
                    raise template_error(f"Template constraint error: {said}")

    def _value(self, part: Any) -> Any:
        if isinstance(part, list):
            return [found for item in part if (found := self._value(item)) is not _NOTHING]
        if not isinstance(part, dict):
            return part
        if len(part) == 1:
            [(name, argument)] = part.items()
            # Statements of policies have a Condition, too, which is a mapping and no condition's
            # name.
            if name in self._functions and (name != "Condition" or isinstance(argument, str)):
                return self._apply(name, argument)
            if name.startswith("Fn::"):
                raise template_error(f"Template error: {name} is not supported here.")
        found = {str(name): self._value(item) for name, item in part.items()}
        return {name: item for name, item in found.items() if item is not _NOTHING}

    def _apply(self, name: str, argument: Any) -> Any:
        try:
            return self._functions[name](argument)
        except (TypeError, ValueError, IndexError, KeyError) as error:
            text = json.dumps(argument, default=str)
            raise template_error(
                f"Template error: every {name} object must be well-formed; this is {text}"
            ) from error

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _NOTHING
        if name in self._parameters:
            return self._parameters[name]
        try:
            return self._reference(name)
        except LookupError as error:
            raise template_error(f"Unresolved resource dependencies [{name}]") from error

    def _get_attribute(self, argument: Any) -> Any:
        name, _, attribute = (
            argument.partition(".")
            if isinstance(argument, str)
            else (argument[0], "", ".".join(self._text(item) for item in argument[1:]))
        )
        try:
            return self._attribute(name, attribute)
        except LookupError as error:
            raise template_error(
                f"Template error: resource {name} does not support attribute type {attribute} "
                "in Fn::GetAtt"
            ) from error

    def _if(self, argument: Any) -> Any:
        name, met, unmet = argument
        return self._value(met if self.holds(name) else unmet)

    def _find_in_map(self, argument: Any) -> Any:
        mapping, first, second = (self._text(item) for item in argument[:3])
        try:
            return self._template.mappings[mapping][first][second]
        except (KeyError, TypeError) as error:
            raise template_error(
                f"Template error: Unable to get mapping for {mapping}::{first}::{second}"
            ) from error

    def _import(self, argument: Any) -> str:
        name = self._text(argument)
        if name not in self._exported:
            raise template_error(f"No export named {name} found.")
        return self._exported[name]

    def _select(self, argument: Any) -> Any:
        index, items = int(self._text(argument[0])), self._list(argument[1])
        if not 0 <= index < len(items):
            raise template_error(f"Template error: Fn::Select cannot select index {index}.")
        return items[index]

    def _substitute(self, argument: Any) -> str:
        text, given = (argument, {}) if isinstance(argument, str) else argument

        def replaced(match: re.Match[str]) -> str:
            name = match[1].strip()
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in given:
                return self._text(given[name])
            function = "Fn::GetAtt" if "." in name else "Ref"
            return self._text({function: name})

        return _SUBSTITUTED.sub(replaced, text)

    def _region(self, argument: Any) -> str:
        return self._text(argument) or str(self._parameters["AWS::Region"])

    def _truth(self, part: Any) -> bool:
        found = self._value(part)
        return found if isinstance(found, bool) else _plain(found) == "true"

    def _text(self, part: Any) -> str:
        return _plain(self._value(part))

    def _list(self, part: Any) -> list[Any]:
        found = self._value(part)
        if not isinstance(found, list):
            raise TypeError(found)
        return found


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        raise TypeError(value)
    return str(value)
