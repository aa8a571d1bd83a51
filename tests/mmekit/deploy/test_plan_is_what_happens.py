"""What a plan says of a field is what is described afterwards, and the next plan is empty."""

import itertools
import json
import re

import pytest

from tests.mmekit.deploy.conftest import Desk, wait_until

BASE = """
    name: mills
    packages:
      - archive: a.tar.gz
"""
SCALED = "autoscaling: {minimum: %d, maximum: %d, invocations_per_instance: 50}"
STATES = {
    "one": "",
    "two": "instances: 2",
    "scaled": SCALED % (1, 3),
    "scaled-from-two": "instances: 2\n" + SCALED % (1, 3),
    "scaled-from-three": "instances: 1\n" + SCALED % (3, 4),
    "coloured": "environment: {COLOUR: blue}\nmetrics: models",
    "scaled-coloured": "environment: {COLOUR: blue}\nvolume_gb: 30\n" + SCALED % (1, 2),
    "large": "instance_type: ml.m5.2xlarge\ninstances: 2\nalarms: {}",
    "large-scaled": "instance_type: ml.m5.2xlarge\nalarms: {latency_ms: 50}\n" + SCALED % (2, 3),
}
EVERY_PAIR = list(itertools.permutations(STATES, 2))
# The one that was shown and not done; all of them take minutes.
SOME = [("two", "scaled")]


@pytest.fixture(scope="module")
def mill(service, tmp_path_factory):
    """One deployment that is changed and changed again."""
    desk = Desk(tmp_path_factory.mktemp("mill"), service.url)
    desk.pack("a.tar.gz")
    desk.write(BASE)
    desk.mme("deploy")
    yield desk
    desk.mme("destroy")
    assert "mills" not in str(service.names())


def deploy(desk, state):
    desk.write(BASE)
    with (desk.folder / "mme.yaml").open("a") as file:
        file.write(f"\n{STATES[state]}\n")
    planned = desk.run("deploy", "--plan", "--json")
    assert planned.exit_code in (0, 2), planned.stderr
    desk.mme("deploy")
    return json.loads(planned.stdout)["steps"]


def described(service):
    endpoint = service.described("mills")
    config = service.client("sagemaker").describe_endpoint_config(
        EndpointConfigName=endpoint["EndpointConfigName"]
    )
    [variant], [configured] = endpoint["ProductionVariants"], config["ProductionVariants"]
    return {
        "endpoint config": endpoint["EndpointConfigName"],
        "instances": str(variant["DesiredInstanceCount"]),
        "weight": f"{variant['DesiredWeight']:g}",
        "model": configured["ModelName"],
        "instance type": configured["InstanceType"],
        "volume": str(configured.get("VolumeSizeInGB", "none")),
    }


def follow(mill, service, before, after):
    if STATES[before] not in (mill.folder / "mme.yaml").read_text():
        deploy(mill, before)
    was = described(service)
    steps = deploy(mill, after)
    now = described(service)
    told = {
        difference["field"]: (difference["before"], difference["after"])
        for step in steps
        if step["kind"] in ("endpoint", "endpoint config")
        for difference in step["differences"]
    }
    # Each field that was told is as told; each that was not is as it was.
    for field, value in now.items():
        assert (was[field], value) == told.get(field, (value, value)), field
    again = mill.run("deploy", "--plan")
    assert again.exit_code == 0, again.stdout
    assert re.search(r"In all: 0 to create, 0 to change, 0 to remove, \d+ to keep", again.stdout)


@pytest.mark.parametrize(("before", "after"), SOME)
def test_what_was_planned_is_described_and_the_next_plan_is_empty(mill, service, before, after):
    follow(mill, service, before, after)


@pytest.mark.thorough
@pytest.mark.parametrize(("before", "after"), EVERY_PAIR)
def test_so_it_is_whatever_becomes_of_whatever(mill, service, before, after):
    follow(mill, service, before, after)


def test_instances_that_autoscaling_has_added_stay_and_the_plan_says_so(mill, service):
    deploy(mill, "scaled")
    resize(service, 3)
    steps = deploy(mill, "scaled-coloured")
    [note] = [step["note"] for step in steps if step["kind"] == "endpoint"]
    assert "autoscaling has 3 instances, and they stay" in note
    # At most 2 from now on: to go there is the scaling's to do.
    assert described(service)["instances"] == "3"


@pytest.mark.thorough
def test_a_scaling_of_somebody_elses_is_not_fought_with(mill, service):
    deploy(mill, "coloured")
    scaling = service.client("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "endpoint/mills/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=2)
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    tracking = {"TargetValue": 9.0, "PredefinedMetricSpecification": metric}
    scaling.put_scaling_policy(
        PolicyName="theirs",
        **target,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=tracking,
    )
    resize(service, 2)
    assert "autoscaling has 2 instances, and they stay" in " ".join(mill.planned().split())
    assert mill.run("deploy", "--plan").exit_code == 0
    scaling.delete_scaling_policy(PolicyName="theirs", **target)
    scaling.deregister_scalable_target(**target)


def test_what_somebody_else_has_changed_by_hand_is_told_and_put_right(mill, service):
    deploy(mill, "coloured")
    config = described(service)["endpoint config"]
    resize(service, 2, weight=0.5)
    plan = mill.planned()
    assert "instances: 2 -> 1" in plan
    assert "weight: 0.5 -> 1" in plan
    mill.mme("deploy")
    assert described(service)["instances"] == "1"
    assert described(service)["endpoint config"] == config


def resize(service, instances, weight=1.0):
    wanted = {"VariantName": "AllTraffic", "DesiredInstanceCount": instances}
    service.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName="mills", DesiredWeightsAndCapacities=[wanted | {"DesiredWeight": weight}]
    )
    wait_until(lambda: service.described("mills")["EndpointStatus"] == "InService")
