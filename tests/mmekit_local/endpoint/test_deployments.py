"""Deployments in steps: traffic moves to new instances, and goes back when an alarm goes off."""

import collections
import contextlib
import threading

import pytest

from mmekit.errors import SettingsError
from mmekit_local.sagemaker.control.deployments import baking_minute

MINUTE = 2.0
"""Seconds that a minute of a deployment's waits lasts here."""


@pytest.fixture(scope="module")
def service(start_service, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployments")
    running = start_service(folder, MMEKIT_BAKING_MINUTE_S=str(MINUTE))
    running.put("a.tar.gz", running.echo_archive())
    for colour in ("blue", "green"):
        running.describe_models(colour, environment={"COLOUR": colour})
    # On it every request is an error: its models are not there.
    running.describe_models("broken", data_url="s3://models/nowhere/")
    yield running
    running.stop()


@pytest.fixture
def endpoint(service, request):
    """An endpoint that is blue."""
    name = f"deployed-{abs(hash(request.node.name))}"
    sagemaker = service.client("sagemaker")
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName="blue")
    service.wait_for("endpoint_in_service", name)
    yield name
    service.wait_for("endpoint_in_service", name)
    sagemaker.delete_endpoint(EndpointName=name)


def policy(kind="ALL_AT_ONCE", wait=0, size=None, **more):
    routing = {"Type": kind, "WaitIntervalInSeconds": wait}
    if size is not None:
        member = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}[kind]
        routing[member] = {"Type": "CAPACITY_PERCENT", "Value": size}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, **more}}


def watched_by(*names):
    return {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in names]}}


def update(service, name, config, deployment, **more):
    service.client("sagemaker").update_endpoint(
        EndpointName=name, EndpointConfigName=config, DeploymentConfig=deployment, **more
    )


def describe(service, name):
    return service.client("sagemaker").describe_endpoint(EndpointName=name)


def alarm(service, name, metric="Invocation4XXErrors", **more):
    service.client("cloudwatch").put_metric_alarm(
        AlarmName=name,
        **{
            "Namespace": "AWS/SageMaker",
            "MetricName": metric,
            "Statistic": "Sum",
            "Period": 60,
            "EvaluationPeriods": 2,
            "DatapointsToAlarm": 1,
            "Threshold": 3,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        }
        | more,
    )
    return name


@contextlib.contextmanager
def asking(service, endpoint):
    """Invoke an endpoint all the while; yield what came of it: {outcome: count}."""
    outcomes, ending = collections.Counter(), threading.Event()

    def ask():
        while not ending.is_set():
            try:
                outcomes[service.seen(endpoint, "a.tar.gz")["environment"]["COLOUR"]] += 1
            except service.client("sagemaker-runtime").exceptions.ClientError as error:
                outcomes[error.response["Error"]["Code"]] += 1

    service.seen(endpoint, "a.tar.gz")
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def test_a_canary_gets_a_part_of_the_traffic(service, endpoint):
    name = alarm(service, f"canary-{endpoint}")
    deployment = policy("CANARY", wait=3600, size=30) | watched_by(name)
    with asking(service, endpoint) as outcomes:
        update(service, endpoint, "green", deployment)
        service.wait_until(lambda: outcomes["green"] > 5, what="requests to the canary")
        before = outcomes.copy()
        service.wait_until(lambda: sum((outcomes - before).values()) > 100, what="requests")
        during = outcomes - before
        described = describe(service, endpoint)
        service.client("cloudwatch").set_alarm_state(
            AlarmName=name, StateValue="ALARM", StateReason="enough is seen"
        )
    assert set(outcomes) == {"blue", "green"}
    assert 0.1 < during["green"] / sum(during.values()) < 0.55
    assert described["EndpointStatus"] == "Updating"
    assert described["EndpointConfigName"] == "blue"
    assert described["LastDeploymentConfig"] == deployment
    pending = described["PendingDeploymentSummary"]
    assert pending["EndpointConfigName"] == "green"
    assert pending["ProductionVariants"][0]["VariantStatus"][0]["Status"] == "Baking"


def test_after_the_canary_all_traffic_is_at_the_new_instances(service, endpoint):
    update(service, endpoint, "green", policy("CANARY", wait=15, size=10))
    service.wait_for("endpoint_in_service", endpoint)
    described = describe(service, endpoint)
    assert described["EndpointConfigName"] == "green"
    assert "PendingDeploymentSummary" not in described
    assert "FailureReason" not in described
    for _ in range(10):
        assert service.seen(endpoint, "a.tar.gz")["environment"]["COLOUR"] == "green"


def test_linear_steps_are_taken_one_after_the_other(service, endpoint):
    update(service, endpoint, "green", policy("LINEAR", wait=10, size=30))
    service.wait_for("endpoint_in_service", endpoint)
    steps = [
        line.rpartition(": ")[2].partition("%")[0]
        for line in service.log.splitlines()
        if f"{endpoint}: " in line and "of the requests go" in line
    ]
    assert steps == ["30", "60", "90", "100"]
    assert describe(service, endpoint)["EndpointConfigName"] == "green"


def test_errors_of_the_new_instances_set_off_an_alarm_that_rolls_back(service, endpoint):
    dimensions = [
        {"Name": "EndpointName", "Value": endpoint},
        {"Name": "VariantName", "Value": "AllTraffic"},
    ]
    name = alarm(service, f"errors-{endpoint}", Dimensions=dimensions)
    with asking(service, endpoint) as outcomes:
        update(
            service,
            endpoint,
            "broken",
            policy("CANARY", wait=3600, size=50) | watched_by(name),
        )
        service.wait_for("endpoint_in_service", endpoint)
        described = describe(service, endpoint)
        assert described["EndpointConfigName"] == "blue"
        assert f"alarm(s) {name} went into the ALARM state" in described["FailureReason"]
    assert outcomes["ValidationError"] >= 3
    [found] = service.client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
    assert found["StateValue"] == "ALARM"
    for _ in range(20):
        assert service.seen(endpoint, "a.tar.gz")["environment"]["COLOUR"] == "blue"
    # The alarm is over by itself, and the next deployment is not held up by it.
    service.wait_until(
        lambda: _succeeds(service, endpoint, name), what="a deployment after the errors"
    )


def _succeeds(service, endpoint, name):
    update(service, endpoint, "green", policy(wait=15) | watched_by(name))
    service.wait_for("endpoint_in_service", endpoint)
    return describe(service, endpoint)["EndpointConfigName"] == "green"


def test_an_alarm_may_look_at_the_new_instances_alone(service, endpoint):
    name = alarm(
        service,
        f"new-{endpoint}",
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": "AllTraffic"},
            {"Name": "EndpointConfigName", "Value": "broken"},
        ],
    )
    with asking(service, endpoint):
        deployment = policy("CANARY", wait=3600, size=50) | watched_by(name)
        update(service, endpoint, "broken", deployment)
        service.wait_for("endpoint_in_service", endpoint)
    assert name in describe(service, endpoint)["FailureReason"]


def test_an_alarm_that_is_set_off_by_hand_rolls_back_all_at_once(service, endpoint):
    name = alarm(service, f"by-hand-{endpoint}")
    update(service, endpoint, "green", policy(wait=3600) | watched_by(name))
    service.wait_until(
        lambda: service.seen(endpoint, "a.tar.gz")["environment"]["COLOUR"] == "green",
        what="traffic at the new instances",
    )
    service.client("cloudwatch").set_alarm_state(
        AlarmName=name, StateValue="ALARM", StateReason="a test"
    )
    service.wait_for("endpoint_in_service", endpoint)
    assert name in describe(service, endpoint)["FailureReason"]
    assert service.seen(endpoint, "a.tar.gz")["environment"]["COLOUR"] == "blue"


def test_the_last_deployment_config_is_used_again_when_an_update_says_so(service):
    sagemaker = service.client("sagemaker")
    deployment = policy("LINEAR", wait=0, size=50)
    sagemaker.create_endpoint(
        EndpointName="retained", EndpointConfigName="blue", DeploymentConfig=deployment
    )
    service.wait_for("endpoint_in_service", "retained")
    assert describe(service, "retained")["LastDeploymentConfig"] == deployment
    sagemaker.update_endpoint(
        EndpointName="retained", EndpointConfigName="green", RetainDeploymentConfig=True
    )
    service.wait_for("endpoint_in_service", "retained")
    assert "endpoint retained: 50% of the requests go" in service.log
    sagemaker.delete_endpoint(EndpointName="retained")


def _instances(value):
    size = {"Type": "INSTANCE_COUNT", "Value": value}
    routing = {"Type": "CANARY", "WaitIntervalInSeconds": 0, "CanarySize": size}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}


_ROLLING = {
    "MaximumBatchSize": {"Type": "INSTANCE_COUNT", "Value": 1},
    "WaitIntervalInSeconds": 0,
}


@pytest.mark.parametrize(
    ("deployment", "words"),
    [
        (watched_by("there-is-none", "nor-this"), "there-is-none, nor-this .*do not exist"),
        (policy("CANARY"), "CanarySize must be specified"),
        (policy("LINEAR"), "LinearStepSize must be specified"),
        (policy("CANARY", size=51), "at most 50%"),
        (policy("LINEAR", size=9), "10% to 50%"),
        (_instances(1), "at most 50% of the instances"),
        (
            policy(wait=600, MaximumExecutionTimeoutInSeconds=600, TerminationWaitInSeconds=1),
            "larger than the total waiting time of 601 seconds",
        ),
        ({"RollingUpdatePolicy": _ROLLING}, "RollingUpdatePolicy cannot be rehearsed"),
        ({"RollingUpdatePolicy": _ROLLING} | policy(), "only one of"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused(service, endpoint, deployment, words):
    sagemaker = service.client("sagemaker")
    with pytest.raises(sagemaker.exceptions.ClientError, match=words) as refused:
        update(service, endpoint, "green", deployment)
    error = refused.value.response
    assert error["Error"]["Code"] == "ValidationException"
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 400
    described = describe(service, endpoint)
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == ("InService", "blue")


def test_an_alarm_that_nobody_evaluates_is_refused(service, endpoint):
    alarm(service, "odd", EvaluationPeriods=1, ComparisonOperator="GreaterThanUpperThreshold")
    sagemaker = service.client("sagemaker")
    with pytest.raises(sagemaker.exceptions.ClientError, match="its comparison"):
        update(service, endpoint, "green", watched_by("odd"))


def test_steps_want_the_same_variants(service, endpoint):
    sagemaker = service.client("sagemaker")
    other = {"VariantName": "Other", "ModelName": "green", "InstanceType": "ml.m5.large"}
    with contextlib.suppress(sagemaker.exceptions.ClientError):
        sagemaker.create_endpoint_config(
            EndpointConfigName="other", ProductionVariants=[other | {"InitialInstanceCount": 1}]
        )
    with pytest.raises(sagemaker.exceptions.ClientError, match="must have the variant names"):
        update(service, endpoint, "other", policy("CANARY", size=10))


def test_a_service_that_ends_in_the_middle_of_a_deployment_leaves_nothing(start_service, tmp_path):
    service = start_service(tmp_path, MMEKIT_BAKING_MINUTE_S="60")
    for colour in ("blue", "green"):
        service.describe_models(colour, environment={"COLOUR": colour})
    service.put("a.tar.gz", service.echo_archive())
    service.client("sagemaker").create_endpoint(EndpointName="ended", EndpointConfigName="blue")
    service.wait_for("endpoint_in_service", "ended")
    update(service, "ended", "green", policy("CANARY", wait=3600, size=50))
    service.wait_until(
        lambda: service.seen("ended", "a.tar.gz")["environment"]["COLOUR"] == "green",
        what="a request to the canary",
    )
    assert service.stop() == 0
    assert not list(service.folder.glob("mme*"))


def test_traffic_that_has_moved_stays_while_the_state_lasts(start_service, tmp_path):
    service = start_service(tmp_path, "--state-seconds", "4", MMEKIT_BAKING_MINUTE_S="0.5")
    for colour in ("blue", "green"):
        service.describe_models(colour, environment={"COLOUR": colour})
    service.put("a.tar.gz", service.echo_archive())
    service.client("sagemaker").create_endpoint(EndpointName="lasting", EndpointConfigName="blue")
    service.wait_for("endpoint_in_service", "lasting")

    def colour():
        return service.seen("lasting", "a.tar.gz")["environment"]["COLOUR"]

    update(service, "lasting", "green", policy("CANARY", wait=60, size=10))
    service.wait_until(
        lambda: (
            "100% of the requests" in service.log
            and "PendingDeploymentSummary" not in describe(service, "lasting")
        ),
        what="the end of the baking",
    )
    seen = []
    while describe(service, "lasting")["EndpointStatus"] == "Updating":
        seen.append(colour())
    assert set(seen) == {"green"}
    assert service.stop() == 0


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_minute_that_is_none_is_said(monkeypatch, text):
    monkeypatch.setenv("MMEKIT_BAKING_MINUTE_S", text)
    with pytest.raises(SettingsError, match="MMEKIT_BAKING_MINUTE_S"):
        baking_minute()
