"""Members of requests to SageMaker that moto throws away, kept in its records."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from moto.sagemaker.responses import SageMakerResponse

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["keep_members"]

_MARK = "_mmekit_keeps"
_CONFIG = {  # a member of CreateEndpointConfig: how moto's record would call it
    "ShadowProductionVariants": "shadow_production_variants",
    "MetricsConfig": "metrics_config",
}
_PENDING = "PendingManualApproval"


def keep_members() -> None:
    """Let moto keep what matters here; a second time does no harm."""
    for name, around in (
        ("create_endpoint_config", _config),
        ("create_endpoint", _endpoint),
        ("create_model_package", _package),
        ("update_model_package", _package_update),
    ):
        method = getattr(SageMakerResponse, name)
        if not hasattr(method, _MARK):
            setattr(SageMakerResponse, name, _around(method, around))


def _around(method: Any, around: Any) -> Any:
    @functools.wraps(method)
    def answered(response: SageMakerResponse) -> Any:
        return around(response, functools.partial(method, response))

    setattr(answered, _MARK, True)
    return answered


def _asked(response: SageMakerResponse, member: str) -> Any:
    return response._get_param(member)  # noqa: SLF001 - the way in which moto's own methods ask


def _config(response: SageMakerResponse, create: Callable[[], Any]) -> Any:
    answer = create()
    record = response.sagemaker_backend.endpoint_configs[_asked(response, "EndpointConfigName")]
    for member, attribute in _CONFIG.items():
        if (value := _asked(response, member)) is not None:
            setattr(record, attribute, value)
    return answer


def _endpoint(response: SageMakerResponse, create: Callable[[], Any]) -> Any:
    answer = create()
    if (deployment := _asked(response, "DeploymentConfig")) is not None:
        record = response.sagemaker_backend.endpoints[_asked(response, "EndpointName")]
        setattr(record, "last_deployment_config", deployment)  # noqa: B010 - moto has no such
    return answer


def _package(response: SageMakerResponse, create: Callable[[], Any]) -> Any:
    answer = create()
    for package in response.sagemaker_backend.model_packages.values():
        if package.model_package_version is not None and package.model_approval_status is None:
            package.model_approval_status = _PENDING
    return answer


def _package_update(response: SageMakerResponse, update: Callable[[], Any]) -> Any:
    """Let what an update does not name stay as it is."""
    packages = response.sagemaker_backend.model_packages
    package = packages.get(_asked(response, "ModelPackageArn"))
    before = {} if package is None else dict(vars(package))
    answer = update()
    for member, attribute in (
        ("ModelApprovalStatus", "model_approval_status"),
        ("ApprovalDescription", "approval_description"),
        ("CustomerMetadataProperties", "customer_metadata_properties"),
    ):
        if package is not None and _asked(response, member) is None:
            setattr(package, attribute, before[attribute])
    return answer
