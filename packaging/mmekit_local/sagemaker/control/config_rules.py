"""What SageMaker refuses of models and endpoint configs beyond its service model.

Sources: the API reference's CreateEndpointConfig ("If you use this field, you can only specify one
variant for ProductionVariants and one variant for ShadowProductionVariants") and MetricsConfig;
"Serverless Inference: feature exclusions" and "Supported instance types for multi-model endpoints"
in the developer guide. What is refused whatever else is asked for stands in
`mmekit_local.sagemaker.control.members`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit.instance_types import accelerator_of
from mmekit_local.sagemaker.aws_client import locate
from mmekit_local.sagemaker.errors import validation_exception

if TYPE_CHECKING:
    from mmekit_local.sagemaker.control.records import Records

__all__ = ["check_config", "check_model"]

_MEMORY_STEP_MB = 1024
_FREQUENCIES = (10, 30, 60, 120, 180, 240, 300)


def check_model(members: dict[str, Any], records: Records) -> None:
    """Raise what CreateModel cannot do.

    Raises
    ------
    AwsError
        A ValidationException that says which member it is.
    """
    primary, several = members.get("PrimaryContainer"), members.get("Containers")
    if primary and several:
        raise validation_exception(
            "A model cannot have both PrimaryContainer and Containers; specify one of them."
        )
    if not primary and not several:
        raise validation_exception(
            "A model must have either PrimaryContainer or Containers; specify one of them."
        )
    if "ExecutionRoleArn" not in members:
        raise validation_exception(
            "1 validation error detected: Value null at 'executionRoleArn' failed to satisfy "
            "constraint: Member must not be null"
        )
    for container in [primary] if primary else several or []:
        if container.get("Mode") == "MultiModel" and not _data_url(container):
            raise validation_exception(
                "ModelDataUrl must be specified for a container whose Mode is MultiModel."
            )
        if not container.get("Image") and not container.get("ModelPackageName"):
            raise validation_exception("A container must have an Image or a ModelPackageName.")
        _check_container(container)
        if container.get("ModelPackageName"):
            records.model_packages.check(container)


def check_config(members: dict[str, Any], records: Records) -> None:
    """Raise what CreateEndpointConfig cannot do.

    Raises
    ------
    AwsError
        A ValidationException that says which member it is.
    """
    variants: list[dict[str, Any]] = members["ProductionVariants"]
    shadows: list[dict[str, Any]] = members.get("ShadowProductionVariants") or []
    seen = set()
    for variant in [*variants, *shadows]:
        name = variant["VariantName"]
        if name in seen:
            raise validation_exception(
                f'The variant name "{name}" was non-unique within the request.'
            )
        seen.add(name)
    for variant in [*variants, *shadows]:
        name = variant["VariantName"]
        if "ModelName" not in variant:
            raise validation_exception(
                f'Variant "{name}" has no ModelName. Inference components are not supported here.'
            )
        records.require("model", variant["ModelName"])
        if "ServerlessConfig" in variant:
            _check_serverless(variant, members, records)
        elif "InstanceType" not in variant:
            raise validation_exception(
                f'Variant "{name}" must have either an InstanceType or a ServerlessConfig.'
            )
        elif "InitialInstanceCount" not in variant:
            raise validation_exception(
                f'Variant "{name}" has an InstanceType and must have an InitialInstanceCount.'
            )
        else:
            _check_accelerator(variant, records)
    if sum(float(variant.get("InitialVariantWeight", 1.0)) for variant in variants) <= 0:
        raise validation_exception("The variants' weights must not all be 0.")
    _check_features(members, records)


def _check_accelerator(variant: dict[str, Any], records: Records) -> None:
    """Refuse what AWS documents nowhere: "Supported instance types for multi-model endpoints"."""
    accelerator = accelerator_of(variant["InstanceType"])
    model = variant["ModelName"]
    if accelerator is None or not records.is_multi_model(model):
        return
    images = records.images(model)
    if accelerator == "GPU" and all("tritonserver" in image for image in images):
        return
    raise validation_exception(
        f'Variant "{variant["VariantName"]}" has instances of {variant["InstanceType"]} '
        f"({accelerator}) and a multi-model container. AWS documents GPUs for multi-model "
        "endpoints with NVIDIA Triton (sagemaker-tritonserver) only, and nothing else but CPUs "
        "without it. Use a CPU instance type, such as ml.m6i.large."
    )


def _check_serverless(variant: dict[str, Any], members: dict[str, Any], records: Records) -> None:
    name, config = variant["VariantName"], variant["ServerlessConfig"]
    for member in ("InstanceType", "InitialInstanceCount", "AcceleratorType"):
        if member in variant:
            raise validation_exception(
                f'Variant "{name}" has a ServerlessConfig and cannot have {member}.'
            )
    memory, most = config["MemorySizeInMB"], config["MaxConcurrency"]
    # botocore's service model has the ends of the range, 1024 and 6144, and no steps.
    if memory % _MEMORY_STEP_MB:
        raise validation_exception(
            f"1 validation error detected: Value '{memory}' at 'memorySizeInMB' failed to satisfy "
            "constraint: Member must satisfy enum value set: [1024, 2048, 3072, 4096, 5120, 6144]"
        )
    if config.get("ProvisionedConcurrency", 0) > most:
        raise validation_exception(
            "ProvisionedConcurrency must be less than or equal to MaxConcurrency "
            f'for variant "{name}".'
        )
    if len(members["ProductionVariants"]) > 1:
        raise validation_exception("Serverless endpoints do not support several variants.")
    if members.get("DataCaptureConfig", {}).get("EnableCapture"):
        raise validation_exception("Serverless endpoints do not support DataCaptureConfig.")
    if records.is_multi_model(variant["ModelName"]):
        raise validation_exception("MultiModel mode is not supported for serverless endpoints.")
    for member in records.network_of(variant["ModelName"]):
        raise validation_exception(
            f'Serverless endpoints do not support {member}, which model "{variant["ModelName"]}" '
            "has. Create the model without it."
        )


def _data_url(container: dict[str, Any]) -> str:
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    return str(container.get("ModelDataUrl") or source.get("S3Uri") or "")


def _check_features(members: dict[str, Any], records: Records) -> None:
    """Raise what cannot be done of an endpoint config, whose production variants are in order."""
    shadows: list[dict[str, Any]] = members.get("ShadowProductionVariants") or []
    if shadows:
        _check_shadows(members, shadows, records)
    if "AsyncInferenceConfig" in members:
        _check_asynchronous(members, records)
    if "MetricsConfig" in members:
        _check_metrics(members["MetricsConfig"])


def _check_container(container: dict[str, Any]) -> None:
    """Raise what cannot be done of a container that a model shall have."""
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    if source.get("S3DataType") == "S3Prefix" and container.get("Mode") != "MultiModel":
        raise _cannot(
            "ModelDataSource of files that are not in an archive (S3Prefix)",
            "a model is one .tar.gz here, with CompressionType Gzip and S3DataType S3Object",
        )


def _check_shadows(
    members: dict[str, Any], shadows: list[dict[str, Any]], records: Records
) -> None:
    production: list[dict[str, Any]] = members["ProductionVariants"]
    if len(production) > 1 or len(shadows) > 1:
        raise validation_exception(
            "With ShadowProductionVariants there must be one variant in ProductionVariants and one "
            "in ShadowProductionVariants."
        )
    (one,), (shadow,) = production, shadows
    if "ServerlessConfig" in one or "ServerlessConfig" in shadow:
        raise validation_exception("Serverless endpoints do not support shadow variants.")
    if "AsyncInferenceConfig" in members:
        raise _cannot(
            "ShadowProductionVariants with an AsyncInferenceConfig",
            "requests that are queued are not copied",
        )
    kinds = {records.is_multi_model(variant["ModelName"]) for variant in (one, shadow)}
    if len(kinds) > 1:
        raise _cannot(
            "ShadowProductionVariants",
            "of a production variant and its shadow either both have a multi-model container or "
            "neither has, so that both understand a request",
        )
    if float(one.get("InitialVariantWeight", 1.0)) <= 0:
        raise validation_exception(
            "The weight of the production variant must not be 0: a shadow variant gets its share "
            "in proportion to it."
        )


def _check_asynchronous(members: dict[str, Any], records: Records) -> None:
    for variant in members["ProductionVariants"]:
        if "ServerlessConfig" in variant:
            raise validation_exception(
                "AsyncInferenceConfig is not supported for serverless endpoints."
            )
        if records.is_multi_model(variant["ModelName"]):
            raise validation_exception(
                "AsyncInferenceConfig is not supported for multi-model endpoints: "
                "InvokeEndpointAsync has no TargetModel."
            )
    output = members["AsyncInferenceConfig"]["OutputConfig"]
    if not output.get("S3OutputPath"):
        raise _cannot(
            "AsyncInferenceConfig without an S3OutputPath",
            "answers of asynchronous invocations are written to S3",
        )
    for member in ("S3OutputPath", "S3FailurePath"):
        if not output.get(member):
            continue
        try:
            locate(output[member])
        except ValueError as error:
            raise validation_exception(f"{member} of AsyncInferenceConfig: {error}.") from error


def _check_metrics(config: dict[str, Any]) -> None:
    frequency = config.get("MetricPublishFrequencyInSeconds")
    # To botocore's service model it is any integer.
    if frequency is not None and frequency not in _FREQUENCIES:
        valid = ", ".join(map(str, _FREQUENCIES))
        raise validation_exception(
            f"1 validation error detected: Value '{frequency}' at "
            "'metricsConfig.metricPublishFrequencyInSeconds' failed to satisfy constraint: Member "
            f"must satisfy enum value set: [{valid}]"
        )


def _cannot(what: str, why: str) -> Exception:
    return validation_exception(f"{what} cannot be rehearsed on this machine: {why}.")
