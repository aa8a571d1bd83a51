"""AWS::SageMaker: models, endpoint configs, and endpoints, which are made when they serve."""

# ruff: noqa: D102 - Kind says what the verbs are

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.errors import ResourceError
from mmekit_local.aws.cloudformation.kinds.kind import Kind, Made

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.record import Resource
    from mmekit_local.aws.cloudformation.site import Site

__all__ = ["Endpoint", "EndpointConfig", "Model"]

_UPDATED = (
    "EndpointConfigName",
    "RetainAllVariantProperties",
    "ExcludeRetainedVariantProperties",
    "DeploymentConfig",
    "RetainDeploymentConfig",
)


_SETTLED = ("InService", "Failed", "OutOfService", "UpdateRollbackFailed")


class Model(Kind):
    """AWS::SageMaker::Model; every change needs a new one."""

    name_property = "ModelName"

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = self.name(site, logical_id, properties)
        answer = site.call("sagemaker", "CreateModel", **{**properties, "ModelName": name})
        return Made(answer["ModelArn"], {"ModelName": name, "ModelArn": answer["ModelArn"]})

    def delete(self, site: Site, resource: Resource) -> None:
        site.remove("sagemaker", "DeleteModel", ModelName=resource.attributes["ModelName"])


class EndpointConfig(Kind):
    """AWS::SageMaker::EndpointConfig; every change needs a new one."""

    name_property = "EndpointConfigName"

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = self.name(site, logical_id, properties)
        given = {**properties, "EndpointConfigName": name}
        arn = site.call("sagemaker", "CreateEndpointConfig", **given)["EndpointConfigArn"]
        return Made(arn, {"EndpointConfigName": name, "Id": arn})

    def delete(self, site: Site, resource: Resource) -> None:
        name = resource.attributes["EndpointConfigName"]
        site.remove("sagemaker", "DeleteEndpointConfig", EndpointConfigName=name)


class Endpoint(Kind):
    """AWS::SageMaker::Endpoint; another config is an UpdateEndpoint."""

    name_property = "EndpointName"

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = self.name(site, logical_id, properties)
        answer = site.call(
            "sagemaker",
            "CreateEndpoint",
            EndpointName=name,
            EndpointConfigName=properties.get("EndpointConfigName"),
            Tags=properties.get("Tags"),
            DeploymentConfig=properties.get("DeploymentConfig"),
        )
        try:
            described = self._settled(site, name)
        except ResourceError:
            self._remove(site, name)
            raise
        if described["EndpointStatus"] != "InService":
            self._remove(site, name)
            raise ResourceError(
                f"Endpoint {name} did not come into service: {described.get('FailureReason')}"
            )
        return Made(answer["EndpointArn"], {"EndpointName": name, "Id": answer["EndpointArn"]})

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        if properties.get("EndpointName") != resource.properties.get("EndpointName"):
            return None
        name, wanted = resource.attributes["EndpointName"], properties.get("EndpointConfigName")
        given = {member: properties.get(member) for member in _UPDATED}
        if self._settled(site, name)["EndpointConfigName"] != wanted:
            site.call("sagemaker", "UpdateEndpoint", EndpointName=name, **given)
            described = self._settled(site, name)
            if described["EndpointConfigName"] != wanted:
                raise ResourceError(
                    f"Endpoint {name} was not updated: {described.get('FailureReason')}"
                )
        return Made(resource.physical_id, resource.attributes)

    def delete(self, site: Site, resource: Resource) -> None:
        self._remove(site, resource.attributes["EndpointName"])

    def _settled(self, site: Site, name: str) -> dict[str, Any]:
        """Return what DescribeEndpoint says when nothing happens to an endpoint any more."""
        described: dict[str, Any] = {}

        def settled() -> bool:
            described.update(site.call("sagemaker", "DescribeEndpoint", EndpointName=name))
            return described["EndpointStatus"] in _SETTLED

        site.wait_until(settled)
        return described

    def _remove(self, site: Site, name: str) -> None:
        try:
            site.remove("sagemaker", "DeleteEndpoint", EndpointName=name)
        except ResourceError as error:
            if "in-progress" not in str(error):
                raise
            site.withdraw(name)
        while not site.closing.is_set():
            try:
                site.call("sagemaker", "DescribeEndpoint", EndpointName=name)
            except ResourceError:
                return
            site.closing.wait(0.1)
