"""AWS::ApplicationAutoScaling: what may be scaled, and when."""

# ruff: noqa: D102 - Kind says what the verbs are

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.kinds.kind import Kind, Made

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.record import Resource
    from mmekit_local.aws.cloudformation.site import Site

__all__ = ["ScalableTarget", "ScalingPolicy"]

_SERVICE = "application-autoscaling"
_IDENTITY = ("ServiceNamespace", "ResourceId", "ScalableDimension")


class ScalableTarget(Kind):
    """AWS::ApplicationAutoScaling::ScalableTarget."""

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        del logical_id
        given = {name: value for name, value in properties.items() if name != "ScheduledActions"}
        site.call(_SERVICE, "RegisterScalableTarget", **given)
        service, resource, dimension = (str(properties[name]) for name in _IDENTITY)
        return Made(
            f"{resource}|{dimension}|{service}", {"Id": f"{resource}|{dimension}|{service}"}
        )

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        if any(properties[name] != resource.properties[name] for name in _IDENTITY):
            return None
        return self.create(site, resource.logical_id, properties)

    def delete(self, site: Site, resource: Resource) -> None:
        identity = {name: resource.properties[name] for name in _IDENTITY}
        site.remove(_SERVICE, "DeregisterScalableTarget", **identity)


class ScalingPolicy(Kind):
    """AWS::ApplicationAutoScaling::ScalingPolicy."""

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        del logical_id
        given = {name: value for name, value in properties.items() if name != "ScalingTargetId"}
        arn = site.call(_SERVICE, "PutScalingPolicy", **{**given, **_target(properties)})
        return Made(arn["PolicyARN"], {"Arn": arn["PolicyARN"]})

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        before = resource.properties
        if before["PolicyName"] != properties["PolicyName"] or _target(before) != _target(
            properties
        ):
            return None
        return self.create(site, resource.logical_id, properties)

    def delete(self, site: Site, resource: Resource) -> None:
        site.remove(
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
