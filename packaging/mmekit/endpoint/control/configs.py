"""What an endpoint config may ask for beyond variants: asynchronous inference, shadows, metrics.

Sources: the API reference's CreateEndpointConfig ("If you use this field, you can only specify one
variant for ProductionVariants and one variant for ShadowProductionVariants") and MetricsConfig.
Whatever is not acted on here is refused: a member that is in neither of the tables below is known
to nobody, and a test sees to it that there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit.endpoint.errors import validation_exception
from mmekit.endpoint.instances.model_source import locate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit.endpoint.caller import Caller
    from mmekit.endpoint.control.aws import Aws

__all__ = [
    "CONFIG_MEMBERS",
    "CONTAINER_MEMBERS",
    "VARIANT_MEMBERS",
    "check_container",
    "check_features",
]

_DONE = ""
"""Acted on, or without consequence on a machine of one's own: where keys, networks and disks are
concerned, an answer does not depend on it."""

CONFIG_MEMBERS: Mapping[str, str] = {
    "EndpointConfigName": _DONE,
    "ProductionVariants": _DONE,
    "DataCaptureConfig": _DONE,
    "Tags": _DONE,
    "KmsKeyId": _DONE,
    "AsyncInferenceConfig": _DONE,
    "ShadowProductionVariants": _DONE,
    "MetricsConfig": _DONE,
    "ExecutionRoleArn": "names a role for inference components, which are not run here",
    "VpcConfig": "places inference components in a network, and they are not run here",
    "EnableNetworkIsolation": "isolates inference components, which are not run here",
    "ExplainerConfig": "asks for SageMaker Clarify, which does not run here",
    "CrossRegionTrafficConfig": "sends traffic to other regions, which are not there here",
}
"""Every member of CreateEndpointConfig: "" or what of it cannot be done."""

VARIANT_MEMBERS: Mapping[str, str] = {
    "VariantName": _DONE,
    "ModelName": _DONE,
    "InitialInstanceCount": _DONE,
    "InstanceType": _DONE,
    "InitialVariantWeight": _DONE,
    "ServerlessConfig": _DONE,
    "VolumeSizeInGB": _DONE,
    "ModelDataDownloadTimeoutInSeconds": _DONE,
    "ContainerStartupHealthCheckTimeoutInSeconds": _DONE,
    "EnableSSMAccess": "opens instances to Systems Manager, which is not there here",
    "RoutingConfig": _DONE,
    "InferenceAmiVersion": _DONE,
    "InstancePools": "asks for pools of instance types; here a variant has one InstanceType",
    "VariantInstanceProvisionTimeoutInSeconds": "belongs to InstancePools, which are not here",
    "AcceleratorType": "asks for Elastic Inference, which AWS has ended and which is not here",
    "CoreDumpConfig": "asks for core dumps in S3, which are not written here",
    "ManagedInstanceScaling": "scales instances for inference components, which are not run here",
    "CapacityReservationConfig": "asks for reserved capacity, of which there is none here",
    "AcceleratorPartitionLayouts": "divides accelerators, of which there are none here",
}
"""Likewise, of a ProductionVariant."""

CONTAINER_MEMBERS: Mapping[str, str] = {
    "ContainerHostname": _DONE,
    "Image": _DONE,
    "ImageConfig": _DONE,
    "Mode": _DONE,
    "ModelDataUrl": _DONE,
    "ModelDataSource": _DONE,
    "Environment": _DONE,
    "ModelPackageName": _DONE,
    "InferenceSpecificationName": _DONE,
    "MultiModelConfig": _DONE,
    "ContainerMetricsConfig": "collects a container's own metrics, which is not done here",
    "AdditionalModelDataSources": "puts further files beside the model, which is not done here",
}
"""Likewise, of a ContainerDefinition."""

_ROUTED = ("LEAST_OUTSTANDING_REQUESTS", "RANDOM")
_FREQUENCIES = (10, 30, 60, 120, 180, 240, 300)
_ENHANCED = {
    "EnableEnhancedMetrics": "metrics of single instances and containers are not kept here",
    "EnableDetailedObservability": "containers' own metrics are not collected here",
}


def check_features(members: dict[str, Any], aws: Aws, caller: Caller) -> None:
    """Raise what cannot be done of an endpoint config, whose production variants are in order.

    Raises
    ------
    AwsError
        A ValidationException that says which member it is.
    """
    _refuse(members, CONFIG_MEMBERS, "the endpoint configuration")
    shadows: list[dict[str, Any]] = members.get("ShadowProductionVariants") or []
    for variant in [*members["ProductionVariants"], *shadows]:
        name = variant["VariantName"]
        _refuse(variant, VARIANT_MEMBERS, f'variant "{name}"')
        strategy = variant.get("RoutingConfig", {}).get("RoutingStrategy")
        if strategy is not None and strategy not in _ROUTED:
            raise _cannot(
                f'RoutingConfig of variant "{name}"',
                f"{strategy} is not rehearsed; {' and '.join(_ROUTED)} are",
            )
    if shadows:
        _check_shadows(members, shadows, aws, caller)
    if "AsyncInferenceConfig" in members:
        _check_asynchronous(members, aws, caller)
    if "MetricsConfig" in members:
        _check_metrics(members["MetricsConfig"])


def check_container(container: dict[str, Any]) -> None:
    """Raise what cannot be done of a container that a model shall have.

    Raises
    ------
    AwsError
        A ValidationException that says which member it is.
    """
    _refuse(container, CONTAINER_MEMBERS, "a container")
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    loose = source.get("CompressionType") == "None" or source.get("S3DataType") == "S3Prefix"
    if loose and container.get("Mode") != "MultiModel":
        raise _cannot(
            "ModelDataSource of files that are not in an archive (CompressionType None, S3Prefix)",
            "a model is one .tar.gz here, with CompressionType Gzip and S3DataType S3Object",
        )


def _refuse(members: dict[str, Any], table: Mapping[str, str], where: str) -> None:
    for member, value in members.items():
        reason = table.get(member, "is not known here")
        if reason and value not in (None, False, [], {}):
            raise _cannot(f"{member} of {where}", f"it {reason}")


def _check_shadows(
    members: dict[str, Any], shadows: list[dict[str, Any]], aws: Aws, caller: Caller
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
    kinds = {
        aws.is_multi_model(caller.account, caller.region, variant["ModelName"])
        for variant in (one, shadow)
    }
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


def _check_asynchronous(members: dict[str, Any], aws: Aws, caller: Caller) -> None:
    for variant in members["ProductionVariants"]:
        if "ServerlessConfig" in variant:
            raise validation_exception(
                "AsyncInferenceConfig is not supported for serverless endpoints."
            )
        if aws.is_multi_model(caller.account, caller.region, variant["ModelName"]):
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
    for member, reason in _ENHANCED.items():
        if config.get(member):
            raise _cannot(f"{member} of MetricsConfig", reason)
    frequency = config.get("MetricPublishFrequencyInSeconds")
    if frequency is not None and frequency not in _FREQUENCIES:
        valid = ", ".join(map(str, _FREQUENCIES))
        raise validation_exception(
            f"1 validation error detected: Value '{frequency}' at "
            "'metricsConfig.metricPublishFrequencyInSeconds' failed to satisfy constraint: Member "
            f"must satisfy enum value set: [{valid}]"
        )


def _cannot(what: str, why: str) -> Exception:
    return validation_exception(f"{what} cannot be rehearsed on this machine: {why}.")
