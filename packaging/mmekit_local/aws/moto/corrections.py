"""Where moto differs from AWS in ways that matter here, set right."""

from __future__ import annotations

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

from mmekit_local.aws.moto.bucket_corrections import correct_buckets
from mmekit_local.aws.moto.identities import correct_identities
from mmekit_local.aws.moto.kept_members import keep_members

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["correct_moto"]

_PAGE = 10  # models, unless MaxResults says otherwise


def correct_moto() -> None:
    """Set right what differs; a second time does no harm."""
    correct_buckets()
    correct_identities()
    keep_members()
    setattr(FakeEndpointConfig, "validate_instance_type", _validate_instance_type)  # noqa: B010
    setattr(SageMakerResponse, "list_models", _list_models)  # noqa: B010
    setattr(SageMakerResponse, "describe_endpoint_config", _describe_config)  # noqa: B010
    if not hasattr(SageMakerResponse, "_mmekit_create_model"):
        setattr(SageMakerResponse, "_mmekit_create_model", SageMakerResponse.create_model)  # noqa: B010
        setattr(SageMakerResponse, "create_model", _create_as_isolated_as_asked)  # noqa: B010
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
    # CloudFormation shall call resources as their templates say.
    for kind, member in (
        (Model, "ModelName"),
        (FakeEndpointConfig, "EndpointConfigName"),
        (FakeEndpoint, "EndpointName"),
    ):
        setattr(kind, "cloudformation_name_type", staticmethod(_constant(member)))  # noqa: B010
    if not hasattr(Model, "_mmekit_create"):
        setattr(Model, "_mmekit_create", Model.create_from_cloudformation_json)  # noqa: B010
        setattr(Model, "create_from_cloudformation_json", classmethod(_create_model))  # noqa: B010


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


def _create_as_isolated_as_asked(response: Any) -> ActionResult:
    """Keep EnableNetworkIsolation, which moto forgets."""
    created: ActionResult = response._mmekit_create_model()  # noqa: SLF001 - set above
    model = response.sagemaker_backend.describe_model(response._get_param("ModelName"))  # noqa: SLF001
    model.enable_network_isolation = bool(response._get_param("EnableNetworkIsolation"))  # noqa: SLF001
    return created


def _list_models(response: SageMakerResponse) -> ActionResult:
    """Filter, sort and page, which moto does for all but models."""
    asked = response._get_param  # noqa: SLF001 - the way in which moto's own methods ask
    models = [
        model
        for model in response.sagemaker_backend.list_models()
        if (asked("NameContains") or "") in model.model_name
        and (not asked("CreationTimeBefore") or model.creation_time < asked("CreationTimeBefore"))
        and (not asked("CreationTimeAfter") or model.creation_time > asked("CreationTimeAfter"))
    ]
    by_name = asked("SortBy") == "Name"
    models.sort(
        key=lambda model: model.model_name if by_name else model.creation_time,
        reverse=asked("SortOrder") != "Ascending",
    )
    names = [model.model_name for model in models]
    token = asked("NextToken")
    first = names.index(token) + 1 if token in names else 0
    page = models[first : first + int(asked("MaxResults") or _PAGE)]
    more = first + len(page) < len(models)
    return ActionResult(
        {
            "Models": [model.response_object for model in page],
            "NextToken": page[-1].model_name if page and more else None,
        }
    )


def _create_model(
    kind: Any, resource_name: str, cloudformation_json: dict[str, Any], *more: Any, **named: Any
) -> Any:
    """Take Containers as well as PrimaryContainer, which moto requires."""
    properties = {"PrimaryContainer": None, **cloudformation_json["Properties"]}
    described = {**cloudformation_json, "Properties": properties}
    return kind._mmekit_create(resource_name, described, *more, **named)  # noqa: SLF001


def _constant(value: str) -> Callable[[], str]:
    return lambda: value
