"""An endpoint as it is hosted: what it shall be and what runs; and changes of what it shall be."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mmekit.plural import counted
from mmekit_local.sagemaker.control.records import summarise
from mmekit_local.sagemaker.instances.fleet import FleetStartError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from moto.sagemaker.models import FakeEndpoint

    from mmekit_local.sagemaker.instances.fleet import Fleet
    from mmekit_local.sagemaker.specification import EndpointSpecification, VariantSpecification

__all__ = [
    "HostedEndpoint",
    "VariantCapacity",
    "capacities_of",
    "described_capacities",
    "failure_reason",
    "with_capacities",
    "with_retained_properties",
]

logger = logging.getLogger("mmekit.endpoint")


@dataclass(frozen=True)
class VariantCapacity:
    """What a variant shall have: instances and weight; None leaves it as it is."""

    instances: int | None = None
    weight: float | None = None


@dataclass
class HostedEndpoint:
    """An endpoint that has, had or is to have containers."""

    record: FakeEndpoint
    desired: EndpointSpecification | None
    """What it shall be; None when its config or a model of that is not there."""
    fleet: Fleet | None = None
    starting: Fleet | None = None
    """What shall take the fleet's place when it is up."""
    previous: EndpointSpecification | None = None
    """What it was before the last change."""
    fallback: EndpointSpecification | None = None
    """What was in service when the service ended in the middle of an update."""
    work: asyncio.Task[None] | None = None
    change: asyncio.Task[None] | None = None
    stopping: bool = False
    config_name: str = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the config that the record names."""
        self.config_name = self.record.endpoint_config_name

    def summarise(self) -> None:
        """Write into moto's record what runs and what shall run."""
        if self.desired is not None:
            summarise(self.record, self.desired, self.fleet, self.config_name)


def with_retained_properties(
    old: EndpointSpecification, new: EndpointSpecification, retained: frozenset[str]
) -> EndpointSpecification:
    """Return a new specification with an old one's properties."""
    before = {variant.name: variant for variant in (*old.variants, *old.shadows)}

    def kept(variant: VariantSpecification) -> VariantSpecification:
        was = before.get(variant.name)
        if was is not None and was.serverless is None and variant.serverless is None:
            if "DesiredInstanceCount" in retained:
                variant = replace(variant, instance_count=was.instance_count)
            if "DesiredWeight" in retained:
                variant = replace(variant, weight=was.weight)
        return variant

    return replace(
        new,
        variants=tuple(map(kept, new.variants)),
        shadows=tuple(map(kept, new.shadows)),
        capture=old.capture if "DataCaptureConfig" in retained else new.capture,
    )


def with_capacities(
    specification: EndpointSpecification, capacities: Mapping[str, VariantCapacity]
) -> EndpointSpecification:
    """Return a specification with other instance counts and weights."""

    def changed(variant: VariantSpecification) -> VariantSpecification:
        capacity = capacities.get(variant.name, VariantCapacity())
        count = variant.instance_count if capacity.instances is None else capacity.instances
        weight = variant.weight if capacity.weight is None else capacity.weight
        return replace(variant, instance_count=count, weight=weight)

    return replace(
        specification,
        variants=tuple(map(changed, specification.variants)),
        shadows=tuple(map(changed, specification.shadows)),
    )


def capacities_of(specification: EndpointSpecification) -> dict[str, VariantCapacity]:
    """Return the capacities of the variants that have instances of their own."""
    return {
        variant.name: VariantCapacity(variant.instance_count, variant.weight)
        for variant in (*specification.variants, *specification.shadows)
        if variant.serverless is None
    }


def described_capacities(capacities: Mapping[str, VariantCapacity]) -> str:
    """Return capacities as a line of the log says them."""
    parts = []
    for name, capacity in capacities.items():
        if capacity.instances is not None:
            parts.append(f"{name}: {counted(capacity.instances, 'instance')}")
        if capacity.weight is not None:
            parts.append(f"{name}: weight {capacity.weight:g}")
    return ", ".join(parts)


def failure_reason(error: Exception) -> str:
    """Return the FailureReason for what kept instances from starting."""
    if isinstance(error, LookupError):
        return str(error.args[0])
    if isinstance(error, FleetStartError):
        return (
            "The primary container for a production variant did not pass the ping health check. "
            f"Please check CloudWatch logs for this endpoint. {error}"
        )
    logger.error("instances cannot be started", exc_info=error)
    return f"The instances could not be started: {type(error).__name__}: {error}"
