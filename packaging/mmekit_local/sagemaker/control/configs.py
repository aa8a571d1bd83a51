"""What an endpoint config may ask for beyond variants: asynchronous inference, shadows, metrics.

Sources: the API reference's CreateEndpointConfig ("If you use this field, you can only specify one
variant for ProductionVariants and one variant for ShadowProductionVariants") and MetricsConfig.
What is refused whatever else is asked for stands in `mmekit_local.sagemaker.control.members`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_local.sagemaker.aws_client import locate
from mmekit_local.sagemaker.errors import validation_exception

if TYPE_CHECKING:
    from mmekit_local.sagemaker.control.records import Records

__all__ = ["check_container", "check_features"]

_FREQUENCIES = (10, 30, 60, 120, 180, 240, 300)


def check_features(members: dict[str, Any], records: Records) -> None:
    """Raise what cannot be done of an endpoint config, whose production variants are in order.

    Raises
    ------
    AwsError
        A ValidationException that says which member it is.
    """
    shadows: list[dict[str, Any]] = members.get("ShadowProductionVariants") or []
    if shadows:
        _check_shadows(members, shadows, records)
    if "AsyncInferenceConfig" in members:
        _check_asynchronous(members, records)
    if "MetricsConfig" in members:
        _check_metrics(members["MetricsConfig"])


def check_container(container: dict[str, Any]) -> None:
    """Raise what cannot be done of a container that a model shall have.

    Raises
    ------
    AwsError
        A ValidationException that says which member it is.
    """
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
    if frequency is not None and frequency not in _FREQUENCIES:
        valid = ", ".join(map(str, _FREQUENCIES))
        raise validation_exception(
            f"1 validation error detected: Value '{frequency}' at "
            "'metricsConfig.metricPublishFrequencyInSeconds' failed to satisfy constraint: Member "
            f"must satisfy enum value set: [{valid}]"
        )


def _cannot(what: str, why: str) -> Exception:
    return validation_exception(f"{what} cannot be rehearsed on this machine: {why}.")
