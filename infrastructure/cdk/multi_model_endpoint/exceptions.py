"""Exceptions from AWS's rules of good practice, each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aws_cdk as cdk

if TYPE_CHECKING:
    from aws_cdk import aws_s3 as s3
    from constructs import IConstruct

__all__ = ["except_from", "except_the_cdks_own"]

_ASSETS = "arn:<AWS::Partition>:s3:::cdk-hnb659fds-assets-<AWS::AccountId>-<AWS::Region>/*"
_LOGS = "arn:<AWS::Partition>:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
_COPIES = (
    "Action::s3:GetBucket*",
    "Action::s3:GetObject*",
    "Action::s3:List*",
    "Action::s3:Abort*",
    "Action::s3:DeleteObject*",
)


def except_from(rule: str, construct: IConstruct, reason: str) -> None:
    """Let a construct be, and all that it is made of."""
    found = cdk.Acknowledgment(id=rule, reason=reason)
    cdk.Validations.of(construct).acknowledge(found)


def except_the_cdks_own(stack: cdk.Stack, bucket: s3.Bucket) -> None:
    """Let the functions be that the CDK adds to a stack in order to fill and empty a bucket.

    Parameters
    ----------
    stack
        Whose functions.
    bucket
        The bucket.
    """
    archives = f"<{stack.get_logical_id(bucket.node.default_child)}.Arn>/*"
    for child in stack.node.children:
        if not child.node.id.startswith("Custom::"):
            continue
        reason = "The function is the CDK's own, and so is the choice of its runtime."
        except_from("AwsSolutions-L1", child, reason)
        reason = "The function is the CDK's own; AWS's policy lets it write its log and no more."
        except_from(f"AwsSolutions-IAM4[Policy::{_LOGS}]", child, reason)
        reason = "The CDK grants its function these actions, on the two buckets it copies between."
        for finding in (*_COPIES, f"Resource::{_ASSETS}", f"Resource::{archives}"):
            except_from(f"AwsSolutions-IAM5[{finding}]", child, reason)
