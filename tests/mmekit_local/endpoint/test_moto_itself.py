"""What moto, uncorrected, does otherwise than AWS: a test that fails says which correction can go.

Each of them is a row of `MOTO` in mmekit_local.aws.moto.corrections. A newer moto that answers as
AWS does makes its correction needless: remove the correction, its row and its test, and raise the
lower bound in pyproject.toml. docs/control-plane.md has what could be offered to moto.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import subprocess
import sys
import zipfile

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from mmekit_local.aws.moto.corrections import MOTO

ROLE = "arn:aws:iam::123456789012:role/x"
ARN = "arn:aws:sagemaker:us-east-1:123456789012:"
CONTAINER = {"Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/x:1"}
NOW = dt.datetime.now(dt.timezone.utc)
AROUND = {
    "StartTime": NOW - dt.timedelta(minutes=5),
    "EndTime": NOW + dt.timedelta(minutes=5),
}
SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
input()
"""


@pytest.fixture(scope="module")
def moto():
    """Clients of a moto that nobody has corrected, in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Where there is no Docker: what moto says then is asked here.
        env={**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:9"},
    ) as process:
        try:
            _, port = process.stdout.readline().split()

            def client(service):
                return boto3.client(
                    service,
                    endpoint_url=f"http://127.0.0.1:{port}",
                    region_name="us-east-1",
                    aws_access_key_id="local",
                    aws_secret_access_key="local",
                    config=Config(retries={"total_max_attempts": 1}, proxies={}),
                )

            yield client
        finally:
            process.kill()


@pytest.fixture(scope="module")
def sagemaker(moto):
    client = moto("sagemaker")
    for number in range(12):
        model = f"m{number:02}"
        client.create_model(ModelName=model, ExecutionRoleArn=ROLE, PrimaryContainer=CONTAINER)
    client.create_endpoint_config(EndpointConfigName="first", ProductionVariants=[variant()])
    client.create_endpoint_config(EndpointConfigName="second", ProductionVariants=[variant()])
    client.create_endpoint(EndpointName="first", EndpointConfigName="first")
    client.create_endpoint(EndpointName="second", EndpointConfigName="second")
    return client


def variant(instance_type="ml.m5.large"):
    return {
        "VariantName": "A",
        "ModelName": "m00",
        "InstanceType": instance_type,
        "InitialInstanceCount": 1,
        "InitialVariantWeight": 1,
    }


def test_every_correction_that_can_be_asked_for_is():
    read = {"chance and clock", "completing an upload", "expressions of metrics"}
    read |= {"pages of other sites"}
    for subject in {one.subject for one in MOTO} - read:
        test = f"test_{subject.lower().replace(' ', '_')}"
        assert any(name.startswith(test) for name in globals())


@pytest.mark.parametrize("instance_type", ["ml.m6i.large", "ml.g5.xlarge", "ml.c7i.large"])
def test_instance_types_of_today_are_refused(sagemaker, instance_type):
    with pytest.raises(ClientError, match="instanceType"):
        sagemaker.create_endpoint_config(
            EndpointConfigName="new", ProductionVariants=[variant(instance_type)]
        )


@pytest.mark.parametrize("asked", [{"NameContains": "m03"}, {"MaxResults": 3}])
def test_models_listed_are_all_whatever_is_asked_for(sagemaker, asked):
    assert len(sagemaker.list_models(**asked)["Models"]) >= 12


def test_newest_first_is_not_the_order_of_endpoints_and_configs(sagemaker):
    endpoints = [one["EndpointName"] for one in sagemaker.list_endpoints()["Endpoints"]]
    found = sagemaker.list_endpoint_configs()["EndpointConfigs"]
    configs = [one["EndpointConfigName"] for one in found]
    for names in (endpoints, configs):
        assert names.index("first") < names.index("second")


def test_empty_members_are_in_descriptions(sagemaker):
    assert sagemaker.describe_model(ModelName="m00")["VpcConfig"] == {}


def test_network_isolation_is_forgotten(sagemaker):
    sagemaker.create_model(
        ModelName="isolated",
        ExecutionRoleArn=ROLE,
        PrimaryContainer=CONTAINER,
        EnableNetworkIsolation=True,
    )
    assert not sagemaker.describe_model(ModelName="isolated")["EnableNetworkIsolation"]


def test_tags_of_the_same_key_are_both_kept(sagemaker):
    for value in ("1", "2"):
        sagemaker.add_tags(ResourceArn=f"{ARN}model/m01", Tags=[{"Key": "k", "Value": value}])
    assert len(sagemaker.list_tags(ResourceArn=f"{ARN}model/m01")["Tags"]) == 2


@pytest.mark.parametrize("named", ["model/nobody", "rocket/nobody"])
def test_the_arn_of_nothing_is_a_failure_of_the_server(sagemaker, named):
    with pytest.raises(ClientError) as failed:
        sagemaker.list_tags(ResourceArn=ARN + named)
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


def test_shadow_variants_are_forgotten(sagemaker):
    sagemaker.create_endpoint_config(
        EndpointConfigName="shadow",
        ProductionVariants=[variant()],
        ShadowProductionVariants=[variant()],
    )
    described = sagemaker.describe_endpoint_config(EndpointConfigName="shadow")
    assert not described.get("ShadowProductionVariants")


def test_deployment_config_is_forgotten(sagemaker):
    routing = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}
    sagemaker.create_endpoint(
        EndpointName="steps",
        EndpointConfigName="first",
        DeploymentConfig={"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}},
    )
    assert not sagemaker.describe_endpoint(EndpointName="steps").get("LastDeploymentConfig")


def test_status_of_a_model_package_is_missing_and_gets_lost(sagemaker):
    sagemaker.create_model_package_group(ModelPackageGroupName="group")
    arn = sagemaker.create_model_package(
        ModelPackageGroupName="group",
        InferenceSpecification={
            "Containers": [CONTAINER],
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["text/csv"],
        },
    )["ModelPackageArn"]

    def status():
        return sagemaker.describe_model_package(ModelPackageName=arn).get("ModelApprovalStatus")

    assert status() is None
    sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    assert status() == "Approved"
    sagemaker.update_model_package(ModelPackageArn=arn, CustomerMetadataProperties={"a": "b"})
    assert status() is None


def test_a_policy_with_a_condition_shuts_the_bucket(moto):
    s3 = moto("s3")
    s3.create_bucket(Bucket="closed")
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": ["arn:aws:s3:::closed", "arn:aws:s3:::closed/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    s3.put_bucket_policy(Bucket="closed", Policy=json.dumps(policy))
    with pytest.raises(ClientError, match=r"Forbidden|403|Denied"):
        s3.put_object(Bucket="closed", Key="a", Body=b"x")


def test_tags_of_a_new_bucket_are_forgotten(moto):
    s3 = moto("s3")
    tags = [{"Key": "a", "Value": "b"}]
    s3.create_bucket(Bucket="tagged", CreateBucketConfiguration={"Tags": tags})
    with pytest.raises(ClientError, match="NoSuchTagSet"):
        s3.get_bucket_tagging(Bucket="tagged")


def put(cloudwatch, namespace, *values):
    dimensions = [{"Name": "E", "Value": "e"}]
    for value in values:
        datum = {"MetricName": "M", "Value": value, "Timestamp": NOW, "Dimensions": dimensions}
        cloudwatch.put_metric_data(Namespace=namespace, MetricData=[datum])
    return {"Namespace": namespace, "MetricName": "M", "Dimensions": dimensions}


def values_of(cloudwatch, metric, statistic):
    query = {"Id": "q", "MetricStat": {"Metric": metric, "Period": 300, "Stat": statistic}}
    answer = cloudwatch.get_metric_data(MetricDataQueries=[query], **AROUND)
    return answer["MetricDataResults"][0]["Values"]


def test_percentiles_have_no_values(moto):
    cloudwatch = moto("cloudwatch")
    metric = put(cloudwatch, "Percentiles", 1, 2, 3, 100)
    points = cloudwatch.get_metric_statistics(
        **metric, Period=300, ExtendedStatistics=["p90"], **AROUND
    )["Datapoints"]
    assert not any("ExtendedStatistics" in point for point in points)
    with pytest.raises(ClientError) as failed:
        values_of(cloudwatch, metric, "p90")
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


def test_namespace_of_a_metric_with_dimensions_is_not_looked_at(moto):
    cloudwatch = moto("cloudwatch")
    metric = put(cloudwatch, "One", 1)
    put(cloudwatch, "Two", 9999)
    assert values_of(cloudwatch, metric, "Maximum") == [9999]


def test_who_am_i_is_a_user(moto):
    assert moto("sts").get_caller_identity()["Arn"].endswith(":user/moto")


def test_the_role_of_who_am_i_is_unknown(moto):
    with pytest.raises(ClientError, match="NoSuchEntity"):
        moto("iam").get_role(RoleName="mmekit-local")


@pytest.fixture(scope="module")
def create_function(moto):
    trust = {"Version": "2012-10-17", "Statement": []}
    role = moto("iam").create_role(RoleName="f", AssumeRolePolicyDocument=json.dumps(trust))
    moto("s3").create_bucket(Bucket="code")

    def create(name, code):
        return moto("lambda").create_function(
            FunctionName=name,
            Runtime="python3.11",
            Handler="app.handler",
            Role=role["Role"]["Arn"],
            Code=code,
        )

    return create


@pytest.mark.parametrize(
    ("name", "code"),
    [("bytes", {"ZipFile": b"no zip"}), ("missing", {"S3Bucket": "code", "S3Key": "none"})],
)
def test_code_of_a_function_may_be_none(create_function, name, code):
    assert create_function(name, code)["CodeSize"] in (0, 6)


def test_running_a_function_wants_docker(moto, create_function):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", "def handler(event, context): return 1")
    create_function("whole", {"ZipFile": packed.getvalue()})
    answer = moto("lambda").invoke(FunctionName="whole", Payload=b"{}")["Payload"].read()
    assert b"docker" in answer.lower()
