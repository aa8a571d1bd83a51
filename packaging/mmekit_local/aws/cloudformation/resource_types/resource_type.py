"""What there is to know of a type of resource."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.record import Resource

__all__ = ["PhysicalResource", "ResourceType"]


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
