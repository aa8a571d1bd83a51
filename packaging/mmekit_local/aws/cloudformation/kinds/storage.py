"""AWS::S3: buckets and their policies."""

# ruff: noqa: D102 - Kind says what the verbs are

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmekit_local.aws.cloudformation.errors import ResourceError
from mmekit_local.aws.cloudformation.kinds.kind import Kind, Made

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation.record import Resource
    from mmekit_local.aws.cloudformation.site import Site

__all__ = ["Bucket", "BucketPolicy"]


class Bucket(Kind):
    """AWS::S3::Bucket; what is set is encryption, public access, versions, ownership and tags.

    Life cycles, logging and the other properties are kept in the stack's record only: nothing
    here grows old, and nobody reads access logs.
    """

    name_property = "BucketName"

    def name(self, site: Site, logical_id: str, properties: dict[str, Any]) -> str:
        return super().name(site, logical_id, properties).lower()

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        name = self.name(site, logical_id, properties)
        where = None
        if site.region != "us-east-1":
            where = {"LocationConstraint": site.region}
        else:
            self._require_new(site, name)
        site.call("s3", "CreateBucket", Bucket=name, CreateBucketConfiguration=where)
        try:
            self._configure(site, name, properties)
        except ResourceError:
            site.remove("s3", "DeleteBucket", Bucket=name)
            raise
        return Made(
            name,
            {
                "Arn": f"arn:aws:s3:::{name}",
                "DomainName": f"{name}.s3.amazonaws.com",
                "RegionalDomainName": f"{name}.s3.{site.region}.amazonaws.com",
                "DualStackDomainName": f"{name}.s3.dualstack.{site.region}.amazonaws.com",
                "WebsiteURL": f"http://{name}.s3-website-{site.region}.amazonaws.com",
            },
        )

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        if properties.get("BucketName") != resource.properties.get("BucketName"):
            return None
        self._configure(site, resource.physical_id, properties)
        return Made(resource.physical_id, resource.attributes)

    def delete(self, site: Site, resource: Resource) -> None:
        site.remove("s3", "DeleteBucket", Bucket=resource.physical_id)

    @staticmethod
    def _require_new(site: Site, name: str) -> None:
        """Refuse a bucket that is there: S3 of us-east-1 makes one's own a second time."""
        try:
            site.call("s3", "HeadBucket", Bucket=name)
        except ResourceError:
            return
        raise ResourceError(f"{name} already exists")

    @staticmethod
    def _configure(site: Site, name: str, properties: dict[str, Any]) -> None:
        encryption = properties.get("BucketEncryption")
        if encryption is not None:
            rules = [
                {
                    "ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"],
                    "BucketKeyEnabled": rule.get("BucketKeyEnabled", False),
                }
                for rule in encryption["ServerSideEncryptionConfiguration"]
            ]
            site.call(
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
                site.call("s3", operation, Bucket=name, **{member: properties[member]})
        if properties.get("Tags"):
            tags = {"TagSet": properties["Tags"]}
            site.call("s3", "PutBucketTagging", Bucket=name, Tagging=tags)


class BucketPolicy(Kind):
    """AWS::S3::BucketPolicy."""

    def create(self, site: Site, logical_id: str, properties: dict[str, Any]) -> Made:
        del logical_id
        bucket = str(properties["Bucket"])
        policy = json.dumps(properties["PolicyDocument"])
        site.call("s3", "PutBucketPolicy", Bucket=bucket, Policy=policy)
        return Made(bucket)

    def update(self, site: Site, resource: Resource, properties: dict[str, Any]) -> Made | None:
        if properties["Bucket"] != resource.properties["Bucket"]:
            return None
        return self.create(site, resource.logical_id, properties)

    def delete(self, site: Site, resource: Resource) -> None:
        site.remove("s3", "DeleteBucketPolicy", Bucket=resource.physical_id)
