"""What the instances of a variant are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.sagemaker.aws_client import ReadObject
    from mmekit_local.sagemaker.instances.launcher import ContainerLauncher
    from mmekit_local.sagemaker.journal import Journal
    from mmekit_local.sagemaker.observability.metrics import VariantMetrics
    from mmekit_local.sagemaker.options import Limits
    from mmekit_local.sagemaker.specification import EndpointId, ModelSpecification

__all__ = ["InstanceParts"]


@dataclass(frozen=True)
class InstanceParts:
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
    journal
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
    limits: Limits
    metrics: VariantMetrics
    journal: Journal
    new_sink: Callable[[], Callable[[str], None] | None]
