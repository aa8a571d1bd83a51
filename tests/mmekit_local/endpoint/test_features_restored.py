"""Queues, shadows, packages and deployments in steps come back with the state."""

import json

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
ASYNC = {"OutputConfig": {"S3OutputPath": "s3://models/answers/"}}
STEPS = {
    "BlueGreenUpdatePolicy": {
        "TrafficRoutingConfiguration": {
            "Type": "LINEAR",
            "WaitIntervalInSeconds": 0,
            "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 50},
        }
    },
    "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}]},
}


def variant(name, model):
    described = {"VariantName": name, "ModelName": model, "InstanceType": "ml.m5.large"}
    return described | {"InitialInstanceCount": 1}


def make_model(service, name, container):
    service.client("sagemaker").create_model(
        ModelName=name,
        ExecutionRoleArn="arn:aws:iam::123456789012:role/Rehearsal",
        PrimaryContainer=container,
    )


def make_package(service):
    """Register a version, approve it, and return its ARN."""
    sagemaker = service.client("sagemaker")
    container = {
        "Image": IMAGE,
        "ModelDataUrl": "s3://models/a.tar.gz",
        "Environment": {"COLOUR": "red"},
    }
    sagemaker.create_model_package_group(ModelPackageGroupName="Group")
    arn = sagemaker.create_model_package(
        ModelPackageGroupName="Group",
        InferenceSpecification={
            "Containers": [container],
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["text/csv"],
        },
    )["ModelPackageArn"]
    sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    return arn


def test_what_endpoints_shall_do_comes_back_though_alarms_do_not(start):
    service = start()
    sagemaker = service.client("sagemaker")
    service.put("a.tar.gz", service.echo_archive())
    make_model(service, "packaged", {"ModelPackageName": make_package(service)})
    sagemaker.create_endpoint_config(
        EndpointConfigName="queued",
        ProductionVariants=[variant("AllTraffic", "packaged")],
        AsyncInferenceConfig=ASYNC,
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName="shadowed",
        ProductionVariants=[variant("Live", "packaged")],
        ShadowProductionVariants=[variant("Shade", "packaged")],
        MetricsConfig={"MetricPublishFrequencyInSeconds": 60},
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName="plain", ProductionVariants=[variant("Live", "packaged")]
    )
    for endpoint, config in (("queued", "queued"), ("stepped", "plain")):
        sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)
        service.wait_for("endpoint_in_service", endpoint)
    service.client("cloudwatch").put_metric_alarm(
        AlarmName="errors",
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )
    sagemaker.update_endpoint(
        EndpointName="stepped", EndpointConfigName="shadowed", DeploymentConfig=STEPS
    )
    service.wait_for("endpoint_in_service", "stepped")
    assert sagemaker.describe_endpoint(EndpointName="stepped")["EndpointConfigName"] == "shadowed"

    service = start()
    sagemaker = service.client("sagemaker")
    for endpoint in ("queued", "stepped"):
        service.wait_for("endpoint_in_service", endpoint)
    assert service.seen("stepped")["environment"]["COLOUR"] == "red"
    described = sagemaker.describe_endpoint(EndpointName="stepped")
    assert described["LastDeploymentConfig"] == STEPS
    assert described["MetricsConfig"] == {"MetricPublishFrequencyInSeconds": 60}
    assert [one["VariantName"] for one in described["ShadowProductionVariants"]] == ["Shade"]
    assert sagemaker.describe_endpoint(EndpointName="queued")["AsyncInferenceConfig"] == ASYNC
    answer = service.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName="queued", Body=b"after"
    )
    bucket, _, key = answer["OutputLocation"].removeprefix("s3://").partition("/")
    s3 = service.client("s3")
    service.wait_until(
        lambda: s3.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"], what="the answer"
    )
    body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert json.loads(body)["length"] == 5
