"""What moto's records of SageMaker say of an endpoint, as our own data; and what they are told."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID

from mmekit_local.sagemaker.control.model_packages import ModelPackages, containers_of
from mmekit_local.sagemaker.errors import validation_exception
from mmekit_local.sagemaker.specification import (
    AsyncSpecification,
    CaptureSpecification,
    EndpointId,
    EndpointSpecification,
    ModelSpecification,
    ServerlessSpecification,
    VariantSpecification,
)

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from moto.sagemaker.models import FakeEndpoint, SageMakerModelBackend

    from mmekit_local.sagemaker.instances.fleet import Fleet
    from mmekit_local.sagemaker.instances.variant import Variant

__all__ = [
    "RESOURCE_NAMES",
    "Records",
    "sagemaker_regions",
    "set_failure_reason",
    "set_members",
    "set_status",
    "summarise",
    "variant_summaries",
]

RESOURCE_NAMES = {
    "model": "model",
    "endpoint-config": "endpoint configuration",
    "endpoint": "endpoint",
}
"""What a resource is, as its ARN spells it: as AWS's messages call it."""


class Records:
    """What moto records of SageMaker for one account and region.

    Parameters
    ----------
    account, region
        Whose records they are.
    are_replayed
        Whether what a state folder holds is being played back into them.
    """

    def __init__(self, account: str, region: str, *, are_replayed: bool = False) -> None:
        self.account = account
        self.region = region
        self.are_replayed = are_replayed
        self._backend: SageMakerModelBackend = get_backend("sagemaker")[account][region]

    @property
    def endpoints(self) -> dict[str, FakeEndpoint]:
        """Moto's own table of endpoints, by name; a change to it is a change of state."""
        endpoints: dict[str, FakeEndpoint] = self._backend.endpoints
        return endpoints

    @property
    def model_packages(self) -> ModelPackages:
        """The model registry."""
        return ModelPackages(self._backend)

    def arn(self, kind: str, name: str) -> str:
        """Return a resource's ARN; `kind` as ARNs spell it (model, endpoint-config, endpoint)."""
        return f"arn:aws:sagemaker:{self.region}:{self.account}:{kind}/{name}"

    def has(self, kind: str, name: str) -> bool:
        """Say whether a resource exists; `kind` as ARNs spell it."""
        tables: dict[str, Container[str]] = {
            "model": self._models,
            "endpoint-config": self._backend.endpoint_configs,
            "endpoint": self._backend.endpoints,
        }
        return name in tables[kind]

    def require(self, kind: str, name: str) -> None:
        """Raise a ValidationException where a resource does not exist."""
        if not self.has(kind, name):
            where = self.arn(kind, name)
            raise validation_exception(f'Could not find {RESOURCE_NAMES[kind]} "{where}".')

    def is_multi_model(self, model: str) -> bool:
        """Say whether a model, which exists, has a container whose Mode is MultiModel."""
        return any(found.get("Mode") == "MultiModel" for found in self._containers_of(model))

    def images(self, model: str) -> list[str]:
        """Return the images of the containers of a model, which exists."""
        return [str(found.get("Image") or "") for found in self._containers_of(model)]

    def network_of(self, model: str) -> list[str]:
        """Return what a model, which exists, says of its network: members of CreateModel."""
        record = self._models[model]
        said = {
            "VpcConfig": record.vpc_config,
            "EnableNetworkIsolation": record.enable_network_isolation,
        }
        return [member for member, value in said.items() if value]

    def container_counts(self, config_name: str) -> dict[str, int]:
        """Return the models of an endpoint config, which exists, and how many containers each has.

        A model that does not exist (any more) has none.
        """
        names = [str(variant["ModelName"]) for variant in self._variants(config_name)]
        return {
            name: len(self._containers_of(name)) if name in self._models else 0 for name in names
        }

    def production_variants(self, config_name: str) -> list[dict[str, Any]]:
        """Return the production variants of an endpoint config, which exists, as it has them."""
        return list(self._backend.endpoint_configs[config_name].production_variants)

    def instance_counts(self, config_name: str) -> Counter[str]:
        """Return how many instances an endpoint config, which exists, wants of each type."""
        found: Counter[str] = Counter()
        for variant in self._variants(config_name):
            if "InstanceType" in variant:
                found[variant["InstanceType"]] += int(variant.get("InitialInstanceCount") or 1)
        return found

    def specification(self, name: str, config_name: str) -> EndpointSpecification:
        """Gather what an endpoint config and its models say.

        Raises
        ------
        LookupError
            The config or one of its models does not exist (any more).
        """
        config = self._backend.endpoint_configs.get(config_name)
        if config is None:
            raise LookupError(f"Could not find endpoint configuration {config_name!r}.")
        production = len(config.production_variants)
        variants = tuple(_variant(self._backend, one) for one in _described_variants(config))
        metrics: dict[str, Any] = getattr(config, "metrics_config", None) or {}
        return EndpointSpecification(
            EndpointId(self.account, self.region, name),
            config_name,
            variants[:production],
            _capture(config.data_capture_config or {}),
            shadows=variants[production:],
            asynchronous=_asynchronous(config.async_inference_config or {}),
            publish_seconds=metrics.get("MetricPublishFrequencyInSeconds"),
        )

    @property
    def _models(self) -> dict[str, Any]:
        models: dict[str, Any] = self._backend._models  # noqa: SLF001 - moto's own ways to ask raise
        return models

    def _containers_of(self, model: str) -> list[dict[str, Any]]:
        return containers_of(self._backend, self._models[model])

    def _variants(self, config_name: str) -> list[dict[str, Any]]:
        return _described_variants(self._backend.endpoint_configs[config_name])


def sagemaker_regions() -> frozenset[str]:
    """Return the regions that have SageMaker."""
    return frozenset(get_backend("sagemaker")[DEFAULT_ACCOUNT_ID].regions)


def _described_variants(config: Any) -> list[dict[str, Any]]:
    """Return the variants of moto's record of an endpoint config, the shadow variants last."""
    shadows: list[dict[str, Any]] = getattr(config, "shadow_production_variants", None) or []
    return [*config.production_variants, *shadows]


def set_status(record: FakeEndpoint, status: str) -> None:
    """Write an endpoint's status, and that it has just been modified."""
    record.endpoint_status = status
    record.last_modified_time = datetime.now(timezone.utc).replace(tzinfo=None)  # moto is naive


def set_failure_reason(record: FakeEndpoint, reason: str | None) -> None:
    """Write why an endpoint, or its last change, has failed."""
    setattr(record, "failure_reason", reason)  # noqa: B010 - moto types it as always None


def set_members(record: FakeEndpoint, **members: Any) -> None:
    """Write members of DescribeEndpoint's answer that moto does not know; None takes one out."""
    for name, value in members.items():
        setattr(record, name, value)


def summarise(
    record: FakeEndpoint, desired: EndpointSpecification, fleet: Fleet | None, config_name: str
) -> None:
    """Write what an endpoint runs and shall run, as DescribeEndpoint tells it.

    Parameters
    ----------
    record
        Is written to.
    desired
        What the endpoint shall be.
    fleet
        What runs; None when nothing does yet.
    config_name
        The endpoint config in force.
    """
    record.endpoint_config_name = config_name
    running = {} if fleet is None else {variant.name: variant for variant in fleet.all_variants}
    record.production_variants = variant_summaries(record, desired.variants, running)
    set_members(
        record,
        shadow_production_variants=variant_summaries(record, desired.shadows, running),
        async_inference_config=_async_summary(desired.asynchronous),
        metrics_config=(
            None
            if desired.publish_seconds is None
            else {"MetricPublishFrequencyInSeconds": int(desired.publish_seconds)}
        ),
    )
    record.data_capture_config = _capture_summary(desired.capture)


def variant_summaries(
    record: FakeEndpoint,
    variants: Iterable[VariantSpecification],
    running: Mapping[str, Variant],
) -> list[dict[str, Any]]:
    """Return what DescribeEndpoint tells of variants, of which some may be running."""
    summaries = []
    for variant in variants:
        now = running.get(variant.name)
        summary: dict[str, Any] = {
            "VariantName": variant.name,
            "DeployedImages": _images(record, variant.model.image),
            "CurrentWeight": variant.weight if now is None else now.weight,
            "DesiredWeight": variant.weight,
            "CurrentInstanceCount": 0 if now is None else len(now.instances),
            "DesiredInstanceCount": variant.instance_count,
        }
        if variant.serverless is not None:
            config = {
                "MemorySizeInMB": variant.serverless.memory_mb,
                "MaxConcurrency": variant.serverless.max_concurrency,
            }
            if variant.serverless.provisioned_concurrency:
                config["ProvisionedConcurrency"] = variant.serverless.provisioned_concurrency
            summary |= {"CurrentInstanceCount": 0, "DesiredInstanceCount": 0}
            summary |= {"CurrentServerlessConfig": config, "DesiredServerlessConfig": config}
        summaries.append(summary)
    return summaries


def _async_summary(asynchronous: AsyncSpecification | None) -> dict[str, Any]:
    if asynchronous is None:
        return {}
    told = (
        ("SUCCESS_NOTIFICATION_TOPIC", asynchronous.success_has_answer),
        ("ERROR_NOTIFICATION_TOPIC", asynchronous.error_has_answer),
    )
    notices: dict[str, Any] = {
        "SuccessTopic": asynchronous.success_topic,
        "ErrorTopic": asynchronous.error_topic,
        "IncludeInferenceResponseIn": [name for name, has_answer in told if has_answer],
    }
    output: dict[str, Any] = {
        "S3OutputPath": asynchronous.output,
        "S3FailurePath": asynchronous.failure,
        "KmsKeyId": asynchronous.key,
        "NotificationConfig": {name: value for name, value in notices.items() if value},
    }
    summary: dict[str, Any] = {"OutputConfig": {name: one for name, one in output.items() if one}}
    if asynchronous.concurrency is not None:
        client = {"MaxConcurrentInvocationsPerInstance": asynchronous.concurrency}
        summary["ClientConfig"] = client
    return summary


def _images(record: FakeEndpoint, image: str) -> list[dict[str, Any]]:
    if not image:
        return []
    resolved = record.creation_time
    return [{"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": resolved}]


def _capture_summary(capture: CaptureSpecification | None) -> dict[str, Any]:
    if capture is None:
        return {}
    return {
        "EnableCapture": True,
        "CaptureStatus": "Started",
        "CurrentSamplingPercentage": int(capture.percentage),
        "DestinationS3Uri": capture.destination,
        "KmsKeyId": "",
    }


def _variant(backend: SageMakerModelBackend, described: dict[str, Any]) -> VariantSpecification:
    model = backend._models.get(described["ModelName"])  # noqa: SLF001 - moto's way to ask raises
    if model is None:
        raise LookupError(f"Could not find model {described['ModelName']!r}.")
    container = next(iter(containers_of(backend, model)), {})
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    serverless = described.get("ServerlessConfig")
    return VariantSpecification(
        name=described["VariantName"],
        model=ModelSpecification(
            name=model.model_name,
            data_url=container.get("ModelDataUrl") or source.get("S3Uri") or "",
            multi_model=container.get("Mode") == "MultiModel",
            environment=tuple(sorted(container.get("Environment", {}).items())),
            image=container.get("Image") or "",
            caches_models=container.get("MultiModelConfig", {}).get("ModelCacheSetting")
            != "Disabled",
            role=model.execution_role_arn or "",
            isolated=bool(model.enable_network_isolation),
        ),
        instance_count=int(described.get("InitialInstanceCount", 1)),
        weight=float(described.get("InitialVariantWeight", 1.0)),
        instance_type=described.get("InstanceType"),
        serverless=None if serverless is None else _serverless(serverless),
        volume_gb=described.get("VolumeSizeInGB"),
        startup_seconds=described.get("ContainerStartupHealthCheckTimeoutInSeconds"),
    )


def _serverless(config: dict[str, Any]) -> ServerlessSpecification:
    return ServerlessSpecification(
        int(config["MemorySizeInMB"]),
        int(config["MaxConcurrency"]),
        int(config.get("ProvisionedConcurrency", 0)),
    )


def _asynchronous(config: dict[str, Any]) -> AsyncSpecification | None:
    if not config:
        return None
    output = config.get("OutputConfig", {})
    notices = output.get("NotificationConfig", {})
    included = notices.get("IncludeInferenceResponseIn", ())
    return AsyncSpecification(
        output=str(output.get("S3OutputPath", "")),
        failure=str(output.get("S3FailurePath", "")),
        success_topic=str(notices.get("SuccessTopic", "")),
        error_topic=str(notices.get("ErrorTopic", "")),
        success_has_answer="SUCCESS_NOTIFICATION_TOPIC" in included,
        error_has_answer="ERROR_NOTIFICATION_TOPIC" in included,
        concurrency=config.get("ClientConfig", {}).get("MaxConcurrentInvocationsPerInstance"),
        key=str(output.get("KmsKeyId", "")),
    )


def _capture(config: dict[str, Any]) -> CaptureSpecification | None:
    if not config.get("EnableCapture", False) or not config.get("DestinationS3Uri"):
        return None
    modes = {option["CaptureMode"] for option in config.get("CaptureOptions", ())}
    both = "InputAndOutput" in modes
    types = config.get("CaptureContentTypeHeader", {})
    return CaptureSpecification(
        percentage=float(config.get("InitialSamplingPercentage", 0)),
        destination=str(config["DestinationS3Uri"]).rstrip("/"),
        captures_input=both or "Input" in modes,
        captures_output=both or "Output" in modes,
        csv_types=tuple(types.get("CsvContentTypes", ())),
        json_types=tuple(types.get("JsonContentTypes", ())),
    )
