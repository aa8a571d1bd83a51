"""AWS::Lambda: functions, their layers and who may call them."""

# ruff: noqa: D102 - ResourceType says what the verbs are

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.resource_types.resource_type import (
    PhysicalResource,
    ResourceType,
)

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.record import Resource

__all__ = ["FunctionType", "LayerType", "PermissionType"]

_NOT_CONFIGURATION = ("Code", "Tags", "ReservedConcurrentExecutions")


class FunctionType(ResourceType):
    """AWS::Lambda::Function."""

    name_property = "FunctionName"
    longest = 64

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        answer = context.call(
            "lambda",
            "CreateFunction",
            **{**_configuration(properties), "FunctionName": name},
            Code=_code(properties["Code"], str(properties.get("Runtime", ""))),
            Tags={tag["Key"]: tag["Value"] for tag in properties.get("Tags", ())},
        )
        self._reserve(context, name, properties)
        return PhysicalResource(name, {"Arn": answer["FunctionArn"]})

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        if properties.get("FunctionName") != resource.properties.get("FunctionName"):
            return None
        name = resource.physical_id
        if properties["Code"] != resource.properties["Code"]:
            code = _code(properties["Code"], str(properties.get("Runtime", "")))
            context.call("lambda", "UpdateFunctionCode", FunctionName=name, **code)
        configuration = {
            member: value
            for member, value in _configuration(properties).items()
            if member not in ("Architectures", "PackageType", "FunctionName")
        }
        context.call("lambda", "UpdateFunctionConfiguration", FunctionName=name, **configuration)
        self._reserve(context, name, properties)
        return PhysicalResource(name, resource.attributes)

    def delete(self, context: StackContext, resource: Resource) -> None:
        context.remove("lambda", "DeleteFunction", FunctionName=resource.physical_id)

    @staticmethod
    def _reserve(context: StackContext, name: str, properties: dict[str, Any]) -> None:
        reserved = properties.get("ReservedConcurrentExecutions")
        if reserved is not None:
            context.call(
                "lambda",
                "PutFunctionConcurrency",
                FunctionName=name,
                ReservedConcurrentExecutions=reserved,
            )


class LayerType(ResourceType):
    """AWS::Lambda::LayerVersion."""

    name_property = "LayerName"
    longest = 140

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        given = {**properties, "LayerName": name}
        arn = str(context.call("lambda", "PublishLayerVersion", **given)["LayerVersionArn"])
        return PhysicalResource(arn, {"LayerVersionArn": arn})

    def delete(self, context: StackContext, resource: Resource) -> None:
        name, version = resource.physical_id.split(":")[-2:]
        context.remove("lambda", "DeleteLayerVersion", LayerName=name, VersionNumber=version)


class PermissionType(ResourceType):
    """AWS::Lambda::Permission."""

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = context.new_name(logical_id, properties)
        context.call("lambda", "AddPermission", **properties, StatementId=name)
        return PhysicalResource(name, {"Id": name})

    def delete(self, context: StackContext, resource: Resource) -> None:
        context.remove(
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
