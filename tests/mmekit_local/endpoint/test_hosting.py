"""How endpoints change while they serve: states that last, weights, capacities, blue and green."""

import collections
import contextlib
import threading
import time

import pytest

SECONDS = 2.0


@pytest.fixture(scope="module", autouse=True)
def _models(service):
    for key in ("a.tar.gz", "b.tar.gz"):
        service.put(key, service.echo_archive())


def describe(service, name):
    return service.client("sagemaker").describe_endpoint(EndpointName=name)


def status(service, name):
    return describe(service, name)["EndpointStatus"]


def variant(name, model, **more):
    described = {"VariantName": name, "ModelName": model, "InstanceType": "ml.m5.large"}
    return described | {"InitialInstanceCount": 1} | more


@contextlib.contextmanager
def hammering(service, endpoint, threads=6):
    """Invoke an endpoint all the while; yield what came of it: {outcome: count}."""
    outcomes, ending = collections.Counter(), threading.Event()
    service.seen(endpoint, "a.tar.gz")

    def hammer():
        while not ending.is_set():
            try:
                answer = service.seen(endpoint, "a.tar.gz", body=b'{"seconds": 0.01}')
                outcomes[answer["environment"]["COLOUR"]] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                outcomes[repr(error)] += 1

    running = [threading.Thread(target=hammer) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield outcomes
    finally:
        ending.set()
        for thread in running:
            thread.join()


def test_every_state_lasts_and_a_waiter_waits(start_service, tmp_path):
    service = start_service(tmp_path, "--state-seconds", str(SECONDS))
    sagemaker = service.client("sagemaker")
    service.describe_models("states")
    service.describe_models("other-states")
    seen = []
    for change, waiter in (
        (lambda: sagemaker.create_endpoint(EndpointName="states", EndpointConfigName="states"), 0),
        (
            lambda: sagemaker.update_endpoint(
                EndpointName="states", EndpointConfigName="other-states"
            ),
            0,
        ),
        (lambda: sagemaker.delete_endpoint(EndpointName="states"), 1),
    ):
        began = time.monotonic()
        change()
        described = describe(service, "states")
        seen.append(described["EndpointStatus"])
        service.wait_for(("endpoint_in_service", "endpoint_deleted")[waiter], "states")
        assert time.monotonic() - began >= SECONDS
    assert seen == ["Creating", "Updating", "Deleting"]
    assert service.stop() == 0


def test_a_description_tells_what_runs_and_what_shall_run(service, tmp_path):
    sagemaker = service.client("sagemaker")
    gate = tmp_path / "gate"
    service.describe_models("described", instances=2, environment={"START_AFTER": str(gate)})
    sagemaker.create_endpoint(EndpointName="described", EndpointConfigName="described")
    [found] = describe(service, "described")["ProductionVariants"]
    assert (found["CurrentInstanceCount"], found["DesiredInstanceCount"]) == (0, 2)
    gate.touch()
    service.wait_for("endpoint_in_service", "described")
    described = describe(service, "described")
    [found] = described["ProductionVariants"]
    assert (found["CurrentInstanceCount"], found["DesiredInstanceCount"]) == (2, 2)
    assert (found["CurrentWeight"], found["DesiredWeight"]) == (1.0, 1.0)
    [image] = found["DeployedImages"]
    assert image["SpecifiedImage"].endswith("djl-inference:0.36.0-cpu-full")
    assert described["LastModifiedTime"] > described["CreationTime"]
    assert "FailureReason" not in described
    sagemaker.delete_endpoint(EndpointName="described")


def test_a_serverless_variant_is_described_as_one(service):
    sagemaker = service.client("sagemaker")
    config = {"MemorySizeInMB": 2048, "MaxConcurrency": 7}
    service.describe_models(
        "serverless",
        data_url="s3://models/a.tar.gz",
        mode="SingleModel",
        variants=[
            {"VariantName": "AllTraffic", "ModelName": "serverless", "ServerlessConfig": config}
        ],
    )
    sagemaker.create_endpoint(EndpointName="serverless", EndpointConfigName="serverless")
    service.wait_for("endpoint_in_service", "serverless")
    [found] = describe(service, "serverless")["ProductionVariants"]
    assert found["CurrentServerlessConfig"] == found["DesiredServerlessConfig"] == config
    assert service.seen("serverless")["loads"] == 1
    with pytest.raises(sagemaker.exceptions.ClientError, match="is serverless"):
        sagemaker.update_endpoint_weights_and_capacities(
            EndpointName="serverless",
            DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}],
        )
    sagemaker.delete_endpoint(EndpointName="serverless")


def test_weights_and_capacities_change_while_requests_go_on(service, tmp_path):
    sagemaker = service.client("sagemaker")
    gate = tmp_path / "gate"
    gate.touch()
    service.describe_models("blue", environment={"COLOUR": "blue"})
    service.describe_models("green", environment={"COLOUR": "green", "START_AFTER": str(gate)})
    variants = [variant("Blue", "blue"), variant("Green", "green", InitialVariantWeight=0.0)]
    sagemaker.create_endpoint_config(EndpointConfigName="weighted", ProductionVariants=variants)
    sagemaker.create_endpoint(EndpointName="weighted", EndpointConfigName="weighted")
    service.wait_for("endpoint_in_service", "weighted")
    with hammering(service, "weighted") as outcomes:
        service.wait_until(lambda: outcomes["blue"] > 50)
        assert set(outcomes) == {"blue"}
        gate.unlink()
        sagemaker.update_endpoint_weights_and_capacities(
            EndpointName="weighted",
            DesiredWeightsAndCapacities=[
                {"VariantName": "Blue", "DesiredWeight": 0},
                {"VariantName": "Green", "DesiredWeight": 1, "DesiredInstanceCount": 2},
            ],
        )
        assert status(service, "weighted") == "Updating"
        with pytest.raises(sagemaker.exceptions.ClientError, match="in-progress"):
            sagemaker.delete_endpoint(EndpointName="weighted")
        gate.touch()
        service.wait_for("endpoint_in_service", "weighted")
        blue = outcomes["blue"]
        service.wait_until(lambda: outcomes["green"] > 50)
        assert outcomes["blue"] <= blue + 6  # those that were under way
        described = describe(service, "weighted")
        counts = {
            found["VariantName"]: (found["CurrentInstanceCount"], found["CurrentWeight"])
            for found in described["ProductionVariants"]
        }
        assert counts == {"Blue": (1, 0.0), "Green": (2, 1.0)}
        sagemaker.update_endpoint_weights_and_capacities(
            EndpointName="weighted",
            DesiredWeightsAndCapacities=[{"VariantName": "Green", "DesiredInstanceCount": 1}],
        )
        service.wait_for("endpoint_in_service", "weighted")
    assert set(outcomes) == {"blue", "green"}
    [green] = [
        found
        for found in describe(service, "weighted")["ProductionVariants"]
        if found["VariantName"] == "Green"
    ]
    assert (green["CurrentInstanceCount"], green["DesiredInstanceCount"]) == (1, 1)
    sagemaker.delete_endpoint(EndpointName="weighted")


def test_an_update_under_load_fails_no_request_and_retains_what_it_shall(service):
    sagemaker = service.client("sagemaker")
    service.describe_models("red", environment={"COLOUR": "red"})
    service.create_endpoint("loaded", environment={"COLOUR": "white"})
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="loaded",
        DesiredWeightsAndCapacities=[
            {"VariantName": "AllTraffic", "DesiredWeight": 3, "DesiredInstanceCount": 2}
        ],
    )
    service.wait_for("endpoint_in_service", "loaded")
    with hammering(service, "loaded") as outcomes:
        sagemaker.update_endpoint(
            EndpointName="loaded",
            EndpointConfigName="red",
            RetainAllVariantProperties=True,
            ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DesiredWeight"}],
            RetainDeploymentConfig=True,
        )
        service.wait_for("endpoint_in_service", "loaded")
        service.wait_until(lambda: outcomes["red"] > 50)
        white = outcomes["white"]
        service.wait_until(lambda: outcomes["red"] > 100)
        assert outcomes["white"] <= white + 6  # those that were under way
    assert set(outcomes) == {"white", "red"}
    described = describe(service, "loaded")
    [found] = described["ProductionVariants"]
    assert described["EndpointConfigName"] == "red"
    assert (found["CurrentInstanceCount"], found["CurrentWeight"]) == (2, 1.0)
    sagemaker.delete_endpoint(EndpointName="loaded")


def test_an_update_whose_containers_fail_leaves_the_old_in_service_and_says_why(service):
    sagemaker = service.client("sagemaker")
    service.create_endpoint("steady", environment={"COLOUR": "black"})
    service.describe_models("broken", environment={"REFUSE_TO_START": "yes"})
    with hammering(service, "steady") as outcomes:
        sagemaker.update_endpoint(EndpointName="steady", EndpointConfigName="broken")
        service.wait_for("endpoint_in_service", "steady")
        before = outcomes["black"]
        service.wait_until(lambda: outcomes["black"] > before + 20)
    assert set(outcomes) == {"black"}
    described = describe(service, "steady")
    assert described["EndpointConfigName"] == "steady"
    assert "no engine to be found" in described["FailureReason"]
    service.describe_models("mended", environment={"COLOUR": "gold"})
    sagemaker.update_endpoint(EndpointName="steady", EndpointConfigName="mended")
    service.wait_for("endpoint_in_service", "steady")
    assert "FailureReason" not in describe(service, "steady")
    assert service.seen("steady", "a.tar.gz")["environment"]["COLOUR"] == "gold"
    sagemaker.delete_endpoint(EndpointName="steady")


def test_a_capture_is_described(service):
    sagemaker = service.client("sagemaker")
    service.describe_models("captured")
    sagemaker.create_endpoint_config(
        EndpointConfigName="capturing",
        ProductionVariants=[variant("AllTraffic", "captured")],
        DataCaptureConfig={
            "EnableCapture": True,
            "InitialSamplingPercentage": 25,
            "DestinationS3Uri": "s3://models/captured/",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        },
    )
    sagemaker.create_endpoint(EndpointName="captured", EndpointConfigName="capturing")
    service.wait_for("endpoint_in_service", "captured")
    capture = describe(service, "captured")["DataCaptureConfig"]
    assert (capture["EnableCapture"], capture["CaptureStatus"]) == (True, "Started")
    assert capture["CurrentSamplingPercentage"] == 25
    sagemaker.delete_endpoint(EndpointName="captured")
