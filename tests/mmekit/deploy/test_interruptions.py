"""Runs that are killed, and the runs after them."""

import signal

import pytest

from tests.mmekit.deploy.conftest import changes, wait_until

EVERYTHING = """
    name: shore
    packages:
      - archive: a.tar.gz
      - archive: b.tar.gz
    environment: {COLOUR: blue}
    autoscaling: {maximum: 2, invocations_per_instance: 100}
    alarms: {}
"""


@pytest.fixture
def shore(desk):
    """A file with everything that a deployment can have."""
    desk.pack("a.tar.gz")
    desk.pack("b.tar.gz")
    desk.write(EVERYTHING)
    return desk


@pytest.mark.timeout(600)  # some forty runs
@pytest.mark.thorough
def test_a_run_killed_after_any_of_its_changes_is_completed_by_the_next(
    shore, service, nothing_left
):
    killed = shore.killed("deploy")
    assert len(killed) >= 15
    assert {"CreateBucket", "CreateRole", "CreateModel", "CreateEndpoint"} <= set(killed)
    assert not any(operation.startswith("Delete") for operation in killed)
    assert "Nothing to do." in shore.mme("deploy")
    assert service.invoke("shore", "a.tar.gz")["environment"]["COLOUR"] == "blue"
    bucket = service.names()["buckets"][0]
    s3 = service.client("s3")
    assert s3.get_public_access_block(Bucket=bucket)
    assert "SecureTransport" in s3.get_bucket_policy(Bucket=bucket)["Policy"]

    shore.write(EVERYTHING.replace("blue", "green"))
    shore.pack("b.tar.gz", newer=True)
    killed = shore.killed("deploy")
    assert killed.count("UpdateEndpoint") == killed.count("PutObject") == 1
    assert "DeleteEndpoint" not in killed
    assert "Nothing to do." in shore.mme("deploy")
    assert service.invoke("shore", "b.tar.gz")["environment"]["COLOUR"] == "green"
    assert len(service.names()["models"]) == len(service.names()["configs"]) == 1

    killed = shore.killed("destroy")
    assert killed.count("DeleteEndpoint") == 1
    assert "No resources of" in shore.mme("destroy")


@pytest.mark.timeout(600)  # some twenty runs
@pytest.mark.thorough
def test_a_move_killed_after_any_of_its_changes_leaves_nothing_at_the_old_place(
    shore, service, nothing_left
):
    shore.mme("deploy")
    shore.write(f"{EVERYTHING}    bucket: shore-second\n    prefix: moved\n")
    killed = shore.killed("deploy")
    assert killed.count("PutRolePolicy") == 2
    assert killed.index("PutRolePolicy") < killed.index("UpdateEndpoint")
    assert killed.count("DeleteBucket") == 1
    assert service.invoke("shore", "a.tar.gz")
    assert service.names("shore")["objects"] == [
        "shore-second/moved/a.tar.gz",
        "shore-second/moved/b.tar.gz",
    ]
    shore.write(EVERYTHING)
    assert shore.killed("destroy").count("DeleteBucket") == 1


@pytest.mark.thorough
def test_a_kill_while_the_endpoint_is_made_is_waited_out_by_the_next_run(
    shore, service, nothing_left
):
    process = shore.start("deploy")
    wait_until(lambda: service.names()["endpoints"])
    process.kill()
    process.communicate()
    assert "shore is InService" in shore.mme("deploy") or not changes(shore.mme("deploy"))
    assert service.described("shore")["EndpointStatus"] == "InService"
    shore.mme("destroy")


def test_ctrl_c_says_that_the_next_run_goes_on(shore, service, nothing_left):
    process = shore.start("deploy")
    wait_until(lambda: service.names()["buckets"])
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    if process.returncode:  # else it was over before the signal came
        assert process.returncode == 130, said
        assert "run the command again to resume" in said
        assert "Traceback" not in said
    shore.mme("deploy")
    shore.mme("destroy")
