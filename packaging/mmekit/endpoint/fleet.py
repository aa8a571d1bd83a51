"""The instances that serve an endpoint under one endpoint config, variant by variant."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

from mmekit.endpoint.errors import validation_error
from mmekit.endpoint.instance import Instance, InstanceStartError
from mmekit.endpoint.router import pick_instance, pick_variant

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit.endpoint.launcher import ContainerLauncher
    from mmekit.endpoint.metrics import Metrics, VariantMetrics
    from mmekit.endpoint.model_source import ReadObject
    from mmekit.endpoint.options import EndpointOptions
    from mmekit.endpoint.specification import (
        EndpointId,
        EndpointSpecification,
        VariantSpecification,
    )

__all__ = ["Fleet", "FleetStartError", "Variant"]


class FleetStartError(Exception):
    """An instance did not come up; the text is the endpoint's FailureReason."""


class Variant:
    """A production variant and its instances."""

    def __init__(
        self,
        specification: VariantSpecification,
        instances: tuple[Instance, ...],
        metrics: VariantMetrics,
    ) -> None:
        self.name = specification.name
        self.header = specification.name.encode("latin-1")
        self.weight = specification.weight
        self.multi_model = specification.model.multi_model
        self.instances = instances
        self.metrics = metrics

    def instance_for(self, target: str) -> Instance:
        """Return the instance that shall serve a target model."""
        return pick_instance(self.instances, target)


class Fleet:
    """All instances of an endpoint.

    Parameters
    ----------
    specification
        What to run.
    options
        May override the number of instances; holds the limits.
    launcher
        Starts containers.
    read_object
        Reads from S3.
    folder
        Where instances have their folders.
    metrics
        Where metrics are gathered.
    """

    def __init__(
        self,
        specification: EndpointSpecification,
        *,
        options: EndpointOptions,
        launcher: ContainerLauncher,
        read_object: ReadObject,
        folder: Path,
        metrics: Metrics,
    ) -> None:
        self.id: EndpointId = specification.id
        self.config_name = specification.config_name
        self._folder = folder
        variants = []
        for place, variant in enumerate(specification.variants, 1):
            book = metrics.variant(specification.id, variant.name)
            count = options.instances or variant.instance_count
            instances = tuple(
                Instance(
                    endpoint=specification.id,
                    variant=variant.name,
                    number=number,
                    model=variant.model,
                    folder=folder / f"{place}-{number}",
                    launcher=launcher,
                    read_object=read_object,
                    limits=options.limits,
                    metrics=book,
                )
                for number in range(1, count + 1)
            )
            variants.append(Variant(variant, instances, book))
        self.variants = tuple(variants)

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances of all variants."""
        return tuple(instance for variant in self.variants for instance in variant.instances)

    def variant_for(self, wanted: str | None) -> Variant:
        """Return the variant that shall serve a request: the one it names, or one by weight.

        Raises
        ------
        AwsError
            It names a variant that the endpoint does not have.
        """
        if wanted is None:
            return pick_variant(self.variants)
        for variant in self.variants:
            if variant.name == wanted:
                return variant
        raise validation_error(f"Variant {wanted} not found for endpoint {self.id.name}.")

    async def start(self) -> None:
        """Start every instance and wait for all of them.

        Raises
        ------
        FleetStartError
            One of them did not come up.
        """
        outcomes = await asyncio.gather(
            *(instance.start() for instance in self.instances), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, InstanceStartError):
                raise FleetStartError(str(outcome)) from outcome
            if isinstance(outcome, BaseException):
                raise outcome

    async def stop(self, *, drain: bool = False) -> None:
        """Stop every instance and remove its folder; with `drain`, let requests finish first."""
        await asyncio.gather(*(instance.stop(drain=drain) for instance in self.instances))
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
