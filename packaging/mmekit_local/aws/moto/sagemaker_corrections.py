"""moto's SageMaker, set right where it differs from AWS's; what it throws away, kept."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult
from moto.core.utils import get_service_model
from moto.sagemaker.exceptions import ValidationError
from moto.sagemaker.models import (
    FakeEndpoint,
    FakeEndpointConfig,
    Model,
    SageMakerModelBackend,
)
from moto.sagemaker.responses import SageMakerResponse

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["correct_sagemaker"]

_PAGE = 10  # models, unless MaxResults says otherwise

_MARK = "_mmekit_keeps"
_CONFIG = {  # a member of CreateEndpointConfig: how moto's record would call it
    "ShadowProductionVariants": "shadow_production_variants",
    "MetricsConfig": "metrics_config",
}
_PENDING = "PendingManualApproval"


def correct_sagemaker() -> None:
    """Set right what differs; a second time does no harm."""
    _keep_forgotten_members()
    setattr(FakeEndpointConfig, "validate_instance_type", _validate_instance_type)  # noqa: B010
    setattr(SageMakerResponse, "list_models", _list_models)  # noqa: B010
    setattr(SageMakerResponse, "describe_endpoint_config", _describe_config)  # noqa: B010
    if not hasattr(SageMakerResponse, "_mmekit_create_model"):
        setattr(SageMakerResponse, "_mmekit_create_model", SageMakerResponse.create_model)  # noqa: B010
        setattr(SageMakerResponse, "create_model", _create_model)  # noqa: B010
    setattr(SageMakerModelBackend, "add_tags", _add_tags)  # noqa: B010
    if not hasattr(SageMakerModelBackend, "_mmekit_resource"):
        usual = SageMakerModelBackend._get_resource_from_arn  # noqa: SLF001 - of what has tags
        setattr(SageMakerModelBackend, "_mmekit_resource", usual)  # noqa: B010
        setattr(SageMakerModelBackend, "_get_resource_from_arn", _resource)  # noqa: B010
    for listing in ("list_endpoints", "list_endpoint_configs"):
        if not hasattr(SageMakerResponse, f"_mmekit_{listing}"):
            listed = getattr(SageMakerResponse, listing)
            setattr(SageMakerResponse, f"_mmekit_{listing}", listed)
            setattr(SageMakerResponse, listing, _newest_first(listed))
    for described in (Model, FakeEndpoint):
        if not hasattr(described, "_mmekit_described"):
            setattr(described, "_mmekit_described", described.response_object)  # noqa: B010
            setattr(described, "response_object", property(_described))  # noqa: B010


def _validate_instance_type(_: FakeEndpointConfig, instance_type: str) -> None:
    """Know the instance types that botocore knows: moto's own list ends in 2020."""
    known: list[str] = (
        get_service_model("sagemaker").shape_for("ProductionVariantInstanceType").metadata["enum"]
    )
    if instance_type not in known:
        raise ValidationError(
            f"1 validation error detected: Value '{instance_type}' at "
            "'productionVariants.1.member.instanceType' failed to satisfy constraint: Member "
            f"must satisfy enum value set: [{', '.join(known)}]"
        )


def _described(record: Any) -> dict[str, Any]:
    return _without_empty(type(record)._mmekit_described.fget(record))  # noqa: SLF001 - set above


def _describe_config(response: SageMakerResponse) -> ActionResult:
    name = response._get_param("EndpointConfigName")  # noqa: SLF001 - as in _list_models
    return ActionResult(_without_empty(response.sagemaker_backend.describe_endpoint_config(name)))


def _newest_first(usual: Callable[[SageMakerResponse], ActionResult]) -> Callable[..., Any]:
    """List in the order that AWS has when nobody names one."""

    def listed(response: SageMakerResponse) -> ActionResult:
        response.params.setdefault("SortOrder", "Descending")
        return usual(response)

    return listed


def _resource(backend: SageMakerModelBackend, arn: str) -> Any:
    """Return what an ARN names; moto fails where there is nothing of that name."""
    try:
        found = backend._mmekit_resource(arn)  # type: ignore[attr-defined] # noqa: SLF001
    except (AttributeError, KeyError, ValueError):
        found = None
    if found is None:
        raise ValidationError(f'Could not find "{arn}".')
    return found


def _add_tags(
    backend: SageMakerModelBackend, arn: str, tags: list[dict[str, str]]
) -> list[dict[str, str]]:
    """Overwrite tags of the same keys; moto keeps both."""
    resource = backend._get_resource_from_arn(arn)  # noqa: SLF001 - as moto's own does
    kept = {tag["Key"]: tag for tag in (*(resource.tags or ()), *tags)}
    resource.tags = list(kept.values())
    return list(kept.values())


def _without_empty(described: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is empty, as AWS does: an empty VpcConfig is none that clients understand."""
    return {name: value for name, value in described.items() if value not in (None, {}, [])}


def _create_model(response: Any) -> ActionResult:
    """Keep EnableNetworkIsolation, which moto forgets."""
    created: ActionResult = response._mmekit_create_model()  # noqa: SLF001 - set above
    model = response.sagemaker_backend.describe_model(response._get_param("ModelName"))  # noqa: SLF001
    model.enable_network_isolation = bool(response._get_param("EnableNetworkIsolation"))  # noqa: SLF001
    return created


def _list_models(response: SageMakerResponse) -> ActionResult:
    """Filter, sort and page, which moto does for all but models."""
    parameter = response._get_param  # noqa: SLF001 - the way in which moto's own methods ask
    models = [
        model
        for model in response.sagemaker_backend.list_models()
        if (parameter("NameContains") or "") in model.model_name
        and (
            not parameter("CreationTimeBefore")
            or model.creation_time < parameter("CreationTimeBefore")
        )
        and (
            not parameter("CreationTimeAfter")
            or model.creation_time > parameter("CreationTimeAfter")
        )
    ]
    by_name = parameter("SortBy") == "Name"
    models.sort(
        key=lambda model: model.model_name if by_name else model.creation_time,
        reverse=parameter("SortOrder") != "Ascending",
    )
    names = [model.model_name for model in models]
    token = parameter("NextToken")
    first = names.index(token) + 1 if token in names else 0
    page = models[first : first + int(parameter("MaxResults") or _PAGE)]
    more = first + len(page) < len(models)
    return ActionResult(
        {
            "Models": [model.response_object for model in page],
            "NextToken": page[-1].model_name if page and more else None,
        }
    )


def _keep_forgotten_members() -> None:
    """Let moto keep what matters here; a second time does no harm."""
    for name, around in (
        ("create_endpoint_config", _create_config),
        ("create_endpoint", _create_endpoint),
        ("create_model_package", _create_package),
        ("update_model_package", _update_package),
    ):
        method = getattr(SageMakerResponse, name)
        if not hasattr(method, _MARK):
            setattr(SageMakerResponse, name, _wrapped(method, around))


def _wrapped(method: Any, around: Any) -> Any:
    @functools.wraps(method)
    def answered(response: SageMakerResponse) -> Any:
        return around(response, functools.partial(method, response))

    setattr(answered, _MARK, True)
    return answered


def _parameter(response: SageMakerResponse, member: str) -> Any:
    return response._get_param(member)  # noqa: SLF001 - the way in which moto's own methods ask


def _create_config(response: SageMakerResponse, create: Callable[[], Any]) -> Any:
    answer = create()
    record = response.sagemaker_backend.endpoint_configs[_parameter(response, "EndpointConfigName")]
    for member, attribute in _CONFIG.items():
        if (value := _parameter(response, member)) is not None:
            setattr(record, attribute, value)
    return answer


def _create_endpoint(response: SageMakerResponse, create: Callable[[], Any]) -> Any:
    answer = create()
    if (deployment := _parameter(response, "DeploymentConfig")) is not None:
        record = response.sagemaker_backend.endpoints[_parameter(response, "EndpointName")]
        setattr(record, "last_deployment_config", deployment)  # noqa: B010 - moto has no such
    return answer


def _create_package(response: SageMakerResponse, create: Callable[[], Any]) -> Any:
    answer = create()
    for package in response.sagemaker_backend.model_packages.values():
        if package.model_package_version is not None and package.model_approval_status is None:
            package.model_approval_status = _PENDING
    return answer


def _update_package(response: SageMakerResponse, update: Callable[[], Any]) -> Any:
    """Let what an update does not name stay as it is."""
    packages = response.sagemaker_backend.model_packages
    package = packages.get(_parameter(response, "ModelPackageArn"))
    before = {} if package is None else dict(vars(package))
    answer = update()
    for member, attribute in (
        ("ModelApprovalStatus", "model_approval_status"),
        ("ApprovalDescription", "approval_description"),
        ("CustomerMetadataProperties", "customer_metadata_properties"),
    ):
        if package is not None and _parameter(response, member) is None:
            setattr(package, attribute, before[attribute])
    return answer
