"""AWS::Lambda, and custom resources: those of functions, which are called, and the CDK's own.

Source: the CloudFormation user guide, "Custom resources" (request and response objects); aws-cdk's
custom-resource-handlers (aws-s3-deployment/bucket-deployment-handler, aws-s3/auto-delete-objects).
The CDK's handlers need Node.js or a layer with the AWS CLI, and do here what a few calls do.
"""

# ruff: noqa: D102 - ResourceType says what the verbs are

from __future__ import annotations

import io
import json
import uuid
import zipfile
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.resource_types.resource_type import (
    PhysicalResource,
    ResourceType,
)
from mmekit_local.aws.cloudformation.stack import ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import Resource

__all__ = [
    "AutoDeleteType",
    "BucketDeploymentType",
    "FunctionBackedType",
    "FunctionType",
    "LayerType",
    "PermissionType",
]

_NOT_CONFIGURATION = ("Code", "Tags", "ReservedConcurrentExecutions")

_PAGE = 1000
_ANSWERS = "cloudformation-custom-resource-response"


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
        if self.is_renamed(resource, properties):
            return None
        name = resource.physical_id
        if properties["Code"] != resource.properties["Code"]:
            code = _code(properties["Code"], str(properties.get("Runtime", "")))
            context.call("lambda", "UpdateFunctionCode", FunctionName=name, **code)
        # Architectures and PackageType are no members of UpdateFunctionConfiguration.
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


class BucketDeploymentType(ResourceType):
    """Custom::CDKBucketDeployment: unpacks assets into a bucket.

    Not acted on: CloudFront distributions, markers, and what Include and Exclude leave out.
    """

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        del logical_id
        bucket, prefix = _destination(properties)
        written = set()
        extracts = str(properties.get("Extract", "true")).lower() == "true"
        for source, key in zip(
            properties["SourceBucketNames"], properties["SourceObjectKeys"], strict=True
        ):
            content = context.call("s3", "GetObject", Bucket=source, Key=key)["Body"].read()
            for name, body in _files(key, content, extracts=extracts):
                context.call("s3", "PutObject", Bucket=bucket, Key=prefix + name, Body=body)
                written.add(prefix + name)
        if str(properties.get("Prune", "true")).lower() == "true":
            for key in _keys(context, bucket, prefix):
                if key not in written:
                    context.call("s3", "DeleteObject", Bucket=bucket, Key=key)
        return PhysicalResource(
            f"aws.cdk.s3deployment.{uuid.uuid4()}",
            {
                "DestinationBucketArn": properties.get("DestinationBucketArn")
                or f"arn:aws:s3:::{bucket}",
                "SourceObjectKeys": properties["SourceObjectKeys"],
                "DeployedBucket": bucket,
            },
        )

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        if _destination(properties) != _destination(resource.properties):
            return None
        made = self.create(context, resource.logical_id, properties)
        return PhysicalResource(resource.physical_id, made.attributes)

    def delete(self, context: StackContext, resource: Resource) -> None:
        if str(resource.properties.get("RetainOnDelete", "true")).lower() == "true":
            return
        bucket, prefix = _destination(resource.properties)
        for key in _keys(context, bucket, prefix):
            context.call("s3", "DeleteObject", Bucket=bucket, Key=key)


class AutoDeleteType(ResourceType):
    """Custom::S3AutoDeleteObjects: empties a bucket before it is deleted."""

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        return PhysicalResource(context.new_name(logical_id, properties))

    def delete(self, context: StackContext, resource: Resource) -> None:
        bucket = resource.properties["BucketName"]
        for key in _keys(context, bucket, ""):
            context.call("s3", "DeleteObject", Bucket=bucket, Key=key)


class FunctionBackedType(ResourceType):
    """AWS::CloudFormation::CustomResource and Custom::…, made by a Lambda function of the user.

    Parameters
    ----------
    type_name
        What the function is told as ResourceType.
    """

    def __init__(self, type_name: str) -> None:
        self._type = type_name

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        return self._ask(context, "Create", logical_id, properties)

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        more = {
            "PhysicalResourceId": resource.physical_id,
            "OldResourceProperties": resource.properties,
        }
        return self._ask(context, "Update", resource.logical_id, properties, **more)

    def delete(self, context: StackContext, resource: Resource) -> None:
        more = {"PhysicalResourceId": resource.physical_id}
        self._ask(context, "Delete", resource.logical_id, resource.properties, **more)

    def _ask(
        self,
        context: StackContext,
        what: str,
        logical_id: str,
        properties: dict[str, Any],
        **more: Any,
    ) -> PhysicalResource:
        bucket, key = f"{_ANSWERS}-{context.region}", uuid.uuid4().hex
        # S3 refuses us-east-1 as a LocationConstraint: there it is said by saying nothing.
        where = None if context.region == "us-east-1" else {"LocationConstraint": context.region}
        try:
            context.call("s3", "HeadBucket", Bucket=bucket)
        except ResourceError:
            context.call("s3", "CreateBucket", Bucket=bucket, CreateBucketConfiguration=where)
        url = context.clients.client(
            "s3", context.region, context.access_key
        ).generate_presigned_url("put_object", {"Bucket": bucket, "Key": key})
        event = {
            "RequestType": what,
            "ResponseURL": url,
            "StackId": context.stack_id,
            "RequestId": str(uuid.uuid4()),
            "ResourceType": self._type,
            "LogicalResourceId": logical_id,
            "ResourceProperties": properties,
            **more,
        }
        called = context.call(
            "lambda",
            "Invoke",
            FunctionName=properties["ServiceToken"],
            Payload=json.dumps(event).encode(),
        )
        # Its end has been waited for: an answer that is not there now is not to come.
        said = called["Payload"].read().decode("utf-8", "replace")
        try:
            found = context.call("s3", "GetObject", Bucket=bucket, Key=key)
        except ResourceError as error:
            raise ResourceError(
                f"Custom Resource failed to stabilize: its function ended without an answer "
                f"to the ResponseURL ({said[:300]})"
            ) from error
        answer = json.loads(found["Body"].read())
        if answer.get("Status") != "SUCCESS":
            raise ResourceError(
                f"Received response status [FAILED] from custom resource. "
                f"Message returned: {answer.get('Reason', '')}"
            )
        return PhysicalResource(str(answer["PhysicalResourceId"]), dict(answer.get("Data") or {}))


def _destination(properties: dict[str, Any]) -> tuple[str, str]:
    prefix = str(properties.get("DestinationBucketKeyPrefix", "")).strip("/")
    return str(properties["DestinationBucketName"]), f"{prefix}/" if prefix else ""


def _files(key: str, content: bytes, *, extracts: bool) -> Iterator[tuple[str, bytes]]:
    if not extracts:
        yield key, content
        return
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise ResourceError(f"The asset {key} is no zip file.") from error
    with archive:
        for entry in archive.infolist():
            if not entry.is_dir():
                yield entry.filename, archive.read(entry)


def _keys(context: StackContext, bucket: str, prefix: str) -> list[str]:
    keys: list[str] = []
    token = None
    while True:
        try:
            page = context.call(
                "s3",
                "ListObjectsV2",
                Bucket=bucket,
                Prefix=prefix,
                MaxKeys=_PAGE,
                ContinuationToken=token,
            )
        except ResourceError:  # there is no such bucket (any more)
            return keys
        keys += [found["Key"] for found in page.get("Contents", ())]
        token = page.get("NextContinuationToken")
        if not token:
            return keys
