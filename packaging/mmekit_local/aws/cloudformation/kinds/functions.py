"""AWS::Lambda: functions, their layers and who may call them."""

# ruff: noqa: D102 - Kind says what the verbs are

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.kinds.kind import Kind, Made

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.record import Resource
    from mmekit_local.aws.cloudformation.site import Site

__all__ = ["Function", "Layer", "Permission"]

_NOT_CONFIGURATION = ("Code", "Tags", "ReservedConcurrentExecutions")


class Function(Kind):
    """AWS::Lambda::Function."""

    name_property = "FunctionName"
    longest = 64

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = self.name(site, logical_id, properties)
        answer = site.call(
            "lambda",
            "CreateFunction",
            **{**_configuration(properties), "FunctionName": name},
            Code=_code(properties["Code"], str(properties.get("Runtime", ""))),
            Tags={tag["Key"]: tag["Value"] for tag in properties.get("Tags", ())},
        )
        self._reserve(site, name, properties)
        return Made(name, {"Arn": answer["FunctionArn"]})

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        if properties.get("FunctionName") != resource.properties.get("FunctionName"):
            return None
        name = resource.physical_id
        if properties["Code"] != resource.properties["Code"]:
            code = _code(properties["Code"], str(properties.get("Runtime", "")))
            site.call("lambda", "UpdateFunctionCode", FunctionName=name, **code)
        configuration = {
            member: value
            for member, value in _configuration(properties).items()
            if member not in ("Architectures", "PackageType", "FunctionName")
        }
        site.call("lambda", "UpdateFunctionConfiguration", FunctionName=name, **configuration)
        self._reserve(site, name, properties)
        return Made(name, resource.attributes)

    def delete(self, site: Site, resource: Resource) -> None:
        site.remove("lambda", "DeleteFunction", FunctionName=resource.physical_id)

    @staticmethod
    def _reserve(site: Site, name: str, properties: dict[str, Any]) -> None:
        reserved = properties.get("ReservedConcurrentExecutions")
        if reserved is not None:
            site.call(
                "lambda",
                "PutFunctionConcurrency",
                FunctionName=name,
                ReservedConcurrentExecutions=reserved,
            )


class Layer(Kind):
    """AWS::Lambda::LayerVersion."""

    name_property = "LayerName"
    longest = 140

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = self.name(site, logical_id, properties)
        given = {**properties, "LayerName": name}
        arn = str(site.call("lambda", "PublishLayerVersion", **given)["LayerVersionArn"])
        return Made(arn, {"LayerVersionArn": arn})

    def delete(self, site: Site, resource: Resource) -> None:
        name, version = resource.physical_id.split(":")[-2:]
        site.remove("lambda", "DeleteLayerVersion", LayerName=name, VersionNumber=version)


class Permission(Kind):
    """AWS::Lambda::Permission."""

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = site.new_name(logical_id, properties)
        site.call("lambda", "AddPermission", **properties, StatementId=name)
        return Made(name, {"Id": name})

    def delete(self, site: Site, resource: Resource) -> None:
        site.remove(
            "lambda",
            "RemovePermission",
            FunctionName=resource.properties["FunctionName"],
            StatementId=resource.physical_id,
        )


def _configuration(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if name not in _NOT_CONFIGURATION}


def _code(described: dict[str, Any], runtime: str) -> dict[str, Any]:
    """Return a function's code as the API wants it; a template's ZipFile is a file's text."""
    if "ZipFile" not in described:
        return described
    name = "index.py" if runtime.startswith("python") else "index.js"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, described["ZipFile"])
    return {"ZipFile": packed.getvalue()}
