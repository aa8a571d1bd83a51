"""Which members of a request are acted on: the table of all that botocore knows.

By shape, as botocore's service models have them, so that what several operations share (the
variants of an endpoint config, say) is said once. A member that is *acted on* is looked into, when
it is a structure of members; one that is only *recorded*, or *refused*, stands for all that is in
it. What the table does not have is refused, as is a value that it does not name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from moto.core.utils import get_service_model

from mmekit_local.sagemaker.errors import validation_exception

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["MEMBERS", "RecordedMember", "RefusedMember", "check_members", "refused_headers"]


@dataclass(frozen=True)
class RecordedMember:
    """A member that is kept and described, and whose effect does not matter on this machine.

    Attributes
    ----------
    why
        Why it does not matter.
    """

    why: str


@dataclass(frozen=True)
class RefusedMember:
    """A member that nothing here acts on, and whose effect matters.

    Attributes
    ----------
    why
        What the rehearsal cannot do.
    unless
        Values that ask for what there is anyway.
    """

    why: str
    unless: tuple[Any, ...] = ()


ACTED_ON = "acted on"
Treatment = str | RecordedMember | RefusedMember

_NEW = RefusedMember("which nobody here has looked at yet")
_TAGS = RecordedMember("tags are records on AWS, too")
_KEYS = RecordedMember("nothing is encrypted on this machine, and nothing has to be deciphered")
_NETWORK = RecordedMember("containers are on this machine's own network")
_TEXT = RecordedMember("a description")
_REGISTRY = RecordedMember("what a registry keeps for its readers")

_ARCHIVES = "there is one archive, or a prefix with archives under it"


def _acted_on(names: str) -> dict[str, Treatment]:
    return dict.fromkeys(names.split(), ACTED_ON)


MEMBERS: dict[str, Mapping[str, Treatment]] = {
    # Models
    "CreateModelInput": {
        **_acted_on("ModelName PrimaryContainer Containers ExecutionRoleArn"),
        "InferenceExecutionConfig": RecordedMember(
            "it is about several containers, which are refused"
        ),
        "Tags": _TAGS,
        "VpcConfig": _NETWORK,
        **_acted_on("EnableNetworkIsolation"),
    },
    "ContainerDefinition": {
        **_acted_on("Image Mode ModelDataUrl ModelDataSource Environment MultiModelConfig"),
        **_acted_on("ModelPackageName InferenceSpecificationName"),
        "ContainerHostname": RecordedMember("it tells several containers apart, which are refused"),
        "ImageConfig": RecordedMember("no image is pulled but by Docker, with your own login"),
        "AdditionalModelDataSources": RefusedMember("a container has one source of models"),
        "ContainerMetricsConfig": RefusedMember("containers' own metrics are not read"),
    },
    "MultiModelConfig": _acted_on("ModelCacheSetting"),
    "ModelDataSource": _acted_on("S3DataSource"),
    "S3ModelDataSource": {
        **_acted_on("S3Uri"),
        "S3DataType": RefusedMember(_ARCHIVES, unless=("S3Object", "S3Prefix")),
        "CompressionType": RefusedMember(
            "a model is read from an archive; pack it with `mme pack`", unless=("Gzip",)
        ),
        "ModelAccessConfig": RecordedMember("what is in the bucket has been agreed to"),
        "HubAccessConfig": RefusedMember("there is no hub"),
        "ManifestS3Uri": RefusedMember(_ARCHIVES),
        "ETag": RefusedMember("an archive is not held against an ETag"),
        "ManifestEtag": RefusedMember(_ARCHIVES),
    },
    "DescribeModelInput": _acted_on("ModelName"),
    "DeleteModelInput": _acted_on("ModelName"),
    "ListModelsInput": _acted_on(
        "SortBy SortOrder NextToken MaxResults NameContains CreationTimeBefore CreationTimeAfter"
    ),
    # Endpoint configs
    "CreateEndpointConfigInput": {
        **_acted_on("EndpointConfigName ProductionVariants DataCaptureConfig"),
        **_acted_on("AsyncInferenceConfig ShadowProductionVariants MetricsConfig"),
        "Tags": _TAGS,
        "KmsKeyId": _KEYS,
        "ExplainerConfig": RefusedMember("SageMaker Clarify does not run here"),
        "ExecutionRoleArn": RefusedMember("it is about inference components"),
        "VpcConfig": RefusedMember("it is about inference components"),
        "EnableNetworkIsolation": RefusedMember(
            "it is about inference components", unless=(False,)
        ),
        "CrossRegionTrafficConfig": RefusedMember("requests stay on this machine"),
    },
    "ProductionVariant": {
        **_acted_on("VariantName ModelName InitialInstanceCount InstanceType"),
        **_acted_on("InitialVariantWeight ServerlessConfig VolumeSizeInGB"),
        **_acted_on("ContainerStartupHealthCheckTimeoutInSeconds RoutingConfig"),
        "InstancePools": RefusedMember("a variant has one instance type"),
        "VariantInstanceProvisionTimeoutInSeconds": RecordedMember("instances are there at once"),
        "AcceleratorType": RefusedMember("there are no accelerators"),
        "CoreDumpConfig": RefusedMember("core dumps are not brought to S3"),
        "ModelDataDownloadTimeoutInSeconds": RecordedMember("archives are on this machine already"),
        "EnableSSMAccess": RefusedMember("instances have no Systems Manager", unless=(False,)),
        "ManagedInstanceScaling": RefusedMember("use Application Auto Scaling"),
        "InferenceAmiVersion": RecordedMember("containers share this machine's system"),
        "CapacityReservationConfig": RecordedMember("there is nothing to reserve"),
        "AcceleratorPartitionLayouts": RefusedMember("there are no accelerators"),
    },
    "ProductionVariantRoutingConfig": {
        "RoutingStrategy": RefusedMember(
            "requests go to the least busy instance that has the model",
            unless=("LEAST_OUTSTANDING_REQUESTS", "RANDOM"),
        ),
        "PrefixAwareRoutingConfig": RefusedMember("requests are not routed by their beginning"),
    },
    "ProductionVariantServerlessConfig": _acted_on(
        "MemorySizeInMB MaxConcurrency ProvisionedConcurrency"
    ),
    "DataCaptureConfig": {
        **_acted_on("EnableCapture InitialSamplingPercentage DestinationS3Uri CaptureOptions"),
        **_acted_on("CaptureContentTypeHeader"),
        "KmsKeyId": _KEYS,
    },
    "CaptureOption": _acted_on("CaptureMode"),
    "CaptureContentTypeHeader": _acted_on("CsvContentTypes JsonContentTypes"),
    "AsyncInferenceConfig": _acted_on("ClientConfig OutputConfig"),
    "AsyncInferenceClientConfig": _acted_on("MaxConcurrentInvocationsPerInstance"),
    "AsyncInferenceOutputConfig": {
        **_acted_on("S3OutputPath S3FailurePath NotificationConfig KmsKeyId"),
    },
    "AsyncInferenceNotificationConfig": _acted_on(
        "SuccessTopic ErrorTopic IncludeInferenceResponseIn"
    ),
    "MetricsConfig": {
        **_acted_on("MetricPublishFrequencyInSeconds"),
        "EnableEnhancedMetrics": RefusedMember(
            "metrics of single instances and containers are not kept", unless=(False,)
        ),
        "EnableDetailedObservability": RefusedMember(
            "containers' own metrics are not read", unless=(False,)
        ),
    },
    "DescribeEndpointConfigInput": _acted_on("EndpointConfigName"),
    "DeleteEndpointConfigInput": _acted_on("EndpointConfigName"),
    "ListEndpointConfigsInput": _acted_on(
        "SortBy SortOrder NextToken MaxResults NameContains CreationTimeBefore CreationTimeAfter"
    ),
    # Endpoints
    "CreateEndpointInput": {
        **_acted_on("EndpointName EndpointConfigName DeploymentConfig"),
        "Tags": _TAGS,
    },
    "UpdateEndpointInput": _acted_on(
        "EndpointName EndpointConfigName RetainAllVariantProperties "
        "ExcludeRetainedVariantProperties DeploymentConfig RetainDeploymentConfig"
    ),
    "VariantProperty": _acted_on("VariantPropertyType"),
    "DeploymentConfig": _acted_on(
        "BlueGreenUpdatePolicy RollingUpdatePolicy AutoRollbackConfiguration"
    ),
    "BlueGreenUpdatePolicy": _acted_on(
        "TrafficRoutingConfiguration TerminationWaitInSeconds MaximumExecutionTimeoutInSeconds"
    ),
    "TrafficRoutingConfig": _acted_on("Type WaitIntervalInSeconds CanarySize LinearStepSize"),
    "CapacitySize": _acted_on("Type Value"),
    "RollingUpdatePolicy": _acted_on(
        "MaximumBatchSize WaitIntervalInSeconds MaximumExecutionTimeoutInSeconds "
        "RollbackMaximumBatchSize"
    ),
    "AutoRollbackConfig": _acted_on("Alarms"),
    "Alarm": _acted_on("AlarmName"),
    "UpdateEndpointWeightsAndCapacitiesInput": _acted_on(
        "EndpointName DesiredWeightsAndCapacities"
    ),
    "DesiredWeightAndCapacity": {
        **_acted_on("VariantName DesiredWeight DesiredInstanceCount"),
        "ServerlessUpdateConfig": RefusedMember("use UpdateEndpoint with another config"),
    },
    "DescribeEndpointInput": _acted_on("EndpointName"),
    "DeleteEndpointInput": _acted_on("EndpointName"),
    "ListEndpointsInput": _acted_on(
        "SortBy SortOrder NextToken MaxResults NameContains CreationTimeBefore CreationTimeAfter "
        "LastModifiedTimeBefore LastModifiedTimeAfter StatusEquals"
    ),
    # The model registry
    "CreateModelPackageInput": {
        **_acted_on("ModelPackageName ModelPackageGroupName InferenceSpecification"),
        **_acted_on("ModelApprovalStatus AdditionalInferenceSpecifications"),
        "ModelPackageDescription": _TEXT,
        "ModelPackageRegistrationType": RefusedMember(
            "every package is a registered one", unless=("Registered",)
        ),
        "ValidationSpecification": RefusedMember("a package is not validated by transform jobs"),
        "SourceAlgorithmSpecification": RefusedMember("there are no algorithms"),
        "CertifyForMarketplace": RefusedMember("nothing is certified here", unless=(False,)),
        "Tags": _TAGS,
        "MetadataProperties": _REGISTRY,
        "ModelMetrics": _REGISTRY,
        "ClientToken": RecordedMember("a request that is made twice is answered twice"),
        "Domain": _TEXT,
        "Task": _TEXT,
        "SamplePayloadUrl": _REGISTRY,
        "CustomerMetadataProperties": _REGISTRY,
        "DriftCheckBaselines": _REGISTRY,
        "SkipModelValidation": RecordedMember("a package is not validated in any case"),
        "SourceUri": _REGISTRY,
        "SecurityConfig": _KEYS,
        "ModelCard": _REGISTRY,
        "ModelLifeCycle": _REGISTRY,
        "ManagedStorageType": RefusedMember("models stay in your own bucket"),
    },
    "InferenceSpecification": {
        "Containers": ACTED_ON,
        "SupportedTransformInstanceTypes": _REGISTRY,
        "SupportedRealtimeInferenceInstanceTypes": _REGISTRY,
        "SupportedContentTypes": _REGISTRY,
        "SupportedResponseMIMETypes": _REGISTRY,
    },
    "AdditionalInferenceSpecificationDefinition": {
        **_acted_on("Name Containers"),
        "Description": _TEXT,
        "SupportedTransformInstanceTypes": _REGISTRY,
        "SupportedRealtimeInferenceInstanceTypes": _REGISTRY,
        "SupportedContentTypes": _REGISTRY,
        "SupportedResponseMIMETypes": _REGISTRY,
    },
    "ModelPackageContainerDefinition": {
        **_acted_on("Image ModelDataUrl ModelDataSource Environment"),
        "ContainerHostname": RecordedMember("it tells several containers apart, which are refused"),
        "ImageDigest": _REGISTRY,
        "ProductId": _REGISTRY,
        "ModelInput": _REGISTRY,
        "Framework": _TEXT,
        "FrameworkVersion": _TEXT,
        "NearestModelName": _TEXT,
        "AdditionalModelDataSources": RefusedMember("a container has one source of models"),
        "AdditionalS3DataSource": RefusedMember("a container has one source of models"),
        "ModelDataETag": RefusedMember("an archive is not held against an ETag"),
        "IsCheckpoint": _REGISTRY,
        "BaseModel": _REGISTRY,
    },
    "DescribeModelPackageInput": {
        **_acted_on("ModelPackageName"),
        "IncludedData": RecordedMember("everything is told in any case"),
    },
    "ListModelPackagesInput": _acted_on(
        "CreationTimeAfter CreationTimeBefore MaxResults NameContains ModelApprovalStatus "
        "ModelPackageGroupName ModelPackageType NextToken SortBy SortOrder"
    ),
    "UpdateModelPackageInput": {
        **_acted_on("ModelPackageArn ModelApprovalStatus ModelPackageRegistrationType"),
        **_acted_on("AdditionalInferenceSpecificationsToAdd InferenceSpecification"),
        "ApprovalDescription": _TEXT,
        "CustomerMetadataProperties": _REGISTRY,
        "CustomerMetadataPropertiesToRemove": _REGISTRY,
        "SourceUri": _REGISTRY,
        "ModelCard": _REGISTRY,
        "ModelLifeCycle": _REGISTRY,
        "ClientToken": RecordedMember("a request that is made twice is answered twice"),
    },
    "CreateModelPackageGroupInput": {
        **_acted_on("ModelPackageGroupName"),
        "ModelPackageGroupDescription": _TEXT,
        "Tags": _TAGS,
        "ManagedConfiguration": RefusedMember("models stay in your own bucket"),
    },
    "DescribeModelPackageGroupInput": _acted_on("ModelPackageGroupName"),
    "ListModelPackageGroupsInput": {
        **_acted_on("CreationTimeAfter CreationTimeBefore MaxResults NameContains NextToken"),
        **_acted_on("SortBy SortOrder"),
        "CrossAccountFilterOption": RefusedMember("there is one account", unless=("SameAccount",)),
    },
    # Tags
    "AddTagsInput": {**_acted_on("ResourceArn"), "Tags": _TAGS},
    "ListTagsInput": _acted_on("ResourceArn NextToken MaxResults"),
    "DeleteTagsInput": _acted_on("ResourceArn TagKeys"),
    # Invocations
    "InvokeEndpointInput": {
        **_acted_on("EndpointName Body ContentType Accept CustomAttributes TargetModel"),
        **_acted_on("TargetVariant InferenceId"),
        "TargetContainerHostname": RefusedMember("an instance has one container"),
        "EnableExplanations": RefusedMember("SageMaker Clarify does not run here"),
        "InferenceComponentName": RefusedMember("there are no inference components"),
        "SessionId": RefusedMember("there are no stateful sessions"),
        "PrefixAwareId": RefusedMember("requests are not routed by their beginning"),
    },
    "InvokeEndpointAsyncInput": _acted_on(
        "EndpointName ContentType Accept CustomAttributes InferenceId InputLocation "
        "S3OutputPathExtension Filename RequestTTLSeconds InvocationTimeoutSeconds Body"
    ),
    "InvokeEndpointWithResponseStreamInput": {
        **_acted_on("EndpointName Body ContentType Accept CustomAttributes TargetVariant"),
        **_acted_on("InferenceId"),
        "TargetContainerHostname": RefusedMember("an instance has one container"),
        "InferenceComponentName": RefusedMember("there are no inference components"),
        "SessionId": RefusedMember("there are no stateful sessions"),
        "PrefixAwareId": RefusedMember("requests are not routed by their beginning"),
    },
}
"""What becomes of each member, by the shape that it is a member of."""


def check_members(operation: str, members: Mapping[str, Any]) -> None:
    """Raise what a request asks for and nothing here would act on.

    Parameters
    ----------
    operation
        One of `mmekit_local.sagemaker.control.operations.ACTED_ON`.
    members
        The request's, which are as botocore's service model wants them.

    Raises
    ------
    AwsError
        A ValidationException; it names every such member.
    """
    shape = get_service_model("sagemaker").operation_model(operation).input_shape
    found = [] if shape is None else list(_refused(shape, members, ""))
    if found:
        raise validation_exception(
            f"{operation} asks for what is not rehearsed on this machine: {'; '.join(found)}. "
            "Leave it out here; the same request works on AWS."
        )


@cache
def refused_headers(operation: str) -> Mapping[bytes, str]:
    """Return the headers of an invocation that are refused, in lower case, and why."""
    shape: Any = get_service_model("sagemaker-runtime").operation_model(operation).input_shape
    treatments = {name: MEMBERS[shape.name].get(name, _NEW) for name in shape.members}
    return {
        shape.members[name].serialization["name"].lower().encode(): f"{name}: {treatment.why}"
        for name, treatment in treatments.items()
        if isinstance(treatment, RefusedMember)
    }


def _refused(shape: Any, value: Any, path: str) -> Iterator[str]:
    if shape.type_name == "list":
        for place, item in enumerate(value):
            yield from _refused(shape.member, item, f"{path}[{place}]")
    if shape.type_name != "structure" or value is None:
        return
    for name, given in value.items():
        at = f"{path}.{name}" if path else name
        if name not in shape.members:
            yield f"{at} (which the installed botocore does not know)"
        elif given is not None:
            treatment = MEMBERS.get(shape.name, {}).get(name, _NEW)
            if treatment == ACTED_ON:
                yield from _refused(shape.members[name], given, at)
            elif isinstance(treatment, RefusedMember) and given not in treatment.unless:
                shown = f" {given!r}" if treatment.unless else ""
                yield f"{at}{shown} ({treatment.why})"
