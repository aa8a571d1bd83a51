"""What there is to know of a type of resource; and the types that are nothing, or moto's own."""

# ruff: noqa: D102 - ResourceType says what the verbs are

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.stack import ResourceError

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import Resource

__all__ = ["MotoType", "NoopType", "PhysicalResource", "ResourceType"]


@dataclass(frozen=True)
class PhysicalResource:
    """A resource that has been made: what Ref and Fn::GetAtt return."""

    physical_id: str
    attributes: dict[str, Any] = field(default_factory=dict)


class ResourceType:
    """A type of resource: how one is made, changed and deleted.

    Attributes
    ----------
    name_property
        The property that names it, "" where there is none.
    longest
        How long its name may be.
    """

    name_property = ""
    longest = 63

    def name(self, context: StackContext, logical_id: str, properties: dict[str, Any]) -> str:
        """Return the name that its template gives, or a new one."""
        given = properties.get(self.name_property)
        return str(given) if given else context.new_name(logical_id, properties, self.longest)

    def is_renamed(self, resource: Resource, properties: dict[str, Any]) -> bool:
        """Say whether other properties give it another name, which only a new one can have."""
        return bool(
            properties.get(self.name_property) != resource.properties.get(self.name_property)
        )

    def assumed(self, context: StackContext, resource: Resource) -> PhysicalResource:
        """Return what there would be of a resource in whose making the service ended."""
        name = self.name(context, resource.logical_id, resource.properties)
        return PhysicalResource(name, {self.name_property: name})

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        """Make one.

        Raises
        ------
        ResourceError
            It cannot be made; nothing of it is left behind.
        """
        raise NotImplementedError

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        """Change one to have other properties; None when only a new one can have them.

        Raises
        ------
        ResourceError
            It cannot be changed.
        """
        del context, resource, properties
        return None

    def delete(self, context: StackContext, resource: Resource) -> None:
        """Delete one; one that is not there is deleted.

        Raises
        ------
        ResourceError
            It cannot be deleted.
        """
        raise NotImplementedError


class NoopType(ResourceType):
    """What is accepted and makes nothing, such as the CDK's metadata."""

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        return PhysicalResource(context.new_name(logical_id, properties))

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        del context, properties
        return PhysicalResource(resource.physical_id, resource.attributes)

    def delete(self, context: StackContext, resource: Resource) -> None:
        """Do nothing."""


class MotoType(ResourceType):
    """A type that moto's CloudFormation can make; it does not come back with a state folder.

    Parameters
    ----------
    type_name
        Such as AWS::SQS::Queue.

    Raises
    ------
    ResourceError
        moto does not know it either.
    """

    def __init__(self, type_name: str) -> None:
        if type_name.startswith("AWS::SageMaker::"):
            raise ResourceError(
                f"{type_name} is not rehearsed here: of SageMaker there are models, endpoint "
                "configs and endpoints. The same template works on AWS."
            )
        # moto takes seconds to import all of its services; nobody has asked for them before.
        from moto.cloudformation.parsing import get_model_map

        model = get_model_map().get(type_name)
        if model is None:
            raise ResourceError(f"The local service does not know the resource type {type_name}.")
        self._type = type_name
        self._model: Any = model
        self.name_property = str(model.cloudformation_name_type() or "")

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        described = {"Type": self._type, "Properties": properties}
        try:
            record = self._model.create_from_cloudformation_json(
                name,
                described,
                context.account,
                context.region,
                LogicalId=logical_id,
                StackId=context.stack_id,
                ResourceType=self._type,
            )
        except Exception as error:
            raise ResourceError(f"{type(error).__name__}: {error}") from error
        attributes = {}
        for attribute in ("Arn", "Id", "QueueUrl", "QueueName", "KeyId", "Name", "Value"):
            try:
                attributes[attribute] = record.get_cfn_attribute(attribute)
            except Exception:  # noqa: BLE001, S112 - it has no such attribute
                continue
        return PhysicalResource(str(record.physical_resource_id), attributes)

    def delete(self, context: StackContext, resource: Resource) -> None:
        described = {"Type": self._type, "Properties": resource.properties}
        try:
            self._model.delete_from_cloudformation_json(
                resource.physical_id, described, context.account, context.region
            )
        except Exception as error:
            raise ResourceError(f"{type(error).__name__}: {error}") from error
