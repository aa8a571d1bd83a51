"""Stacks as CloudFormation's answers show them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.record import ChangeSet, Resource, Stack
    from mmekit_local.aws.cloudformation.template import Template

__all__ = [
    "described_change_set",
    "described_events",
    "described_resource",
    "described_stack",
    "stack_summary",
    "template_summary",
]

_HIDDEN = "****"


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


def needed_capabilities(template: Template) -> list[str]:
    """Return the capabilities that a template's author must have acknowledged."""
    iam = [one for one in template.resources.values() if one["Type"].startswith("AWS::IAM::")]
    names = ("RoleName", "UserName", "GroupName", "ManagedPolicyName", "InstanceProfileName")
    if any(name in one.get("Properties", {}) for one in iam for name in names):
        return ["CAPABILITY_NAMED_IAM"]
    return ["CAPABILITY_IAM"] if iam else []


def shown_parameters(template: Template, values: dict[str, Any]) -> dict[str, str]:
    """Return parameters as they may be seen."""
    shown = {}
    for name, one in template.parameters.items():
        value = values[name]
        text = ",".join(value) if isinstance(value, list) else str(value)
        shown[name] = _HIDDEN if str(one.get("NoEcho", False)).lower() == "true" else text
    return shown


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, timezone.utc) if seconds else None
