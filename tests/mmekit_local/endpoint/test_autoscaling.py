"""Application Auto Scaling: a registered variant follows its target."""

import contextlib
import itertools
import threading
import time

import pytest

MINUTE = 0.2  # how long a minute of autoscaling lasts here
DIMENSION = "sagemaker:variant:DesiredInstanceCount"


@pytest.fixture(scope="module")
def scaled(start_service, tmp_path_factory):
    """A service with an endpoint, and a state folder that another service may go on with."""
    folder = tmp_path_factory.mktemp("scaled")
    numbers = itertools.count()
    running = []

    def begin():
        for old in running:
            old.stop()
        place = folder / str(next(numbers))
        place.mkdir()
        options = ["--autoscaling-minute", str(MINUTE), "--state", str(folder / "state")]
        running.append(start_service(place, *options))
        return running[-1]

    service = begin()
    service.restart = begin
    service.put("a.tar.gz", service.echo_archive())
    service.create_endpoint("scaled")
    yield service
    for service in running:
        service.stop()


def register(service, least, most, **more):
    service.client("application-autoscaling").register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId="endpoint/scaled/variant/AllTraffic",
        ScalableDimension=DIMENSION,
        MinCapacity=least,
        MaxCapacity=most,
        **more,
    )


def follow(service, target, **more):
    """Track so many invocations per minute and instance."""
    service.client("application-autoscaling").put_scaling_policy(
        PolicyName="follow",
        ServiceNamespace="sagemaker",
        ResourceId="endpoint/scaled/variant/AllTraffic",
        ScalableDimension=DIMENSION,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": target,
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
            },
            **more,
        },
    )


def instances(service):
    described = service.client("sagemaker").describe_endpoint(EndpointName="scaled")
    [variant] = described["ProductionVariants"]
    return variant["CurrentInstanceCount"]


@contextlib.contextmanager
def traffic(service):
    """Two threads that invoke all the while; yield the times at which it ended, once it has."""
    ending, failures, ended = threading.Event(), [], []

    def invoke():
        while not ending.is_set():
            try:
                service.seen("scaled", "a.tar.gz")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure
                failures.append(error)
            time.sleep(0.005)

    threads = [threading.Thread(target=invoke) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield ended
    finally:
        ended.append(time.monotonic())
        ending.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_instances_come_with_traffic_and_go_without_and_never_leave_the_bounds(scaled):
    follow(scaled, 1.0, ScaleOutCooldown=0, ScaleInCooldown=60)
    register(scaled, 1, 3)
    with traffic(scaled) as ended:
        scaled.wait_until(lambda: instances(scaled) == 3)
        assert "autoscaling AllTraffic from" in scaled.log
        began = time.monotonic()
        while time.monotonic() - began < 10 * MINUTE:  # long enough to go too far
            assert instances(scaled) <= 3
    register(scaled, 2, 3)
    scaled.wait_until(lambda: instances(scaled) == 2)
    assert time.monotonic() - ended[0] > 10 * MINUTE  # fifteen quiet minutes, at least
    register(scaled, 1, 3)
    scaled.wait_until(lambda: instances(scaled) == 1)


def test_a_cooldown_is_waited_for_and_without_a_registration_nothing_is_done(scaled):
    follow(scaled, 1.0, ScaleOutCooldown=0, DisableScaleIn=True)
    register(scaled, 1, 2)
    with traffic(scaled):
        scaled.wait_until(lambda: instances(scaled) == 2)
        follow(scaled, 1.0, ScaleOutCooldown=360_000, DisableScaleIn=True)
        register(scaled, 1, 4)
        time.sleep(10 * MINUTE)
        assert instances(scaled) == 2
    scaled.client("application-autoscaling").deregister_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId="endpoint/scaled/variant/AllTraffic",
        ScalableDimension=DIMENSION,
    )
    follow(scaled, 1e9, ScaleInCooldown=0)
    time.sleep(20 * MINUTE)
    assert instances(scaled) == 2


def test_a_registration_and_what_came_of_it_survive_a_restart(scaled):
    register(scaled, 2, 4)
    service = scaled.restart()
    service.wait_for("endpoint_in_service", "scaled")
    assert instances(service) == 2
    scaling = service.client("application-autoscaling")
    [found] = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (found["MinCapacity"], found["MaxCapacity"]) == (2, 4)
