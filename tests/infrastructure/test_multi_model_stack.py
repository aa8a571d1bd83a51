"""The instance-backed stack of infrastructure/cloudformation/, deployed on the local service."""

import json
import re

import pytest
from botocore.exceptions import ClientError

from mmekit_runtime.metering.meter import COLUMN_COUNTS, COUNTS, DISTRIBUTIONS, MEMORY

from .conftest import IMAGE, until

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def bucket(local, templates):
    """The bucket of the artefact stack."""
    found = local.create("artifacts", templates / "artifact-bucket.yaml")
    assert found["StackStatus"] == "CREATE_COMPLETE", local.events("artifacts")
    name = local.outputs("artifacts")["BucketName"]
    local.put(name, "models/a.tar.gz", "models/team/b.tar.gz")
    return name


@pytest.fixture(scope="module")
def stack(local, templates, bucket):
    """The parameters of a stack that is deployed, by name."""
    parameters = {"EndpointName": "stacked", "ArtifactBucket": bucket, "ImageUri": IMAGE}
    found = local.create("models", templates / "multi-model-endpoint.yaml", **parameters)
    assert found["StackStatus"] == "CREATE_COMPLETE", local.events("models")
    return parameters


def test_a_stack_is_complete_when_its_endpoint_serves(local, stack):
    endpoint = local.outputs("models")["EndpointName"]
    described = local.client("sagemaker").describe_endpoint(EndpointName=endpoint)
    assert described["EndpointStatus"] == "InService"
    assert local.seen(endpoint, TargetModel="a.tar.gz")["loads"] == 1
    assert local.seen(endpoint, TargetModel="team/b.tar.gz")["loads"] == 1


def test_the_bucket_is_closed_encrypted_and_refuses_plain_http(local, bucket):
    s3 = local.client("s3")
    closed = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(closed.values()) == {True}
    [rule] = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    [statement] = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_role_reads_what_is_under_the_prefix_and_nothing_else(local, stack, bucket):
    iam = local.client("iam")
    role = local.outputs("models")["RoleArn"].rpartition("/")[2]
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    assert sorted(names) == ["Image", "Models", "Observability"]
    document = iam.get_role_policy(RoleName=role, PolicyName="Models")["PolicyDocument"]
    reads, lists = document["Statement"]
    assert (reads["Action"], reads["Resource"]) == (
        "s3:GetObject",
        f"arn:aws:s3:::{bucket}/models/*",
    )
    assert lists["Condition"] == {"StringLike": {"s3:prefix": "models/*"}}
    image = iam.get_role_policy(RoleName=role, PolicyName="Image")["PolicyDocument"]
    assert image["Statement"][1]["Resource"] == (
        "arn:aws:ecr:us-east-1:763104351884:repository/djl-inference"
    )


def test_the_endpoint_scales_between_the_two_numbers(local, stack):
    scaling = local.client("application-autoscaling")
    resource = "endpoint/stacked/variant/AllTraffic"
    [target] = scaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[resource]
    )["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 2)
    [policy] = scaling.describe_scaling_policies(ServiceNamespace="sagemaker", ResourceId=resource)[
        "ScalingPolicies"
    ]
    described = policy["TargetTrackingScalingPolicyConfiguration"]
    assert described["TargetValue"] == 600
    assert described["PredefinedMetricSpecification"] == {
        "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
    }


def test_alarms_watch_errors_latency_memory_and_disk(local, stack):
    found = local.client("cloudwatch").describe_alarms(AlarmNamePrefix="models-")["MetricAlarms"]
    watched = {one["MetricName"]: (one["Namespace"], one["Threshold"]) for one in found}
    assert watched == {
        "Invocation5XXErrors": ("AWS/SageMaker", 5),
        "ModelLatency": ("AWS/SageMaker", 1_000_000),
        "MemoryUtilization": ("/aws/sagemaker/Endpoints", 85),
        "DiskUtilization": ("/aws/sagemaker/Endpoints", 85),
    }
    for alarm in found:
        dimensions = {one["Name"]: one["Value"] for one in alarm["Dimensions"]}
        assert dimensions == {"EndpointName": "stacked", "VariantName": "AllTraffic"}


def test_the_dashboard_draws_metrics_that_the_service_has(local, stack):
    name = local.outputs("models")["DashboardName"]
    body = local.client("cloudwatch").get_dashboard(DashboardName=name)["DashboardBody"]
    drawn = set()
    for widget in json.loads(body)["widgets"]:
        namespace = None
        for metric in widget["properties"]["metrics"]:
            namespace = namespace if metric[0] == "." else metric[0]
            drawn.add((namespace, metric[1]))
    assert {
        ("/aws/sagemaker/Endpoints", "LoadedModelCount"),
        ("AWS/SageMaker", "ModelCacheHit"),
        ("AWS/SageMaker", "ModelLoadingTime"),
        ("AWS/SageMaker", "OverheadLatency"),
    } <= drawn
    local.seen("stacked", TargetModel="a.tar.gz")

    def missing():
        pages = local.client("cloudwatch").get_paginator("list_metrics").paginate()
        there = {(one["Namespace"], one["MetricName"]) for page in pages for one in page["Metrics"]}
        return drawn - there

    # What only counts something that has not happened here is not there yet.
    rare = {"ModelUnloadingTime", "Invocation4XXErrors", "Invocation5XXErrors"}
    until(lambda: {name for _, name in missing()} <= rare | {"InvocationModelErrors"})


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        ("MinInstances", "0", "Parameter 'MinInstances' must be a number not less than 1"),
        ("MaxMemoryPercent", "101", "must be a number not greater than 100"),
        ("InvocationsPerInstance", "many", "must be a number"),
        ("Metrics", "all", "must be one of AllowedValues: [none, endpoint, models]"),
        ("ModelCacheSetting", "Maybe", "must be one of AllowedValues: [Enabled, Disabled]"),
        ("EndpointName", "-x-", "failed to satisfy constraint: 1 to 63 letters, digits and"),
        ("ImageUri", "python:3.12", "ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG"),
        ("LayerPrefix", "models-layers/", "without a slash at either end, or nothing"),
        ("ModelPrefix", "/models", "a path in the bucket, without a slash at either end"),
        ("Unheard", "1", "Parameters: [Unheard] do not exist in the template"),
    ],
)
def test_a_parameter_out_of_range_is_refused_before_anything_is_made(
    local, templates, bucket, parameter, value, said
):
    given = {"ArtifactBucket": bucket, "ImageUri": IMAGE, parameter: value}
    with pytest.raises(ClientError) as refused:
        local.create("refused", templates / "multi-model-endpoint.yaml", **given)
    assert refused.value.response["Error"]["Code"] == "ValidationError"
    assert said in str(refused.value)
    with pytest.raises(ClientError, match="Stack with id refused does not exist"):
        local.describe("refused")


def test_a_parameter_without_a_value_is_refused(local, templates):
    with pytest.raises(ClientError, match=r"\[ArtifactBucket, ImageUri\] must have values"):
        local.create("refused", templates / "multi-model-endpoint.yaml")


def test_an_update_changes_the_endpoint_and_cleans_up_what_it_was_made_of(
    local, templates, stack, bucket
):
    sagemaker = local.client("sagemaker")
    before = sagemaker.describe_endpoint(EndpointName="stacked")["EndpointConfigName"]
    changed = {**stack, "ModelCacheSetting": "Disabled", "MaxLatencyMilliseconds": 2000}
    found = local.update("models", templates / "multi-model-endpoint.yaml", **changed)
    assert found["StackStatus"] == "UPDATE_COMPLETE", local.events("models")
    config = sagemaker.describe_endpoint(EndpointName="stacked")["EndpointConfigName"]
    assert config != before
    assert [one["EndpointConfigName"] for one in configs_of(sagemaker, "models-")] == [config]
    [model] = sagemaker.list_models(NameContains="models-")["Models"]
    described = sagemaker.describe_model(ModelName=model["ModelName"])
    container = described.get("PrimaryContainer") or described["Containers"][0]
    assert container["MultiModelConfig"] == {"ModelCacheSetting": "Disabled"}
    [alarm] = [
        one
        for one in local.client("cloudwatch").describe_alarms()["MetricAlarms"]
        if one["MetricName"] == "ModelLatency" and one["AlarmName"].startswith("models-")
    ]
    assert alarm["Threshold"] == 2_000_000
    assert local.seen("stacked", TargetModel="a.tar.gz")["loads"] == 1
    with pytest.raises(ClientError, match="No updates are to be performed"):
        local.update("models", templates / "multi-model-endpoint.yaml", **changed)


def test_a_stack_names_the_layers_of_thin_archives_and_its_role_reads_them(
    local, templates, stack, bucket
):
    given = {**stack, "LayerPrefix": "models-layers"}
    found = local.update("models", templates / "multi-model-endpoint.yaml", **given)
    assert found["StackStatus"] == "UPDATE_COMPLETE", local.events("models")
    place = f"s3://{bucket}/models-layers/"
    assert environment_of(local.client("sagemaker")) == {"MMEKIT_LAYERS": place}
    role = local.outputs("models")["RoleArn"].rpartition("/")[2]
    iam = local.client("iam")
    document = iam.get_role_policy(RoleName=role, PolicyName="Models")["PolicyDocument"]
    allowed = {one["Sid"]: one for one in document["Statement"]}
    assert allowed["ReadLayers"]["Action"] == "s3:GetObject"
    assert allowed["ReadLayers"]["Resource"] == f"arn:aws:s3:::{bucket}/models-layers/*"
    prefix = {"StringLike": {"s3:prefix": "models-layers/*"}}
    assert allowed["ListLayers"]["Condition"] == prefix
    assert local.seen("stacked", TargetModel="a.tar.gz")["loads"] == 1
    local.update("models", templates / "multi-model-endpoint.yaml", **stack)
    assert environment_of(local.client("sagemaker")) == {}


@pytest.mark.parametrize("chosen", ["endpoint", "models"])
def test_metrics_of_the_models_are_switched_on_and_drawn(local, templates, stack, chosen):
    given = {**stack, "Metrics": chosen}
    found = local.update("models", templates / "multi-model-endpoint.yaml", **given)
    assert found["StackStatus"] == "UPDATE_COMPLETE", local.events("models")
    variables = {"MMEKIT_METRICS": "stacked", "MMEKIT_METRICS_PER": chosen}
    assert environment_of(local.client("sagemaker")) == variables
    name = local.outputs("models")["DashboardName"]
    body = local.client("cloudwatch").get_dashboard(DashboardName=name)["DashboardBody"]
    text = json.dumps(json.loads(body)["widgets"])
    for metric in (*COUNTS.values(), MEMORY):
        assert f'"{metric}"' in text
    searched = re.findall(r'MetricName=\\"(\w+)\\" Endpoint=\\"stacked\\"', text)
    by_model = {COUNTS["requests"], COUNTS["errors"], DISTRIBUTIONS["predict"][0]}
    assert set(searched) == (
        by_model | set(COLUMN_COUNTS.values()) if chosen == "models" else set()
    )
    local.update("models", templates / "multi-model-endpoint.yaml", **stack)


def test_deleting_the_stack_takes_everything_with_it(local, stack):
    # The last that needs the stack.
    role = local.outputs("models")["RoleArn"].rpartition("/")[2]
    found = local.delete("models")
    assert found["StackStatus"] == "DELETE_COMPLETE", local.events(found["StackId"])
    sagemaker = local.client("sagemaker")
    assert sagemaker.list_endpoints(NameContains="stacked")["Endpoints"] == []
    assert configs_of(sagemaker, "models-") == []
    assert sagemaker.list_models(NameContains="models-")["Models"] == []
    with pytest.raises(ClientError, match="NoSuchEntity"):
        local.client("iam").get_role(RoleName=role)
    alarms = local.client("cloudwatch").describe_alarms(AlarmNamePrefix="models-")
    assert alarms["MetricAlarms"] == []


def test_a_bucket_with_archives_in_it_is_not_deleted(local, templates):
    local.create("full", templates / "artifact-bucket.yaml")
    bucket = local.outputs("full")["BucketName"]
    local.put(bucket, "models/a.tar.gz")
    assert local.delete("full")["StackStatus"] == "DELETE_FAILED"
    reasons = [why for name, status, why in local.events("full") if status == "DELETE_FAILED"]
    assert "not empty" in reasons[0]
    local.client("s3").delete_object(Bucket=bucket, Key="models/a.tar.gz")
    assert local.delete("full")["StackStatus"] == "DELETE_COMPLETE"


def configs_of(sagemaker, prefix):
    return sagemaker.list_endpoint_configs(NameContains=prefix)["EndpointConfigs"]


def environment_of(sagemaker):
    [model] = sagemaker.list_models(NameContains="models-")["Models"]
    described = sagemaker.describe_model(ModelName=model["ModelName"])
    container = described.get("PrimaryContainer") or described["Containers"][0]
    return container.get("Environment", {})
