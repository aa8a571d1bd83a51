"""AWS::IAM: roles and their policies."""

# ruff: noqa: D102 - ResourceType says what the verbs are

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.resource_types.resource_type import (
    PhysicalResource,
    ResourceType,
)
from mmekit_local.aws.cloudformation.stack import ResourceError

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import Resource

__all__ = ["InlinePolicyType", "ManagedPolicyType", "RoleType"]

_DESCRIBING = ("Path", "Description", "MaxSessionDuration", "PermissionsBoundary", "Tags")
_OF_AWS = ":iam::aws:policy/"


class RoleType(ResourceType):
    """AWS::IAM::Role.

    AWS's own managed policies are not attached: there is no copy of them here, and no role is
    asked what it may do.
    """

    name_property = "RoleName"
    longest = 64

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        role = context.call(
            "iam",
            "CreateRole",
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps(properties["AssumeRolePolicyDocument"]),
            **{member: properties.get(member) for member in _DESCRIBING},
        )["Role"]
        try:
            self._set_policies(context, name, properties)
        except ResourceError:
            self._remove(context, name)
            raise
        return PhysicalResource(name, {"Arn": role["Arn"], "RoleId": role["RoleId"]})

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        for member in ("RoleName", "Path"):
            if properties.get(member) != resource.properties.get(member):
                return None
        name = resource.physical_id
        trust = json.dumps(properties["AssumeRolePolicyDocument"])
        context.call("iam", "UpdateAssumeRolePolicy", RoleName=name, PolicyDocument=trust)
        # Policies of other resources of the stack are on it, too: only its own are replaced.
        for policy in resource.properties.get("Policies", ()):
            context.remove(
                "iam", "DeleteRolePolicy", RoleName=name, PolicyName=policy["PolicyName"]
            )
        self._set_policies(context, name, properties)
        return PhysicalResource(name, resource.attributes)

    def delete(self, context: StackContext, resource: Resource) -> None:
        self._remove(context, resource.physical_id)

    @staticmethod
    def _set_policies(context: StackContext, name: str, properties: dict[str, Any]) -> None:
        for policy in properties.get("Policies", ()):
            _put(context, name, str(policy["PolicyName"]), policy["PolicyDocument"])
        for arn in properties.get("ManagedPolicyArns", ()):
            if _OF_AWS not in arn:
                context.call("iam", "AttachRolePolicy", RoleName=name, PolicyArn=arn)

    @staticmethod
    def _remove(context: StackContext, name: str) -> None:
        try:
            inline = context.call("iam", "ListRolePolicies", RoleName=name)["PolicyNames"]
            attached = context.call("iam", "ListAttachedRolePolicies", RoleName=name)
        except ResourceError:
            return  # it is not there
        # IAM deletes no role that has policies.
        for policy in inline:
            context.remove("iam", "DeleteRolePolicy", RoleName=name, PolicyName=policy)
        for found in attached["AttachedPolicies"]:
            context.remove("iam", "DetachRolePolicy", RoleName=name, PolicyArn=found["PolicyArn"])
        context.remove("iam", "DeleteRole", RoleName=name)


class InlinePolicyType(ResourceType):
    """AWS::IAM::Policy: a policy inside roles."""

    name_property = "PolicyName"
    longest = 128

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        for role in properties.get("Roles", ()):
            _put(context, role, name, properties["PolicyDocument"])
        return PhysicalResource(name, {"Id": name})

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        if self.is_renamed(resource, properties):
            return None
        self._remove(context, resource, set(properties.get("Roles", ())))
        for role in properties.get("Roles", ()):
            _put(context, role, resource.physical_id, properties["PolicyDocument"])
        return PhysicalResource(resource.physical_id, resource.attributes)

    def delete(self, context: StackContext, resource: Resource) -> None:
        self._remove(context, resource, set())

    @staticmethod
    def _remove(context: StackContext, resource: Resource, kept: set[str]) -> None:
        for role in set(resource.properties.get("Roles", ())) - kept:
            name = resource.physical_id
            context.remove("iam", "DeleteRolePolicy", RoleName=role, PolicyName=name)


class ManagedPolicyType(ResourceType):
    """AWS::IAM::ManagedPolicy, attached to roles."""

    name_property = "ManagedPolicyName"
    longest = 128

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        policy = context.call(
            "iam",
            "CreatePolicy",
            PolicyName=self.name(context, logical_id, properties),
            PolicyDocument=json.dumps(properties["PolicyDocument"]),
            Path=properties.get("Path"),
            Description=properties.get("Description"),
        )["Policy"]
        for role in properties.get("Roles", ()):
            context.call("iam", "AttachRolePolicy", RoleName=role, PolicyArn=policy["Arn"])
        return PhysicalResource(
            policy["Arn"], {"PolicyArn": policy["Arn"], "PolicyId": policy["PolicyId"]}
        )

    def delete(self, context: StackContext, resource: Resource) -> None:
        arn = resource.physical_id
        for role in resource.properties.get("Roles", ()):
            context.remove("iam", "DetachRolePolicy", RoleName=role, PolicyArn=arn)
        context.remove("iam", "DeletePolicy", PolicyArn=arn)


def _put(context: StackContext, role: str, name: str, document: dict[str, Any]) -> None:
    text = json.dumps(document)
    context.call("iam", "PutRolePolicy", RoleName=role, PolicyName=name, PolicyDocument=text)
