"""Stacks as they are kept: what was asked for, made and refused, and what happened."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mmekit_local.sagemaker.errors import AwsError

__all__ = [
    "ChangeSet",
    "Resource",
    "ResourceError",
    "Stack",
    "StackEvent",
    "StackOutput",
    "template_error",
]


@dataclass
class Resource:
    """One resource of a stack.

    Attributes
    ----------
    logical_id, type
        As the template has them.
    physical_id
        What Ref returns.
    properties
        With all functions worked out.
    attributes
        What Fn::GetAtt returns.
    named
        Whether the template names it, so that it cannot be replaced.
    policy
        DeletionPolicy: Delete or Retain, or RetainExceptOnCreate.
    """

    logical_id: str
    type: str
    physical_id: str = ""
    properties: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    named: bool = False
    policy: str = "Delete"
    status: str = "CREATE_IN_PROGRESS"
    reason: str = ""
    at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class StackEvent:
    """One thing that happened to a stack or to a resource of it."""

    logical_id: str
    physical_id: str
    type: str
    status: str
    reason: str
    at: float
    id: str


@dataclass(frozen=True)
class StackOutput:
    """A value that a stack tells, and the name under which others may import it."""

    name: str
    value: str
    description: str
    export: str


@dataclass
class ChangeSet:
    """A template and parameters, given and not yet executed."""

    id: str
    name: str
    kind: str
    """CREATE or UPDATE."""
    template: str
    parameters: dict[str, str]
    """As they were given."""
    shown: dict[str, str]
    """All, as DescribeChangeSet shows them."""
    tags: dict[str, str]
    description: str
    changes: tuple[tuple[str, str, str, str], ...]
    """Add, Modify or Remove; the logical id; the type; the physical id or ""."""
    reason: str = ""
    """Why it cannot be executed; "" when it can."""
    executed: bool = False
    at: float = field(default_factory=time.time)


@dataclass
class Stack:
    """A stack, in whatever state."""

    id: str
    name: str
    account: str
    region: str
    template: str = ""
    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    """As they were given."""
    shown: dict[str, str] = field(default_factory=dict)
    """All, as DescribeStacks shows them."""
    tags: dict[str, str] = field(default_factory=dict)
    capabilities: list[str] = field(default_factory=list)
    status: str = "REVIEW_IN_PROGRESS"
    reason: str = ""
    protected: bool = False
    on_failure: str = "ROLLBACK"
    created: float = field(default_factory=time.time)
    updated: float = 0.0
    deleted: float = 0.0
    resources: dict[str, Resource] = field(default_factory=dict)
    outputs: list[StackOutput] = field(default_factory=list)
    events: list[StackEvent] = field(default_factory=list)

    def set_status(self, status: str, reason: str = "") -> None:
        """Come into a state, which is an event."""
        self.status, self.reason = status, reason
        self._record(self.name, self.id, "AWS::CloudFormation::Stack", status, reason)

    def set_resource(self, resource: Resource, status: str, reason: str = "") -> None:
        """Bring a resource into a state, which is an event."""
        resource.status, resource.reason, resource.at = status, reason, time.time()
        self._record(resource.logical_id, resource.physical_id, resource.type, status, reason)

    @property
    def in_progress(self) -> bool:
        """Whether something works on it."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"

    def has(self, template: str, parameters: dict[str, str]) -> bool:
        """Say whether it is what a template and parameters, as they were given, would make of it.

        An update that came to no end has left nobody knows what.
        """
        same = (template, parameters) == (self.template, self.parameters)
        return same and self.status != "UPDATE_FAILED"

    def as_members(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        # A thread may be adding to it, and what grows cannot be gone through.
        still = replace(self, resources=dict(self.resources), events=list(self.events))
        return asdict(still)

    @classmethod
    def of_members(cls, members: dict[str, Any]) -> Stack:
        """Return what `as_members` was called of."""
        parts = {
            **members,
            "resources": {
                name: Resource(**resource) for name, resource in members["resources"].items()
            },
            "outputs": [StackOutput(**output) for output in members["outputs"]],
            "events": [StackEvent(**event) for event in members["events"]],
        }
        return cls(**parts)

    def _record(self, logical: str, physical: str, kind: str, status: str, reason: str) -> None:
        self.events.append(
            StackEvent(logical, physical, kind, status, reason, time.time(), str(uuid.uuid4()))
        )


class ResourceError(Exception):
    """A resource cannot be made, changed or deleted; the message is its status reason."""


def template_error(message: str) -> AwsError:
    """Return CloudFormation's error for a template, parameters or a stack that do not do."""
    return AwsError(400, "ValidationError", message)
