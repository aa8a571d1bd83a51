"""What CloudFormation tells of the stacks there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.described import (
    described_events,
    described_resource,
    described_stack,
    stack_summary,
    template_summary,
)
from mmekit_local.aws.cloudformation.errors import template_error
from mmekit_local.aws.cloudformation.sources import template_of
from mmekit_local.aws.cloudformation.table import GONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.table import StackTable
    from mmekit_local.aws.moto.aws import Aws

__all__ = ["Questions"]


class Questions:
    """Answers what asks and changes nothing.

    Parameters
    ----------
    stacks
        The stacks.
    aws
        Has the templates that TemplateURL names.

    Attributes
    ----------
    known
        The operations, by name.
    """

    def __init__(self, stacks: StackTable, aws: Aws) -> None:
        self._stacks = stacks
        self._aws = aws
        self.known: dict[str, Callable[[dict[str, Any], StackContext], dict[str, Any]]] = {
            "DescribeStackEvents": self._describe_events,
            "DescribeStackResource": self._describe_resource,
            "DescribeStackResources": self._describe_resources,
            "DescribeStacks": self._describe_stacks,
            "GetTemplate": self._get_template,
            "GetTemplateSummary": self._get_template_summary,
            "ListExports": self._list_exports,
            "ListStackResources": self._list_resources,
            "ListStacks": self._list_stacks,
            "ValidateTemplate": self._get_template_summary,
        }

    def _describe_stacks(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        if members.get("StackName"):
            return {"Stacks": [described_stack(self._stacks.find(members, context, gone=True))]}
        here = [one for one in self._stacks.here(context) if one.status != GONE]
        return {"Stacks": [described_stack(one) for one in here]}

    def _list_stacks(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        wanted = members.get("StackStatusFilter") or ()
        return {
            "StackSummaries": [
                stack_summary(stack)
                for stack in self._stacks.here(context)
                if not wanted or stack.status in wanted
            ]
        }

    def _describe_events(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        return {"StackEvents": described_events(self._stacks.find(members, context, gone=True))}

    def _describe_resources(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        return {"StackResources": self._resources(members, context)}

    def _list_resources(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        return {"StackResourceSummaries": self._resources(members, context)}

    def _describe_resource(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        found = self._resources(members, context)
        if not found:
            name = members.get("LogicalResourceId")
            raise template_error(
                f"Resource {name} does not exist for stack {members.get('StackName')}"
            )
        return {"StackResourceDetail": found[0]}

    def _resources(self, members: dict[str, Any], context: StackContext) -> list[dict[str, Any]]:
        stack, wanted = (
            self._stacks.find(members, context, gone=True),
            members.get("LogicalResourceId"),
        )
        return [
            described_resource(stack, resource)
            for resource in tuple(stack.resources.values())  # work may add to them
            if wanted in (None, resource.logical_id)
        ]

    def _get_template(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        return {"TemplateBody": self._stacks.find(members, context, gone=True).template}

    def _get_template_summary(
        self, members: dict[str, Any], context: StackContext
    ) -> dict[str, Any]:
        stack = self._stacks.find(members, context) if members.get("StackName") else None
        return template_summary(template_of(members, context, self._aws, stack))

    def _list_exports(self, members: dict[str, Any], context: StackContext) -> dict[str, Any]:
        del members
        return {
            "Exports": [
                {"ExportingStackId": stack.id, "Name": output.export, "Value": output.value}
                for stack in self._stacks.here(context)
                for output in stack.outputs
                if output.export
            ]
        }
