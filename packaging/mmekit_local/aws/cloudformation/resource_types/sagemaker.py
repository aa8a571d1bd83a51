"""AWS::SageMaker, whose endpoints are made when they serve; AWS::ApplicationAutoScaling."""

# ruff: noqa: D102 - ResourceType says what the verbs are

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.resource_types.resource_type import (
    PhysicalResource,
    ResourceType,
)
from mmekit_local.aws.cloudformation.stack import ResourceError

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import Resource

__all__ = [
    "EndpointConfigType",
    "EndpointType",
    "ModelType",
    "ScalableTargetType",
    "ScalingPolicyType",
]

_UPDATED = (
    "EndpointConfigName",
    "RetainAllVariantProperties",
    "ExcludeRetainedVariantProperties",
    "DeploymentConfig",
    "RetainDeploymentConfig",
)


_SETTLED = ("InService", "Failed", "OutOfService", "UpdateRollbackFailed")

_SERVICE = "application-autoscaling"
_IDENTITY = ("ServiceNamespace", "ResourceId", "ScalableDimension")


class ModelType(ResourceType):
    """AWS::SageMaker::Model; every change needs a new one."""

    name_property = "ModelName"

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        answer = context.call("sagemaker", "CreateModel", **{**properties, "ModelName": name})
        return PhysicalResource(
            answer["ModelArn"], {"ModelName": name, "ModelArn": answer["ModelArn"]}
        )

    def delete(self, context: StackContext, resource: Resource) -> None:
        context.remove("sagemaker", "DeleteModel", ModelName=resource.attributes["ModelName"])


class EndpointConfigType(ResourceType):
    """AWS::SageMaker::EndpointConfig; every change needs a new one."""

    name_property = "EndpointConfigName"

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        given = {**properties, "EndpointConfigName": name}
        arn = context.call("sagemaker", "CreateEndpointConfig", **given)["EndpointConfigArn"]
        return PhysicalResource(arn, {"EndpointConfigName": name, "Id": arn})

    def delete(self, context: StackContext, resource: Resource) -> None:
        name = resource.attributes["EndpointConfigName"]
        context.remove("sagemaker", "DeleteEndpointConfig", EndpointConfigName=name)


class EndpointType(ResourceType):
    """AWS::SageMaker::Endpoint; another config is an UpdateEndpoint."""

    name_property = "EndpointName"

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        answer = context.call(
            "sagemaker",
            "CreateEndpoint",
            EndpointName=name,
            EndpointConfigName=properties.get("EndpointConfigName"),
            Tags=properties.get("Tags"),
            DeploymentConfig=properties.get("DeploymentConfig"),
        )
        try:
            described = self._settled(context, name)
        except ResourceError:
            self._remove(context, name)
            raise
        if described["EndpointStatus"] != "InService":
            self._remove(context, name)
            raise ResourceError(
                f"Endpoint {name} did not come into service: {described.get('FailureReason')}"
            )
        return PhysicalResource(
            answer["EndpointArn"], {"EndpointName": name, "Id": answer["EndpointArn"]}
        )

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        if self.is_renamed(resource, properties):
            return None
        name, wanted = resource.attributes["EndpointName"], properties.get("EndpointConfigName")
        given = {member: properties.get(member) for member in _UPDATED}
        # Settled first: a client may be changing it, and what is in progress cannot be updated.
        if self._settled(context, name)["EndpointConfigName"] != wanted:
            context.call("sagemaker", "UpdateEndpoint", EndpointName=name, **given)
            described = self._settled(context, name)
            if described["EndpointConfigName"] != wanted:
                raise ResourceError(
                    f"Endpoint {name} was not updated: {described.get('FailureReason')}"
                )
        return PhysicalResource(resource.physical_id, resource.attributes)

    def delete(self, context: StackContext, resource: Resource) -> None:
        self._remove(context, resource.attributes["EndpointName"])

    def _settled(self, context: StackContext, name: str) -> dict[str, Any]:
        """Return what DescribeEndpoint says when nothing happens to an endpoint any more."""
        described: dict[str, Any] = {}

        def settled() -> bool:
            described.update(context.call("sagemaker", "DescribeEndpoint", EndpointName=name))
            return described["EndpointStatus"] in _SETTLED

        context.wait_until(settled)
        return described

    def _remove(self, context: StackContext, name: str) -> None:
        try:
            context.remove("sagemaker", "DeleteEndpoint", EndpointName=name)
        except ResourceError as error:
            if "in-progress" not in str(error):
                raise
            context.withdraw(name)
        # Not wait_until: work that was cancelled cleans up all the same, and a name is free only
        # when the endpoint is gone.
        while not context.closing.is_set():
            try:
                context.call("sagemaker", "DescribeEndpoint", EndpointName=name)
            except ResourceError:
                return
            context.closing.wait(0.1)


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
