"""AWS::IAM: roles and their policies."""

# ruff: noqa: D102 - Kind says what the verbs are

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.errors import ResourceError
from mmekit_local.aws.cloudformation.kinds.kind import Kind, Made

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.record import Resource
    from mmekit_local.aws.cloudformation.site import Site

__all__ = ["InlinePolicy", "ManagedPolicy", "Role"]

_DESCRIBING = ("Path", "Description", "MaxSessionDuration", "PermissionsBoundary", "Tags")
_OF_AWS = ":iam::aws:policy/"


class Role(Kind):
    """AWS::IAM::Role.

    AWS's own managed policies are not attached: there is no copy of them here, and no role is
    asked what it may do.
    """

    name_property = "RoleName"
    longest = 64

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = self.name(site, logical_id, properties)
        role = site.call(
            "iam",
            "CreateRole",
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps(properties["AssumeRolePolicyDocument"]),
            **{member: properties.get(member) for member in _DESCRIBING},
        )["Role"]
        try:
            self._set_policies(site, name, properties)
        except ResourceError:
            self._remove(site, name)
            raise
        return Made(name, {"Arn": role["Arn"], "RoleId": role["RoleId"]})

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        for member in ("RoleName", "Path"):
            if properties.get(member) != resource.properties.get(member):
                return None
        name = resource.physical_id
        trust = json.dumps(properties["AssumeRolePolicyDocument"])
        site.call("iam", "UpdateAssumeRolePolicy", RoleName=name, PolicyDocument=trust)
        # Policies of other resources of the stack are on it, too: only its own are replaced.
        for policy in resource.properties.get("Policies", ()):
            site.remove("iam", "DeleteRolePolicy", RoleName=name, PolicyName=policy["PolicyName"])
        self._set_policies(site, name, properties)
        return Made(name, resource.attributes)

    def delete(self, site: Site, resource: Resource) -> None:
        self._remove(site, resource.physical_id)

    @staticmethod
    def _set_policies(site: Site, name: str, properties: dict[str, Any]) -> None:
        for policy in properties.get("Policies", ()):
            _put(site, name, str(policy["PolicyName"]), policy["PolicyDocument"])
        for arn in properties.get("ManagedPolicyArns", ()):
            if _OF_AWS not in arn:
                site.call("iam", "AttachRolePolicy", RoleName=name, PolicyArn=arn)

    @staticmethod
    def _remove(site: Site, name: str) -> None:
        try:
            inline = site.call("iam", "ListRolePolicies", RoleName=name)["PolicyNames"]
            attached = site.call("iam", "ListAttachedRolePolicies", RoleName=name)
        except ResourceError:
            return  # it is not there
        for policy in inline:
            site.remove("iam", "DeleteRolePolicy", RoleName=name, PolicyName=policy)
        for found in attached["AttachedPolicies"]:
            site.remove("iam", "DetachRolePolicy", RoleName=name, PolicyArn=found["PolicyArn"])
        site.remove("iam", "DeleteRole", RoleName=name)


class InlinePolicy(Kind):
    """AWS::IAM::Policy: a policy inside roles."""

    name_property = "PolicyName"
    longest = 128

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = self.name(site, logical_id, properties)
        for role in properties.get("Roles", ()):
            _put(site, role, name, properties["PolicyDocument"])
        return Made(name, {"Id": name})

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        if properties.get("PolicyName") != resource.properties.get("PolicyName"):
            return None
        self._remove(site, resource, set(properties.get("Roles", ())))
        for role in properties.get("Roles", ()):
            _put(site, role, resource.physical_id, properties["PolicyDocument"])
        return Made(resource.physical_id, resource.attributes)

    def delete(self, site: Site, resource: Resource) -> None:
        self._remove(site, resource, set())

    @staticmethod
    def _remove(site: Site, resource: Resource, kept: set[str]) -> None:
        for role in set(resource.properties.get("Roles", ())) - kept:
            name = resource.physical_id
            site.remove("iam", "DeleteRolePolicy", RoleName=role, PolicyName=name)


class ManagedPolicy(Kind):
    """AWS::IAM::ManagedPolicy, attached to roles."""

    name_property = "ManagedPolicyName"
    longest = 128

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        policy = site.call(
            "iam",
            "CreatePolicy",
            PolicyName=self.name(site, logical_id, properties),
            PolicyDocument=json.dumps(properties["PolicyDocument"]),
            Path=properties.get("Path"),
            Description=properties.get("Description"),
        )["Policy"]
        for role in properties.get("Roles", ()):
            site.call("iam", "AttachRolePolicy", RoleName=role, PolicyArn=policy["Arn"])
        return Made(policy["Arn"], {"PolicyArn": policy["Arn"], "PolicyId": policy["PolicyId"]})

    def delete(self, site: Site, resource: Resource) -> None:
        arn = resource.physical_id
        for role in resource.properties.get("Roles", ()):
            site.remove("iam", "DetachRolePolicy", RoleName=role, PolicyArn=arn)
        site.remove("iam", "DeletePolicy", PolicyArn=arn)


def _put(site: Site, role: str, name: str, document: dict[str, Any]) -> None:
    text = json.dumps(document)
    site.call("iam", "PutRolePolicy", RoleName=role, PolicyName=name, PolicyDocument=text)
