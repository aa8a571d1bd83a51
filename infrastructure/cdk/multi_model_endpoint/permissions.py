"""The role of the endpoint: archives under the prefix, their layers, the image, logs, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aws_cdk as cdk
from aws_cdk import aws_iam as iam

from multi_model_endpoint.exceptions import except_from

if TYPE_CHECKING:
    from aws_cdk import aws_s3 as s3
    from constructs import Construct

    from multi_model_endpoint.image import Image

__all__ = ["endpoint_role"]

_NAMESPACES = ["AWS/SageMaker", "/aws/sagemaker/Endpoints"]


def endpoint_role(
    scope: Construct,
    *,
    bucket: s3.Bucket,
    prefix: str,
    layers_prefix: str | None,
    image: Image,
    endpoint_name: str,
) -> iam.Role:
    """Return a role that SageMaker of this account may take on."""
    stack, under = cdk.Stack.of(scope), prefix.rstrip("/") + "/*"
    log_group = f"log-group:/aws/sagemaker/Endpoints/{endpoint_name}"
    logs = f"arn:{stack.partition}:logs:{stack.region}:{stack.account}:{log_group}"
    source = {"StringEquals": {"aws:SourceAccount": stack.account}}
    role = iam.Role(
        scope,
        "Role",
        assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com", conditions=source),
    )
    for statement in (
        iam.PolicyStatement(
            sid="ReadArchives", actions=["s3:GetObject"], resources=[bucket.arn_for_objects(under)]
        ),
        iam.PolicyStatement(
            sid="ListArchives",
            actions=["s3:ListBucket"],
            resources=[bucket.bucket_arn],
            # What is listed is the model's URL, which may end without a slash.
            conditions={"StringLike": {"s3:prefix": [prefix, under]}},
        ),
        iam.PolicyStatement(
            sid="PullImage",
            actions=[
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchGetImage",
                "ecr:GetDownloadUrlForLayer",
            ],
            resources=[image.repository_arn],
        ),
        iam.PolicyStatement(sid="LogIn", actions=["ecr:GetAuthorizationToken"], resources=["*"]),
        iam.PolicyStatement(
            sid="WriteLogs",
            actions=[
                "logs:CreateLogGroup",
                "logs:CreateLogStream",
                "logs:DescribeLogStreams",
                "logs:PutLogEvents",
            ],
            resources=[logs, f"{logs}:*"],
        ),
        iam.PolicyStatement(
            sid="PutMetrics",
            actions=["cloudwatch:PutMetricData"],
            resources=["*"],
            conditions={"StringEquals": {"cloudwatch:namespace": _NAMESPACES}},
        ),
    ):
        role.add_to_policy(statement)
    if layers_prefix is not None:
        _let_read_layers(role, bucket, f"{layers_prefix}*")
    if bucket.encryption_key is not None:
        bucket.encryption_key.grant_decrypt(role)
    archives = f"<{stack.get_logical_id(bucket.node.default_child)}.Arn>/{under}"
    for resource, reason in (
        (archives, "It is to read every archive under the prefix, those of tomorrow too."),
        (
            f"arn:<AWS::Partition>:logs:<AWS::Region>:<AWS::AccountId>:{log_group}:*",
            "The streams of the endpoint's log are named by SageMaker.",
        ),
        (
            "*",
            "ecr:GetAuthorizationToken and cloudwatch:PutMetricData know no resources.",
        ),
    ):
        except_from(f"AwsSolutions-IAM5[Resource::{resource}]", role, reason)
    return role


def _let_read_layers(role: iam.Role, bucket: s3.Bucket, under: str) -> None:
    stack = cdk.Stack.of(role)
    for statement in (
        iam.PolicyStatement(
            sid="ReadLayers", actions=["s3:GetObject"], resources=[bucket.arn_for_objects(under)]
        ),
        iam.PolicyStatement(
            sid="ListLayers",
            actions=["s3:ListBucket"],
            resources=[bucket.bucket_arn],
            conditions={"StringLike": {"s3:prefix": [under]}},
        ),
    ):
        role.add_to_policy(statement)
    except_from(
        f"AwsSolutions-IAM5[Resource::<{stack.get_logical_id(bucket.node.default_child)}.Arn>/{under}]",
        role,
        "It is to read every layer under the prefix, those of tomorrow's archives too.",
    )
