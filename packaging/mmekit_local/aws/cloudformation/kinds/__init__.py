"""The types of resource that stacks can have."""

from __future__ import annotations

from mmekit_local.aws.cloudformation.kinds.access import InlinePolicy, ManagedPolicy, Role
from mmekit_local.aws.cloudformation.kinds.custom import (
    AutoDelete,
    BucketDeployment,
    FunctionBacked,
)
from mmekit_local.aws.cloudformation.kinds.functions import Function, Layer, Permission
from mmekit_local.aws.cloudformation.kinds.kind import Kind, Made
from mmekit_local.aws.cloudformation.kinds.monitoring import (
    Alarm,
    Dashboard,
    LogGroup,
    Topic,
    TopicPolicy,
)
from mmekit_local.aws.cloudformation.kinds.others import MotoKind, Nothing
from mmekit_local.aws.cloudformation.kinds.sagemaker import Endpoint, EndpointConfig, Model
from mmekit_local.aws.cloudformation.kinds.scaling import ScalableTarget, ScalingPolicy
from mmekit_local.aws.cloudformation.kinds.storage import Bucket, BucketPolicy

__all__ = ["Kind", "Made", "kind_of"]

_CUSTOM = "AWS::CloudFormation::CustomResource"
_KINDS: dict[str, Kind] = {
    "AWS::ApplicationAutoScaling::ScalableTarget": ScalableTarget(),
    "AWS::ApplicationAutoScaling::ScalingPolicy": ScalingPolicy(),
    "AWS::CDK::Metadata": Nothing(),
    _CUSTOM: FunctionBacked(_CUSTOM),
    "AWS::CloudFormation::WaitConditionHandle": Nothing(),
    "AWS::CloudWatch::Alarm": Alarm(),
    "AWS::CloudWatch::Dashboard": Dashboard(),
    "AWS::IAM::ManagedPolicy": ManagedPolicy(),
    "AWS::IAM::Policy": InlinePolicy(),
    "AWS::IAM::Role": Role(),
    "AWS::Lambda::Function": Function(),
    "AWS::Lambda::LayerVersion": Layer(),
    "AWS::Lambda::Permission": Permission(),
    "AWS::Logs::LogGroup": LogGroup(),
    "AWS::S3::Bucket": Bucket(),
    "AWS::S3::BucketPolicy": BucketPolicy(),
    "AWS::SNS::Topic": Topic(),
    "AWS::SNS::TopicPolicy": TopicPolicy(),
    "AWS::SageMaker::Endpoint": Endpoint(),
    "AWS::SageMaker::EndpointConfig": EndpointConfig(),
    "AWS::SageMaker::Model": Model(),
    "Custom::CDKBucketDeployment": BucketDeployment(),
    "Custom::S3AutoDeleteObjects": AutoDelete(),
}


def kind_of(type_name: str) -> Kind:
    """Return how resources of a type are made.

    Raises
    ------
    ResourceError
        It is unknown here.
    """
    if type_name not in _KINDS:
        custom = type_name.startswith("Custom::")
        _KINDS[type_name] = FunctionBacked(type_name) if custom else MotoKind(type_name)
    return _KINDS[type_name]
