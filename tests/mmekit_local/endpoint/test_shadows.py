"""Shadow variants get copies of requests, and nobody gets their answers."""

import pytest


def variant(name, model, **more):
    described = {"VariantName": name, "ModelName": model, "InstanceType": "ml.m5.large"}
    return described | {"InitialInstanceCount": 1} | more


@pytest.fixture(scope="module", autouse=True)
def _models(service):
    service.put("a.tar.gz", service.echo_archive())
    service.describe_models("production", environment={"COLOUR": "blue"})
    service.describe_models("shadow", environment={"COLOUR": "shadow"})


def config(service, name, production, shadows, **more):
    return service.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=production,
        ShadowProductionVariants=shadows,
        **more,
    )


@pytest.fixture
def endpoint(service, request):
    name = f"shadowed-{request.param}".replace(".", "-")
    sagemaker = service.client("sagemaker")
    weight = {"InitialVariantWeight": request.param}
    config(service, name, [variant("Live", "production")], [variant("Shade", "shadow", **weight)])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    service.wait_for("endpoint_in_service", name)
    yield name
    sagemaker.delete_endpoint(EndpointName=name)
    service.wait_for("endpoint_deleted", name)
    sagemaker.delete_endpoint_config(EndpointConfigName=name)


def total(service, endpoint, name, metric="Invocations"):
    found = service.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": name},
        ],
        StartTime=0,
        EndTime=32_503_680_000,
        Period=86_400,
        Statistics=["Sum"],
    )["Datapoints"]
    return sum(point["Sum"] for point in found)


@pytest.mark.parametrize("endpoint", [1.0], indirect=True)
def test_a_shadow_gets_a_copy_of_every_request_and_metrics_of_its_own(service, endpoint):
    for _ in range(10):
        assert service.seen(endpoint, "a.tar.gz")["environment"]["COLOUR"] == "blue"
    service.wait_until(lambda: total(service, endpoint, "Shade") == 10.0, what="ten copies")
    assert total(service, endpoint, "Live") == 10.0
    assert total(service, endpoint, "Shade", "ModelLatency") > 0
    [shown] = service.client("sagemaker").describe_endpoint(EndpointName=endpoint)[
        "ShadowProductionVariants"
    ]
    assert (shown["VariantName"], shown["CurrentInstanceCount"]) == ("Shade", 1)
    answer = service.invoke(endpoint, "a.tar.gz")
    assert answer["InvokedProductionVariant"] == "Live"


@pytest.mark.parametrize("endpoint", [1.0], indirect=True)
def test_what_goes_wrong_in_the_shadow_is_its_own_affair(service, endpoint):
    runtime = service.client("sagemaker-runtime")
    with pytest.raises(runtime.exceptions.ModelError):
        service.invoke(endpoint, "a.tar.gz", body=b'{"status": 500}')
    service.wait_until(lambda: total(service, endpoint, "Shade", "Invocation5XXErrors") == 1.0)
    with pytest.raises(runtime.exceptions.ValidationError, match="Variant Shade not found"):
        service.invoke(endpoint, "a.tar.gz", TargetVariant="Shade")


@pytest.mark.parametrize("endpoint", [0.5], indirect=True)
def test_a_shadow_gets_the_share_that_its_weight_says(service, endpoint):
    for _ in range(100):
        service.invoke(endpoint, "a.tar.gz")
    service.wait_until(lambda: 20 <= total(service, endpoint, "Shade") <= 80, what="about a half")


@pytest.mark.parametrize("endpoint", [0.0], indirect=True)
def test_the_weight_of_a_shadow_can_be_changed(service, endpoint):
    for _ in range(10):
        service.invoke(endpoint, "a.tar.gz")
    sagemaker = service.client("sagemaker")
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=endpoint,
        DesiredWeightsAndCapacities=[{"VariantName": "Shade", "DesiredWeight": 1.0}],
    )
    service.wait_for("endpoint_in_service", endpoint)
    assert total(service, endpoint, "Shade") == 0.0
    for _ in range(5):
        service.invoke(endpoint, "a.tar.gz")
    service.wait_until(lambda: total(service, endpoint, "Shade") == 5.0, what="five copies")


def test_a_slow_shadow_holds_up_nobody(service, tmp_path):
    gate = tmp_path / "gate"
    name = "slowly-shadowed"
    service.put("late/a.tar.gz", service.echo_archive(load_after=str(gate)))
    service.describe_models("slow", data_url="s3://models/late/")
    config(service, name, [variant("Live", "production")], [variant("Shade", "slow")])
    service.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=name)
    service.wait_for("endpoint_in_service", name)
    for _ in range(3):
        assert service.seen(name, "a.tar.gz")["environment"]["COLOUR"] == "blue"
    gate.touch()
    service.wait_until(lambda: total(service, name, "Shade") == 3.0, what="the copies' answers")


@pytest.mark.parametrize(
    ("production", "shadows", "more", "words"),
    [
        (2, 1, {}, "one variant in ProductionVariants"),
        (1, 2, {}, "one variant in ProductionVariants"),
        (
            1,
            1,
            {"MetricsConfig": {"EnableEnhancedMetrics": True}},
            "MetricsConfig.EnableEnhancedMetrics",
        ),
        (
            1,
            1,
            {"MetricsConfig": {"EnableDetailedObservability": True}},
            "MetricsConfig.EnableDetailedObservability",
        ),
        (1, 1, {"MetricsConfig": {"MetricPublishFrequencyInSeconds": 7}}, "enum value set"),
        (
            1,
            1,
            {
                "ExplainerConfig": {
                    "ClarifyExplainerConfig": {"ShapConfig": {"ShapBaselineConfig": {}}}
                }
            },
            "ExplainerConfig",
        ),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(service, production, shadows, more, words):
    sagemaker = service.client("sagemaker")
    with pytest.raises(sagemaker.exceptions.ClientError, match=words) as refused:
        config(
            service,
            "refused",
            [variant(f"Live{number}", "production") for number in range(production)],
            [variant(f"Shade{number}", "shadow") for number in range(shadows)],
            **more,
        )
    error = refused.value.response
    assert error["Error"]["Code"] == "ValidationException"
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_shadow_has_the_kind_of_model_that_the_production_variant_has(service):
    sagemaker = service.client("sagemaker")
    service.describe_models("alone", data_url="s3://models/a.tar.gz", mode="SingleModel")
    with pytest.raises(sagemaker.exceptions.ClientError, match="both understand a request"):
        config(service, "unlike", [variant("Live", "production")], [variant("Shade", "alone")])


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("RoutingConfig", {"RoutingStrategy": "KV_AWARE"}),
        ("ManagedInstanceScaling", {"Status": "ENABLED"}),
        ("CoreDumpConfig", {"DestinationS3Uri": "s3://b/k"}),
        ("EnableSSMAccess", True),
    ],
)
def test_a_variant_asks_for_nothing_that_is_not_there(service, member, value):
    sagemaker = service.client("sagemaker")
    one = variant("Live", "production", **{member: value})
    with pytest.raises(
        sagemaker.exceptions.ClientError, match=rf"ProductionVariants\[0\]\.{member}"
    ):
        sagemaker.create_endpoint_config(EndpointConfigName="no", ProductionVariants=[one])


def test_metrics_of_instances_come_as_often_as_the_config_says(service):
    frequency = {"MetricsConfig": {"MetricPublishFrequencyInSeconds": 300}}
    sagemaker = service.client("sagemaker")
    sagemaker.create_endpoint_config(
        EndpointConfigName="rarely", ProductionVariants=[variant("Live", "production")], **frequency
    )
    described = sagemaker.describe_endpoint_config(EndpointConfigName="rarely")
    assert described["MetricsConfig"] == frequency["MetricsConfig"]
    sagemaker.create_endpoint(EndpointName="rarely", EndpointConfigName="rarely")
    service.wait_for("endpoint_in_service", "rarely")
    for _ in range(3):
        service.client("cloudwatch").list_metrics(Namespace="/aws/sagemaker/Endpoints")
    found = service.client("cloudwatch").get_metric_statistics(
        Namespace="/aws/sagemaker/Endpoints",
        MetricName="CPUUtilization",
        Dimensions=[
            {"Name": "EndpointName", "Value": "rarely"},
            {"Name": "VariantName", "Value": "Live"},
        ],
        StartTime=0,
        EndTime=32_503_680_000,
        Period=86_400,
        Statistics=["SampleCount"],
    )["Datapoints"]
    assert [point["SampleCount"] for point in found] == [1.0]
    assert (
        sagemaker.describe_endpoint(EndpointName="rarely")["MetricsConfig"]
        == frequency["MetricsConfig"]
    )


_ADDITIONAL = [
    {
        "ChannelName": "more",
        "S3DataSource": {
            "S3Uri": "s3://b/k",
            "S3DataType": "S3Object",
            "CompressionType": "Gzip",
        },
    }
]
_LOOSE = {
    "S3DataSource": {"S3Uri": "s3://b/k/", "S3DataType": "S3Prefix", "CompressionType": "None"}
}


@pytest.mark.parametrize(
    "more", [{"AdditionalModelDataSources": _ADDITIONAL}, {"ModelDataSource": _LOOSE}]
)
def test_a_container_asks_for_nothing_that_is_not_done(service, more):
    sagemaker = service.client("sagemaker")
    with pytest.raises(
        sagemaker.exceptions.ClientError, match=f"PrimaryContainer.{next(iter(more))}"
    ):
        sagemaker.create_model(
            ModelName="no",
            ExecutionRoleArn="arn:aws:iam::123456789012:role/Rehearsal",
            PrimaryContainer={"Image": "image"} | more,
        )


@pytest.mark.parametrize(
    "members",
    [
        {"SessionId": "NEW_SESSION"},
        {"TargetContainerHostname": "second"},
        {"EnableExplanations": "`true`"},
    ],
)
def test_an_invocation_asks_for_nothing_that_is_not_there(service, echo, members):
    runtime = service.client("sagemaker-runtime")
    words = next(iter(members))
    with pytest.raises(runtime.exceptions.ValidationError, match=words):
        service.invoke(echo, "a.tar.gz", **members)
