"""What SageMaker refuses beyond its service model: resources that are not there, or do not fit.

Sources: the API reference's pages of the operations named; messages as users of AWS report them,
and where none is known, in AWS's manner.

Not checked, on purpose: whether IAM has the role of a model, since rehearsals use the ARN of a role
that is in another account; whether an archive of a single model is there, since the endpoint says
it. Refused, though AWS does not: several containers and inference components, which are not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_local.sagemaker.control.config_rules import check_config, check_model
from mmekit_local.sagemaker.control.deployments import check_deployment
from mmekit_local.sagemaker.control.records import RESOURCE_NAMES
from mmekit_local.sagemaker.errors import resource_limit_exceeded, validation_exception

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.sagemaker.control.records import Records

__all__ = ["MOST_INSTANCES", "check", "deployment_in", "in_progress"]

MOST_INSTANCES = 100
"""Of one instance type at one endpoint. AWS's quotas differ with account and type, and are of that
order; here each instance is a server of its own."""

_NAMED_BY = {  # a kind as ARNs spell it: the member that names it
    "model": "ModelName",
    "endpoint-config": "EndpointConfigName",
    "endpoint": "EndpointName",
}
_CREATED = {
    "CreateModel": "model",
    "CreateEndpointConfig": "endpoint-config",
    "CreateEndpoint": "endpoint",
}
_NEEDED: dict[str, tuple[str, ...]] = {
    "DescribeModel": ("model",),
    "DeleteModel": ("model",),
    "DescribeEndpointConfig": ("endpoint-config",),
    "DeleteEndpointConfig": ("endpoint-config",),
    "CreateEndpoint": ("endpoint-config",),
    "DescribeEndpoint": ("endpoint",),
    "DeleteEndpoint": ("endpoint",),
    "UpdateEndpoint": ("endpoint", "endpoint-config"),
    "UpdateEndpointWeightsAndCapacities": ("endpoint",),
}


def check(operation: str, members: dict[str, Any], records: Records) -> None:
    """Raise what SageMaker answers to a request that cannot be done.

    Deleting a model or an endpoint config that is in use is allowed, as on AWS: the endpoint
    goes on.

    Raises
    ------
    AwsError
        A ValidationException, or a ResourceLimitExceeded.
    """
    kind = _CREATED.get(operation)
    if kind is not None:
        name = str(members[_NAMED_BY[kind]])
        if records.has(kind, name):
            where = records.arn(kind, name)
            raise validation_exception(
                f'Cannot create already existing {RESOURCE_NAMES[kind]} "{where}".'
            )
    for needed in _NEEDED.get(operation, ()):
        records.require(needed, str(members[_NAMED_BY[needed]]))
    further = _FURTHER_CHECKS.get(operation)
    if further is not None:
        further(members, records)


def _check_endpoint(members: dict[str, Any], records: Records) -> None:
    config = str(members["EndpointConfigName"])
    for model, containers in records.container_counts(config).items():
        records.require("model", model)
        if containers > 1:
            raise validation_exception(
                f'Model "{records.arn("model", model)}" has {containers} containers. Inference '
                "pipelines and several containers are not supported here: use one container."
            )
    wanted = records.instance_counts(config)
    for kind, count in wanted.items():
        if count > MOST_INSTANCES:
            what = f"{kind} for endpoint usage"
            raise resource_limit_exceeded(what, MOST_INSTANCES, 0, count)
    if deployment := members.get("DeploymentConfig"):
        variants = records.production_variants(config)
        check_deployment(deployment, variants, records)


def _check_change(members: dict[str, Any], records: Records) -> None:
    name = str(members["EndpointName"])
    status = records.endpoints[name].endpoint_status
    if status == "Failed":
        raise validation_exception(
            f'Cannot update endpoint "{records.arn("endpoint", name)}", which has failed; '
            "delete it and create it anew."
        )
    if status != "InService":
        raise in_progress(records, name)


def _check_update(members: dict[str, Any], records: Records) -> None:
    _check_change(members, records)
    if members.get("ExcludeRetainedVariantProperties") and not members.get(
        "RetainAllVariantProperties"
    ):
        raise validation_exception(
            "ExcludeRetainedVariantProperties can be specified only when "
            "RetainAllVariantProperties is true."
        )
    if members.get("RetainDeploymentConfig") and members.get("DeploymentConfig"):
        raise validation_exception(
            "RetainDeploymentConfig cannot be true when a DeploymentConfig is specified."
        )
    deployment = deployment_in(members, records)
    _check_endpoint({**members, "DeploymentConfig": deployment}, records)
    if deployment and deployment.get("BlueGreenUpdatePolicy"):
        _check_same_variants(members, records)


def deployment_in(members: dict[str, Any], records: Records) -> dict[str, Any] | None:
    """Return the DeploymentConfig of an UpdateEndpoint: its own, or the last one if it says so."""
    if members.get("RetainDeploymentConfig"):
        record = records.endpoints[str(members["EndpointName"])]
        retained: dict[str, Any] | None = getattr(record, "last_deployment_config", None)
        return retained
    given: dict[str, Any] | None = members.get("DeploymentConfig")
    return given


def _check_same_variants(members: dict[str, Any], records: Records) -> None:
    """Refuse steps between variants of other names.

    Source: AWS's "Exclusions" of deployment guardrails.
    """
    record = records.endpoints[str(members["EndpointName"])]
    now = {variant["VariantName"] for variant in record.production_variants}
    config = str(members["EndpointConfigName"])
    new = {one["VariantName"] for one in records.production_variants(config)}
    if now != new:
        raise validation_exception(
            f"With a BlueGreenUpdatePolicy the new endpoint configuration must have the variant "
            f"names of the old one ({', '.join(sorted(now))}); it has {', '.join(sorted(new))}."
        )


def _check_capacities(members: dict[str, Any], records: Records) -> None:
    _check_change(members, records)
    name = str(members["EndpointName"])
    record = records.endpoints[name]
    shadows: list[dict[str, Any]] = getattr(record, "shadow_production_variants", None) or []
    is_asynchronous = bool(getattr(record, "async_inference_config", None))
    variants = {
        variant["VariantName"]: variant for variant in [*record.production_variants, *shadows]
    }
    seen = set()
    for wish in members["DesiredWeightsAndCapacities"]:
        variant = wish["VariantName"]
        if variant in seen:
            raise validation_exception(
                f'The variant name "{variant}" was non-unique within the request.'
            )
        seen.add(variant)
        if variant not in variants:
            raise validation_exception(
                f'The variant name(s) "{variant}" is/are not present within endpoint '
                f'configuration "{record.endpoint_config_name}".'
            )
        serverless = "CurrentServerlessConfig" in variants[variant]
        if serverless and "DesiredInstanceCount" in wish:
            raise validation_exception(
                f'Variant "{variant}" is serverless and cannot have a DesiredInstanceCount.'
            )
        if wish.get("DesiredInstanceCount") == 0 and not is_asynchronous:
            raise validation_exception(
                f'DesiredInstanceCount of variant "{variant}" must be at least 1, unless the '
                "endpoint is asynchronous."
            )
        if (count := wish.get("DesiredInstanceCount", 0)) > MOST_INSTANCES:
            current = int(variants[variant].get("CurrentInstanceCount", 0))
            what = "instances for endpoint usage"
            raise resource_limit_exceeded(what, MOST_INSTANCES, current, count)


def _check_deletion(members: dict[str, Any], records: Records) -> None:
    name = str(members["EndpointName"])
    status = records.endpoints[name].endpoint_status
    if status not in ("InService", "Failed"):
        raise in_progress(records, name)


def in_progress(records: Records, name: str) -> Exception:
    """Return the error for an endpoint that is being created, updated or deleted."""
    return validation_exception(
        f'Cannot update in-progress endpoint "{records.arn("endpoint", name)}".'
    )


_FURTHER_CHECKS: dict[str, Callable[[dict[str, Any], Records], None]] = {
    "CreateModel": check_model,
    "CreateEndpointConfig": check_config,
    "CreateEndpoint": _check_endpoint,
    "UpdateEndpoint": _check_update,
    "UpdateEndpointWeightsAndCapacities": _check_capacities,
    "DeleteEndpoint": _check_deletion,
}
