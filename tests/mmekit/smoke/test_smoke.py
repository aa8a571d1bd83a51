"""`mme smoke`: a command that proves an account, or a rehearsal, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import threading

import boto3
import pytest

from mmekit.smoke import SmokeCourse, SmokeOptions
from mmekit.smoke.cloudwatch import LoadLine, SmokeLog
from mmekit.smoke.report import SmokeCheck, SmokeReport
from mmekit_local.companion import local_endpoint
from mmekit_local.ports import free_port
from tests.mme_command import run_mme

KEYS = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Run the local service, as `mme up` does; return its address."""
    port, log = free_port(), tmp_path_factory.mktemp("service") / "log.txt"
    with local_endpoint([f"--port={port}"], "127.0.0.1", port, log) as url:
        yield url


@pytest.fixture
def start(service, tmp_path):
    """Start `mme smoke` beside the service."""

    def begin(*arguments, **variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return subprocess.Popen(
            [sys.executable, "-m", "mmekit.cli", "smoke", *arguments],
            cwd=tmp_path,
            env=kept | {"MME_LOCAL_URL": service, "TMPDIR": str(tmp_path)} | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture
def left(service):
    """Say what a smoke test has left at the service."""

    def look():
        client = {
            name: boto3.client(name, endpoint_url=service, **KEYS)
            for name in ("sagemaker", "s3", "iam", "logs")
        }
        return {
            "endpoints": client["sagemaker"].list_endpoints()["Endpoints"],
            "configs": client["sagemaker"].list_endpoint_configs()["EndpointConfigs"],
            "models": client["sagemaker"].list_models()["Models"],
            "buckets": client["s3"].list_buckets()["Buckets"],
            "roles": client["iam"].list_roles()["Roles"],
            "logs": client["logs"].describe_log_groups()["logGroups"],
        }

    return look


@pytest.fixture
def real(service):
    """Variables by which a command takes the service for a real account."""
    keys = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    return keys | {"AWS_ENDPOINT_URL": service, "AWS_EC2_METADATA_DISABLED": "true"}


def nothing(found):
    return [kind for kind, names in found.items() if names] == []


@pytest.mark.thorough
def test_three_models_are_deployed_asked_looked_at_and_taken_down(start, left, tmp_path):
    answer, told = (smoke := start("--json", "--output", "smoke.json")).communicate(timeout=240)
    assert smoke.returncode == 0, answer + told
    report = json.loads(answer)
    assert report["passed"]
    assert {one["passed"] for one in report["checks"]} == {True}
    assert len(report["checks"]) == 11
    assert [one["name"] for one in report["models"]] == ["body-one", "body-two", "library"]
    assert "arn:aws" not in answer
    assert (tmp_path / "smoke.json").read_text() == answer
    assert nothing(left())
    assert [path.name for path in tmp_path.glob("mmekit-smoke-*")] == []


@pytest.mark.thorough
def test_a_check_that_fails_is_exit_1_and_everything_is_taken_down(start, left):
    smoke = start("--environment", "MMEKIT_WORKER_SLOTS=off")
    answer, told = smoke.communicate(timeout=240)
    assert smoke.returncode == 1, answer + told
    assert answer.startswith("# mme smoke: FAILED")
    assert "plain engine: body-one, body-two, library" in answer
    assert "| passed | everything is taken down |" in answer
    assert nothing(left())


@pytest.mark.thorough
def test_ctrl_c_takes_everything_down(start, left):
    smoke = start()
    watchdog = threading.Timer(240, smoke.kill)
    watchdog.start()
    for line in smoke.stderr:
        if line.startswith("create endpoint mmekit-smoke"):
            smoke.send_signal(signal.SIGINT)
            break
    answer, told = smoke.communicate()
    watchdog.cancel()
    assert smoke.returncode == 128 + signal.SIGINT, answer + told
    assert "Ended early: interrupted, while deploying" in answer
    assert "| not tried | library answers to the last bit |" in answer
    assert nothing(left())


@pytest.mark.thorough
def test_when_the_minutes_are_over_everything_is_taken_down(start, left):
    answer, told = (smoke := start("--minutes", "0.1")).communicate(timeout=240)
    assert smoke.returncode == 1, answer + told
    assert "the 0.1 minutes are over" in answer
    assert nothing(left())


def test_a_real_account_is_asked_for_first_and_told_the_cost(real, left, tmp_path):
    options = ("--target", "aws", "--region", "us-east-1", "--image", "a.dkr/djl:1")
    smoke = run_mme("smoke", *options, folder=tmp_path, environment=os.environ | real)
    assert smoke.returncode == 1
    assert smoke.stdout == ""
    assert "cost: about 0.08 USD for 20 minutes of the instance" in smoke.stderr
    assert "run the command with --yes" in smoke.stderr
    assert nothing(left())


@pytest.fixture
def course(real, monkeypatch):
    """A smoke test of an account, which is not run; MME_TARGET is not in its shell."""
    for name, value in real.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "MME_TARGET"):
        monkeypatch.delenv(name, raising=False)
    options = SmokeOptions(target="aws", region="us-east-1", image="a.dkr/djl:1")
    course = SmokeCourse(options, print)
    yield course
    course.cancel()


def test_whatever_says_how_to_take_it_down_says_where(course, monkeypatch):
    command = course.removal_command
    assert command == f"MME_TARGET=aws mme destroy {course.file}"
    told = [course.announcement()[-1], course.notice, course.leftover]
    assert [line.partition(": ")[2] for line in told] == [command] * 3
    # It may be typed in another shell than that of `AWS_PROFILE=staging mme smoke`.
    monkeypatch.setenv("AWS_PROFILE", "my own")
    assert course.removal_command.startswith("MME_TARGET=aws AWS_PROFILE='my own' mme destroy ")


@pytest.mark.thorough
def test_the_command_that_takes_it_down_goes_to_the_account(course):
    variable, _, *words = course.removal_command.split()
    environment = os.environ | dict([variable.split("=")])
    typed = run_mme(*words, folder=course.file.parent, environment=environment)
    assert typed.returncode == 0, typed.stderr
    assert f"No resources of {course.name} are left on AWS account" in typed.stdout


def test_a_report_may_be_shown_to_everybody():
    failure = "arn:aws:iam::123456789012:role/x may not read s3://a-123456789012-us-east-1/b | c"
    report = SmokeReport(
        {"Target": "aws"},
        (SmokeCheck("a", None, failure),),
        stages={"deploying": 0.123456789012},
        failure=failure,
    )
    assert not report.passed
    for text in (report.markdown(), report.to_json()):
        assert ":123456789012" not in text
        assert "-123456789012" not in text
        assert "arn:" not in text
        assert "<arn> may not read s3://a-<account>-us-east-1/b" in text
    assert json.loads(report.to_json())["stages"] == {"deploying": 0.123456789012}
    assert "| not tried | a | <arn> may not read s3://a-<account>-us-east-1/b \\| c |" in (
        report.markdown()
    )


def test_a_check_that_was_not_come_to_is_no_success():
    checks = (SmokeCheck("a", passed=True, seen=""), SmokeCheck("b", passed=None, seen=""))
    assert not SmokeReport({}, checks).passed
    assert SmokeReport({}, checks[:1]).passed


def test_lines_of_the_log_are_found_in_whatever_a_server_wraps_them():
    log = SmokeLog.of(
        [
            "INFO W-one: mme smoke: one in a plain engine, process 7, body 7",
            "INFO PyProcess W-3-one-stdout: mme smoke: one in a slot, process 9, body 8",
            "W-two: mme smoke: two in a slot, process 10, library",
            "W-two-stdout: INFO::mmekit: worker slot: a template process with x",
            "W-two-stdout: WARN::mmekit: model process 10 ended: signal 9",
            "INFO Model two loaded",
        ]
    )
    assert log.loads == (LoadLine("one", True, 9, 8), LoadLine("two", True, 10, None))
    assert log.slots == ("INFO::mmekit: worker slot: a template process with x",)
    assert log.complaints == ("WARN::mmekit: model process 10 ended: signal 9",)
