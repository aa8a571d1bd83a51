"""AWS::S3: buckets and their policies."""

# ruff: noqa: D102 - ResourceType says what the verbs are

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.resource_types.resource_type import (
    PhysicalResource,
    ResourceType,
)
from mmekit_local.aws.cloudformation.stack import ResourceError

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.context import StackContext
    from mmekit_local.aws.cloudformation.stack import Resource

__all__ = ["BucketPolicyType", "BucketType"]


class BucketType(ResourceType):
    """AWS::S3::Bucket; what is set is encryption, public access, versions, ownership and tags.

    Life cycles, logging and the other properties are kept in the stack's record only: nothing
    here grows old, and nobody reads access logs.
    """

    name_property = "BucketName"

    def name(self, context: StackContext, logical_id: str, properties: dict[str, Any]) -> str:
        return super().name(context, logical_id, properties).lower()

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        name = self.name(context, logical_id, properties)
        where = None
        if context.region != "us-east-1":
            where = {"LocationConstraint": context.region}
        else:
            self._require_new(context, name)
        context.call("s3", "CreateBucket", Bucket=name, CreateBucketConfiguration=where)
        try:
            self._configure(context, name, properties)
        except ResourceError:
            context.remove("s3", "DeleteBucket", Bucket=name)
            raise
        return PhysicalResource(
            name,
            {
                "Arn": f"arn:aws:s3:::{name}",
                "DomainName": f"{name}.s3.amazonaws.com",
                "RegionalDomainName": f"{name}.s3.{context.region}.amazonaws.com",
                "DualStackDomainName": f"{name}.s3.dualstack.{context.region}.amazonaws.com",
                "WebsiteURL": f"http://{name}.s3-website-{context.region}.amazonaws.com",
            },
        )

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        if self.is_renamed(resource, properties):
            return None
        self._configure(context, resource.physical_id, properties)
        return PhysicalResource(resource.physical_id, resource.attributes)

    def delete(self, context: StackContext, resource: Resource) -> None:
        context.remove("s3", "DeleteBucket", Bucket=resource.physical_id)

    @staticmethod
    def _require_new(context: StackContext, name: str) -> None:
        """Refuse a bucket that is there: S3 of us-east-1 makes one's own a second time."""
        try:
            context.call("s3", "HeadBucket", Bucket=name)
        except ResourceError:
            return
        raise ResourceError(f"{name} already exists")

    @staticmethod
    def _configure(context: StackContext, name: str, properties: dict[str, Any]) -> None:
        encryption = properties.get("BucketEncryption")
        if encryption is not None:
            rules = [
                {
                    "ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"],
                    "BucketKeyEnabled": rule.get("BucketKeyEnabled", False),
                }
                for rule in encryption["ServerSideEncryptionConfiguration"]
            ]
            context.call(
                "s3",
                "PutBucketEncryption",
                Bucket=name,
                ServerSideEncryptionConfiguration={"Rules": rules},
            )
        for member, operation in (
            ("PublicAccessBlockConfiguration", "PutPublicAccessBlock"),
            ("VersioningConfiguration", "PutBucketVersioning"),
            ("OwnershipControls", "PutBucketOwnershipControls"),
        ):
            if member in properties:
                context.call("s3", operation, Bucket=name, **{member: properties[member]})
        if properties.get("Tags"):
            tags = {"TagSet": properties["Tags"]}
            context.call("s3", "PutBucketTagging", Bucket=name, Tagging=tags)


class BucketPolicyType(ResourceType):
    """AWS::S3::BucketPolicy."""

    def create(
        self, context: StackContext, logical_id: str, properties: dict[str, Any]
    ) -> PhysicalResource:
        del logical_id
        bucket = str(properties["Bucket"])
        policy = json.dumps(properties["PolicyDocument"])
        context.call("s3", "PutBucketPolicy", Bucket=bucket, Policy=policy)
        return PhysicalResource(bucket)

    def update(
        self, context: StackContext, resource: Resource, properties: dict[str, Any]
    ) -> PhysicalResource | None:
        if properties["Bucket"] != resource.properties["Bucket"]:
            return None
        return self.create(context, resource.logical_id, properties)

    def delete(self, context: StackContext, resource: Resource) -> None:
        context.remove("s3", "DeleteBucketPolicy", Bucket=resource.physical_id)
