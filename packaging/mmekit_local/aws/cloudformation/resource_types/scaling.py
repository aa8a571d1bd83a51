"""AWS::ApplicationAutoScaling: what may be scaled, and when."""

# ruff: noqa: D102 - ResourceType says what the verbs are

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.resource_types.resource_type import (
    PhysicalResource,
    ResourceType,
)

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.record import Resource

__all__ = ["ScalableTargetType", "ScalingPolicyType"]

_SERVICE = "application-autoscaling"
_IDENTITY = ("ServiceNamespace", "ResourceId", "ScalableDimension")


class ScalableTargetType(ResourceType):
    """AWS::ApplicationAutoScaling::ScalableTarget."""

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        del logical_id
        given = {name: value for name, value in properties.items() if name != "ScheduledActions"}
        context.call(_SERVICE, "RegisterScalableTarget", **given)
        service, resource, dimension = (str(properties[name]) for name in _IDENTITY)
        return PhysicalResource(
            f"{resource}|{dimension}|{service}", {"Id": f"{resource}|{dimension}|{service}"}
        )

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        if any(properties[name] != resource.properties[name] for name in _IDENTITY):
            return None
        return self.create(context, resource.logical_id, properties)

    def delete(self, context: StackContext, resource: Resource) -> None:
        identity = {name: resource.properties[name] for name in _IDENTITY}
        context.remove(_SERVICE, "DeregisterScalableTarget", **identity)


class ScalingPolicyType(ResourceType):
    """AWS::ApplicationAutoScaling::ScalingPolicy."""

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        del logical_id
        given = {name: value for name, value in properties.items() if name != "ScalingTargetId"}
        arn = context.call(_SERVICE, "PutScalingPolicy", **{**given, **_target(properties)})
        return PhysicalResource(arn["PolicyARN"], {"Arn": arn["PolicyARN"]})

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        before = resource.properties
        if before["PolicyName"] != properties["PolicyName"] or _target(before) != _target(
            properties
        ):
            return None
        return self.create(context, resource.logical_id, properties)

    def delete(self, context: StackContext, resource: Resource) -> None:
        context.remove(
            _SERVICE,
            "DeleteScalingPolicy",
            PolicyName=resource.properties["PolicyName"],
            **_target(resource.properties),
        )


def _target(properties: dict[str, Any]) -> dict[str, str]:
    """Return what a policy is for, which a template may say by the target's Ref."""
    if "ScalingTargetId" in properties:
        resource, dimension, service = str(properties["ScalingTargetId"]).split("|")
        return dict(zip(_IDENTITY, (service, resource, dimension), strict=True))
    return {name: str(properties[name]) for name in _IDENTITY}
