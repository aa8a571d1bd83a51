"""Roll-outs: traffic moves in steps, and goes back when an alarm goes off."""

import contextlib
import threading

import pytest

from tests.mmekit.deploy.conftest import Desk, changes

BASE = """
    name: barge
    packages: [a.tar.gz]
    alarms: {errors_5xx: 3, latency_ms: 60000}
"""
CANARY = "rollout: {canary: {percent: 10, wait_minutes: %g}}"


@pytest.fixture(scope="module")
def surroundings():
    return {"MMEKIT_BAKING_MINUTE_S": "0.4"}


@pytest.fixture(scope="module")
def standing(service, tmp_path_factory):
    """A deployment with alarms, for the whole module."""
    desk = Desk(tmp_path_factory.mktemp("barge"), service.url)
    desk.pack("a.tar.gz")
    desk.write(BASE)
    desk.mme("deploy")
    yield desk
    desk.mme("destroy")


def paint(desk, colour, rollout, alarms=True):
    desk.write(BASE if alarms else BASE.replace("alarms:", "# alarms:"))
    with (desk.folder / "mme.yaml").open("a") as file:
        file.write(f"\nenvironment: {{COLOUR: {colour}}}\n{rollout}\n")


@contextlib.contextmanager
def failing(service, endpoint):
    """Have a model fail as soon as traffic goes to new instances."""
    ending = threading.Event()

    def fail():
        while not ending.wait(0.02):
            if "PendingDeploymentSummary" in service.described(endpoint):
                with contextlib.suppress(Exception):
                    service.invoke(endpoint, "a.tar.gz", b'{"status": 500}')

    thread = threading.Thread(target=fail)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def colour(service):
    return service.invoke("barge", "a.tar.gz")["environment"].get("COLOUR")


def test_a_canary_whose_alarm_goes_off_goes_back_and_deploy_says_why(deployed, service):
    before = service.described("barge")["EndpointConfigName"]
    paint(deployed, "red", CANARY % 60)
    plan = deployed.planned()
    assert "10 % of the traffic first, then the rest, 60 minutes after each step" in plan
    assert "taken back by barge-5xx or barge-latency" in plan
    with failing(service, "barge"):
        said = deployed.refused("deploy")
    assert "alarm(s) barge-5xx went into the ALARM state" in " ".join(said.split())
    assert "What was there before goes on serving." in said
    assert service.described("barge")["EndpointConfigName"] == before
    assert colour(service) is None
    # It is still what the file asks for; what mends it must not be held up by the alarm.
    assert "is in ALARM already" in deployed.planned()


@pytest.mark.thorough
def test_a_roll_out_that_nothing_ends_arrives_and_leaves_nothing_to_do(deployed, service):
    service.client("cloudwatch").set_alarm_state(
        AlarmName="barge-5xx", StateValue="OK", StateReason="looked into"
    )
    paint(deployed, "blue", "rollout: {linear: {percent: 50, wait_minutes: 1}}")
    said = deployed.mme("deploy")
    assert "endpoint barge: Updating, Baking 50% of the traffic" in said
    assert colour(service) == "blue"
    assert changes(deployed.planned()) == {}
    config = service.described("barge")["LastDeploymentConfig"]
    assert config["AutoRollbackConfiguration"]["Alarms"] == [
        {"AlarmName": "barge-5xx"},
        {"AlarmName": "barge-latency"},
    ]
    assert config["BlueGreenUpdatePolicy"]["MaximumExecutionTimeoutInSeconds"] == 3720


@pytest.mark.thorough
def test_the_alarms_are_there_before_the_roll_out_that_they_watch(deployed, service):
    paint(deployed, "green", "", alarms=False)
    deployed.mme("deploy")
    assert service.names("barge")["alarms"] == []
    paint(deployed, "black", "rollout: {all_at_once: {wait_minutes: 1}}")
    plan = deployed.mme("deploy")
    done = list(changes(plan))
    assert done.index("alarm barge-5xx") < done.index("endpoint barge")
    assert colour(service) == "black"


def test_a_roll_out_without_alarms_says_that_nothing_takes_it_back(deployed):
    paint(deployed, "grey", CANARY % 10, alarms=False)
    assert "nothing takes it back: the file has no `alarms`" in deployed.planned()


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        ("rollout: {canary: {percent: 60}}", "less than or equal to 50"),
        ("rollout: {canary: {percent: 10, instances: 1}}", "percent or instances, one of them"),
        ("rollout: {canary: {instances: 1}}", "more than half of 1 instance,"),
        ("rollout: {linear: {percent: 5}}", "greater than or equal to 10"),
        ("rollout: {}", "all_at_once, canary or linear, one of them"),
        ("rollout: {linear: {percent: 10, wait_minutes: 48}}", "ends a deployment after 8 hours"),
        ("rollout: bluegreen", "rollout"),
    ],
)
def test_what_sagemaker_has_no_roll_out_for_is_refused(deployed, rollout, said):
    paint(deployed, "white", rollout)
    assert said in deployed.refused("deploy")
