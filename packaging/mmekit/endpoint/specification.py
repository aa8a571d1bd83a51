"""What an endpoint shall be: its variants and their models, as boto3's users described them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["EndpointId", "EndpointSpecification", "ModelSpecification", "VariantSpecification"]


class EndpointId(NamedTuple):
    """An endpoint's name, which is unique in its account and region."""

    account: str
    region: str
    name: str


@dataclass(frozen=True)
class ModelSpecification:
    """A SageMaker model: what CreateModel was given.

    Parameters
    ----------
    name
        ModelName.
    data_url
        ModelDataUrl: the archive of a single-model endpoint, the prefix of a multi-model one.
    multi_model
        Whether Mode is ``MultiModel``.
    environment
        Environment variables of the container.
    """

    name: str
    data_url: str
    multi_model: bool
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class VariantSpecification:
    """A production variant of an endpoint config."""

    name: str
    model: ModelSpecification
    instance_count: int
    weight: float
    instance_type: str | None = None


@dataclass(frozen=True)
class EndpointSpecification:
    """An endpoint: its identity and its variants, at least one."""

    id: EndpointId
    config_name: str
    variants: tuple[VariantSpecification, ...]
