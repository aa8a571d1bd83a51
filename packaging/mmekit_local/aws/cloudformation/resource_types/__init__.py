"""The types of resource that stacks can have."""

from __future__ import annotations

from mmekit_local.aws.cloudformation.resource_types.functions import (
    AutoDeleteType,
    BucketDeploymentType,
    FunctionBackedType,
    FunctionType,
    LayerType,
    PermissionType,
)
from mmekit_local.aws.cloudformation.resource_types.iam import (
    InlinePolicyType,
    ManagedPolicyType,
    RoleType,
)
from mmekit_local.aws.cloudformation.resource_types.monitoring import (
    AlarmType,
    DashboardType,
    LogGroupType,
    TopicPolicyType,
    TopicType,
)
from mmekit_local.aws.cloudformation.resource_types.resource_type import (
    MotoType,
    NoopType,
    PhysicalResource,
    ResourceType,
)
from mmekit_local.aws.cloudformation.resource_types.s3 import BucketPolicyType, BucketType
from mmekit_local.aws.cloudformation.resource_types.sagemaker import (
    EndpointConfigType,
    EndpointType,
    ModelType,
    ScalableTargetType,
    ScalingPolicyType,
)

__all__ = ["PhysicalResource", "ResourceType", "resource_type_of"]

_CUSTOM = "AWS::CloudFormation::CustomResource"
_TYPES: dict[str, ResourceType] = {
    "AWS::ApplicationAutoScaling::ScalableTarget": ScalableTargetType(),
    "AWS::ApplicationAutoScaling::ScalingPolicy": ScalingPolicyType(),
    "AWS::CDK::Metadata": NoopType(),
    _CUSTOM: FunctionBackedType(_CUSTOM),
    "AWS::CloudFormation::WaitConditionHandle": NoopType(),
    "AWS::CloudWatch::Alarm": AlarmType(),
    "AWS::CloudWatch::Dashboard": DashboardType(),
    "AWS::IAM::ManagedPolicy": ManagedPolicyType(),
    "AWS::IAM::Policy": InlinePolicyType(),
    "AWS::IAM::Role": RoleType(),
    "AWS::Lambda::Function": FunctionType(),
    "AWS::Lambda::LayerVersion": LayerType(),
    "AWS::Lambda::Permission": PermissionType(),
    "AWS::Logs::LogGroup": LogGroupType(),
    "AWS::S3::Bucket": BucketType(),
    "AWS::S3::BucketPolicy": BucketPolicyType(),
    "AWS::SNS::Topic": TopicType(),
    "AWS::SNS::TopicPolicy": TopicPolicyType(),
    "AWS::SageMaker::Endpoint": EndpointType(),
    "AWS::SageMaker::EndpointConfig": EndpointConfigType(),
    "AWS::SageMaker::Model": ModelType(),
    "Custom::CDKBucketDeployment": BucketDeploymentType(),
    "Custom::S3AutoDeleteObjects": AutoDeleteType(),
}


def resource_type_of(type_name: str) -> ResourceType:
    """Return how resources of a type are made.

    Raises
    ------
    ResourceError
        It is unknown here.
    """
    if type_name not in _TYPES:
        custom = type_name.startswith("Custom::")
        _TYPES[type_name] = FunctionBackedType(type_name) if custom else MotoType(type_name)
    return _TYPES[type_name]
