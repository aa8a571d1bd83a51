"""What the instances of a variant are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.instances.launcher import Placement

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mmekit_local.sagemaker.aws_client import ReadObject
    from mmekit_local.sagemaker.event_log import EndpointEvents
    from mmekit_local.sagemaker.instances.launcher import ContainerLauncher
    from mmekit_local.sagemaker.observability.metrics import VariantMetrics
    from mmekit_local.sagemaker.options import EndpointLimits
    from mmekit_local.sagemaker.specification import EndpointId, ModelSpecification

__all__ = ["InstanceTemplate"]


@dataclass(frozen=True)
class InstanceTemplate:
    """What all instances of a variant are made of.

    Attributes
    ----------
    endpoint, variant
        Whose instances they are.
    model
        What they serve.
    memory, vcpus
        Of their instance type; None where that is not known.
    launcher
        Starts their containers.
    account
        The variables by which these reach AWS.
    read_object
        Reads from S3.
    limits
        Time limits.
    metrics
        Where the variant's metrics are gathered.
    event_log
        Where events are recorded.
    new_sink
        Returns where the output of one more container goes, line by line.
    """

    endpoint: EndpointId
    variant: str
    model: ModelSpecification
    memory: int | None
    vcpus: int | None
    launcher: ContainerLauncher
    account: tuple[tuple[str, str], ...]
    read_object: ReadObject
    limits: EndpointLimits
    metrics: VariantMetrics
    event_log: EndpointEvents
    new_sink: Callable[[], Callable[[str], None] | None]

    def placement(self, label: str, folder: Path, model: Path | None) -> Placement:
        """Return what a launcher is told of one more container.

        Parameters
        ----------
        label
            The instance's name in the log.
        folder
            A folder of its own.
        model
            The unpacked archive of a single-model container; None for a multi-model one.
        """
        return Placement(
            label,
            folder,
            self.model.environment,
            account=self.account,
            memory=self.memory,
            vcpus=self.vcpus,
            model=model,
            image=self.model.image,
            isolated=self.model.isolated,
            sink=self.new_sink(),
        )
