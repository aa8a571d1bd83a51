"""What CloudFormation tells of the stacks there are."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.stack import template_error
from mmekit_local.aws.cloudformation.stack_table import GONE
from mmekit_local.aws.cloudformation.template import Template, needed_capabilities, template_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import ChangeSet, Resource, Stack
    from mmekit_local.aws.cloudformation.stack_table import StackTable
    from mmekit_local.aws.moto.aws import Aws

__all__ = [
    "StackDescriptions",
    "described_change_set",
    "described_events",
    "described_resource",
    "described_stack",
    "stack_summary",
    "template_summary",
]


def described_stack(stack: Stack) -> dict[str, Any]:
    """Return a Stack, as DescribeStacks has it."""
    return {
        **stack_summary(stack),
        "Description": stack.description or None,
        "Parameters": [
            {"ParameterKey": name, "ParameterValue": value} for name, value in stack.shown.items()
        ],
        "DisableRollback": stack.on_failure == "DO_NOTHING",
        "EnableTerminationProtection": stack.protected,
        "NotificationARNs": [],
        "Capabilities": stack.capabilities,
        "Outputs": [
            {
                "OutputKey": output.name,
                "OutputValue": output.value,
                "Description": output.description or None,
                "ExportName": output.export or None,
            }
            for output in stack.outputs
        ],
        "Tags": [{"Key": key, "Value": value} for key, value in stack.tags.items()],
    }


def stack_summary(stack: Stack) -> dict[str, Any]:
    """Return a StackSummary, as ListStacks has it."""
    return {
        "StackId": stack.id,
        "StackName": stack.name,
        "CreationTime": _time(stack.created),
        "LastUpdatedTime": _time(stack.updated),
        "DeletionTime": _time(stack.deleted),
        "StackStatus": stack.status,
        "StackStatusReason": stack.reason or None,
        "DriftInformation": {"StackDriftStatus": "NOT_CHECKED"},
    }


def described_resource(stack: Stack, resource: Resource) -> dict[str, Any]:
    """Return a StackResource, StackResourceDetail or StackResourceSummary: all have these."""
    return {
        "StackName": stack.name,
        "StackId": stack.id,
        "LogicalResourceId": resource.logical_id,
        "PhysicalResourceId": resource.physical_id or None,
        "ResourceType": resource.type,
        "Timestamp": _time(resource.at),
        "LastUpdatedTimestamp": _time(resource.at),
        "ResourceStatus": resource.status,
        "ResourceStatusReason": resource.reason or None,
        "DriftInformation": {"StackResourceDriftStatus": "NOT_CHECKED"},
    }


def described_events(stack: Stack) -> list[dict[str, Any]]:
    """Return the stack's events, the latest first."""
    return [
        {
            "StackId": stack.id,
            "StackName": stack.name,
            "EventId": event.id,
            "LogicalResourceId": event.logical_id,
            "PhysicalResourceId": event.physical_id or None,
            "ResourceType": event.type,
            "Timestamp": _time(event.at),
            "ResourceStatus": event.status,
            "ResourceStatusReason": event.reason or None,
        }
        for event in reversed(stack.events)
    ]


def described_change_set(stack: Stack, changes: ChangeSet) -> dict[str, Any]:
    """Return what DescribeChangeSet says."""
    if changes.reason:
        status, execution = "FAILED", "UNAVAILABLE"
    else:
        status, execution = "CREATE_COMPLETE", "AVAILABLE"
        if changes.executed:
            execution = "EXECUTE_COMPLETE"
    return {
        "ChangeSetName": changes.name,
        "ChangeSetId": changes.id,
        "StackId": stack.id,
        "StackName": stack.name,
        "Description": changes.description or None,
        "Parameters": [
            {"ParameterKey": name, "ParameterValue": value} for name, value in changes.shown.items()
        ],
        "CreationTime": _time(changes.at),
        "ExecutionStatus": execution,
        "Status": status,
        "StatusReason": changes.reason or None,
        "Tags": [{"Key": key, "Value": value} for key, value in changes.tags.items()],
        "Changes": [
            {
                "Type": "Resource",
                "ResourceChange": {
                    "Action": action,
                    "LogicalResourceId": name,
                    "PhysicalResourceId": physical or None,
                    "ResourceType": kind,
                },
            }
            for action, name, kind, physical in changes.changes
        ],
    }


def template_summary(template: Template) -> dict[str, Any]:
    """Return what GetTemplateSummary and ValidateTemplate say."""
    parameters = [
        {
            "ParameterKey": name,
            "DefaultValue": None if "Default" not in one else str(one["Default"]),
            "ParameterType": one.get("Type", "String"),
            "NoEcho": str(one.get("NoEcho", False)).lower() == "true",
            "Description": one.get("Description"),
            "ParameterConstraints": {"AllowedValues": list(map(str, one.get("AllowedValues", ())))},
        }
        for name, one in template.parameters.items()
    ]
    needed = needed_capabilities(template)
    return {
        "Parameters": parameters,
        "Description": template.description or None,
        "Capabilities": needed,
        "CapabilitiesReason": "The template contains IAM resources." if needed else None,
        "ResourceTypes": sorted({one["Type"] for one in template.resources.values()}),
    }


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, timezone.utc) if seconds else None


class StackDescriptions:
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
