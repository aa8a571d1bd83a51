"""What there is to know of a type of resource."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.record import Resource
    from mmekit_local.aws.cloudformation.site import Site

__all__ = ["Kind", "Made"]


@dataclass(frozen=True)
class Made:
    """A resource that has been made: what Ref and Fn::GetAtt return."""

    physical_id: str
    attributes: dict[str, Any] = field(default_factory=dict)


class Kind:
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

    def name(self, site: Site, logical_id: str, properties: dict[str, Any]) -> str:
        """Return the name that its template gives, or a new one."""
        given = properties.get(self.name_property)
        return str(given) if given else site.new_name(logical_id, properties, self.longest)

    def presumed(self, site: Site, resource: Resource) -> Made:
        """Return what there would be of a resource in whose making the service ended."""
        name = self.name(site, resource.logical_id, resource.properties)
        return Made(name, {self.name_property: name})

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        """Make one.

        Raises
        ------
        ResourceError
            It cannot be made; nothing of it is left behind.
        """
        raise NotImplementedError

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        """Change one to have other properties; None when only a new one can have them.

        Raises
        ------
        ResourceError
            It cannot be changed.
        """
        del site, resource, properties
        return None

    def delete(self, site: Site, resource: Resource) -> None:
        """Delete one; one that is not there is deleted.

        Raises
        ------
        ResourceError
            It cannot be deleted.
        """
        raise NotImplementedError
