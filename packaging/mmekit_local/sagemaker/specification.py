"""What an endpoint shall be: its variants and their models, as boto3's users described them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "AsyncSpecification",
    "CaptureSpecification",
    "EndpointId",
    "EndpointSpecification",
    "ModelSpecification",
    "ServerlessSpecification",
    "VariantSpecification",
]


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
    image
        The container's image URI.
    caches_models
        False when MultiModelConfig says ModelCacheSetting=Disabled: a model is unloaded after
        each call.
    role
        ExecutionRoleArn.
    isolated
        EnableNetworkIsolation: the container is to have no network.
    """

    name: str
    data_url: str
    multi_model: bool
    environment: tuple[tuple[str, str], ...] = ()
    image: str = ""
    caches_models: bool = True
    role: str = ""
    isolated: bool = False


@dataclass(frozen=True)
class ServerlessSpecification:
    """ServerlessConfig of a variant: MemorySizeInMB, MaxConcurrency, ProvisionedConcurrency."""

    memory_mb: int
    max_concurrency: int
    provisioned_concurrency: int = 0


@dataclass(frozen=True)
class VariantSpecification:
    """A production variant of an endpoint config; it has an instance type or is serverless.

    Attributes
    ----------
    volume_gb
        VolumeSizeInGB; None where it is not said.
    startup_seconds
        ContainerStartupHealthCheckTimeoutInSeconds; None where it is not said.
    """

    name: str
    model: ModelSpecification
    instance_count: int
    weight: float
    instance_type: str | None = None
    serverless: ServerlessSpecification | None = None
    volume_gb: int | None = None
    startup_seconds: float | None = None


@dataclass(frozen=True)
class CaptureSpecification:
    """DataCaptureConfig of an endpoint config.

    Attributes
    ----------
    percentage
        InitialSamplingPercentage, 0 to 100.
    destination
        DestinationS3Uri, without a slash at its end.
    captures_input, captures_output
        Which CaptureMode is among the CaptureOptions.
    csv_types, json_types
        Content types that are written as they are; others become base64.
    """

    percentage: float
    destination: str
    captures_input: bool
    captures_output: bool
    csv_types: tuple[str, ...] = ()
    json_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class AsyncSpecification:
    """AsyncInferenceConfig of an endpoint config.

    Attributes
    ----------
    output, failure
        S3OutputPath and S3FailurePath; "" where there is none.
    success_topic, error_topic
        ARNs of SNS topics; "" where there is none.
    success_has_answer, error_has_answer
        Whether IncludeInferenceResponseIn names them.
    concurrency
        MaxConcurrentInvocationsPerInstance; None where SageMaker may choose.
    key
        KmsKeyId, "" where there is none.
    """

    output: str
    failure: str = ""
    success_topic: str = ""
    error_topic: str = ""
    success_has_answer: bool = False
    error_has_answer: bool = False
    concurrency: int | None = None
    key: str = ""


@dataclass(frozen=True)
class EndpointSpecification:
    """An endpoint: its identity and its variants, at least one.

    Attributes
    ----------
    shadows
        The shadow variants, which get copies of requests and whose answers nobody gets.
    asynchronous
        How requests are queued; None where they are answered at once.
    publish_seconds
        MetricPublishFrequencyInSeconds; None where it is not said.
    """

    id: EndpointId
    config_name: str
    variants: tuple[VariantSpecification, ...]
    capture: CaptureSpecification | None = None
    shadows: tuple[VariantSpecification, ...] = ()
    asynchronous: AsyncSpecification | None = None
    publish_seconds: float | None = None
