"""The stacks there are, and what of a request says which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.stack import template_error

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import Stack

__all__ = ["GONE", "StackTable", "is_true", "tags_of"]

GONE = "DELETE_COMPLETE"


class StackTable:
    """All stacks, those that are gone too."""

    def __init__(self) -> None:
        self._stacks: dict[str, Stack] = {}

    def __contains__(self, identifier: str) -> bool:
        """Say whether there is, or was, a stack of an ARN."""
        return identifier in self._stacks

    def __getitem__(self, identifier: str) -> Stack:
        """Return a stack by its ARN."""
        return self._stacks[identifier]

    def keep(self, stack: Stack) -> None:
        """Take a stack in."""
        self._stacks[stack.id] = stack

    def all(self) -> list[Stack]:
        """Return the stacks of all accounts and regions."""
        return list(self._stacks.values())

    def here(self, context: StackContext) -> list[Stack]:
        """Return the stacks of an account in a region."""
        here = (context.account, context.region)
        return [one for one in self.all() if (one.account, one.region) == here]

    def find(self, members: dict[str, Any], context: StackContext, *, gone: bool = False) -> Stack:
        """Return the stack that a request names.

        Parameters
        ----------
        members
            Of the request; StackName is a name or an ARN.
        context
            Where.
        gone
            Whether it may be one that is gone, by its ARN.

        Raises
        ------
        AwsError
            There is none.
        """
        name = str(members.get("StackName", ""))
        found = self._stacks.get(name)
        if found is not None and (gone or found.status != GONE):
            return found
        for stack in self.here(context):
            if stack.name == name and stack.status != GONE:
                return stack
        raise template_error(f"Stack with id {name} does not exist")

    def exported(self, context: StackContext, stack: Stack) -> dict[str, str]:
        """Return what other stacks than this one export, by name."""
        return {
            output.export: output.value
            for other in self.here(context)
            if other is not stack
            for output in other.outputs
            if output.export
        }

    def importer(self, stack: Stack) -> tuple[str, str] | None:
        """Return an export of a stack that another one uses, and that other one's name."""
        for output in stack.outputs:
            for other in self.all():
                if other is stack or other.status == GONE or not output.export:
                    continue
                if "Fn::ImportValue" in other.template or "!ImportValue" in other.template:
                    values = {
                        value
                        for resource in tuple(other.resources.values())
                        for value in _strings(resource.properties)
                    }
                    # Which export it was is not kept: whoever imports, and has the value, counts as
                    # importing it.
                    if output.value in values:
                        return output.export, other.name
        return None


def tags_of(members: dict[str, Any]) -> dict[str, str]:
    """Return a request's tags."""
    return {tag["Key"]: tag["Value"] for tag in members.get("Tags") or ()}


def is_true(value: Any) -> bool:
    """Say whether a member is true; the query protocol knows text only."""
    return str(value).lower() == "true"


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [str(value)]
