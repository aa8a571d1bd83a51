"""`mme top` and `mme logs` at a running service, with CloudWatch telling as on AWS."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from mmekit_local.sagemaker.aws_client import locate
from mmekit_local.sagemaker.instances.model_disk import name_of
from tests.mme_command import mme_in_a_terminal, run_mme

STREAMS = ("AllTraffic/i-0123456789abcdef0", "AllTraffic/i-fedcba98765432100")
KEY = f"shops/{'region-' * 8}1.tar.gz"


def said(worker, *texts):
    return [f"2026-11-28 22:12:07,934 INFO W-{worker}: {text}" for text in texts]


@pytest.fixture(scope="module")
def mme(service, tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")

    def run(*arguments, **variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment = {**kept, "MME_LOCAL_URL": service.url, "COLUMNS": "80", **variables}
        return run_mme(*arguments, folder=folder, environment=environment)

    return run


@pytest.fixture(scope="module")
def watched(service):
    """An endpoint that was asked, one of whose models failed, and whose log has lines of ours."""
    service.put("ridge.tar.gz", service.echo_archive())
    properties = b"engine=Python\noption.modelName=gradient_boosting\n"
    files = {"model.json": b"{}", "serving.properties": properties}
    service.put(KEY, service.archive(files))
    endpoint = service.create_endpoint("watched")
    for _ in range(3):
        service.invoke(endpoint, "ridge.tar.gz")
    with pytest.raises(Exception, match="ModelError"):
        service.invoke(endpoint, KEY, b'{"status": 500}')
    hashed = name_of(locate("s3://models/", "ridge.tar.gz"))
    about = {"CloudWatchMetrics": [{"Namespace": "mmekit"}]}
    metered = {"_aws": about, "Endpoint": endpoint, "Model": "ridge", "mme_model_requests_total": 3}
    traceback = ("Traceback (most recent call last):", "  File x", "ValueError: row 17 is bad")
    write_log(service, endpoint, STREAMS[0], 0, *said("gradient_boosti", "first", *traceback))
    write_log(service, endpoint, STREAMS[1], 1, *said("ridge", "second"), f"Model {hashed} loaded")
    write_log(
        service, endpoint, STREAMS[0], 2, *said("gradient_boosti", "third"), json.dumps(metered)
    )
    return endpoint


def write_log(service, endpoint, stream, seconds, *messages):
    logs, group = service.client("logs"), f"/aws/sagemaker/Endpoints/{endpoint}"
    # The endpoint may bring its own lines at the same moment.
    with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=group)
    with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
    at = int((time.time() - 20 + seconds) * 1000)
    events = [{"timestamp": at, "message": message} for message in messages]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def test_lines_of_all_instances_come_in_the_order_of_time(mme, watched):
    finished = mme("logs", watched)
    assert finished.returncode == 0, finished.stderr
    ours = [line for line in finished.stdout.splitlines() if " W-" in line]
    assert [line.split()[-1] for line in (ours[0], *ours[-2:])] == ["first", "second", "third"]
    for line in ours:
        assert re.match(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  AllTraffic/i-[0-9a-f]{17}  ", line
        )
    assert "_aws" not in finished.stdout
    assert "\x1b" not in finished.stdout


def test_lines_of_a_model_are_found_by_its_key_and_by_what_it_was_packed_as(mme, watched):
    ridge = mme("logs", watched, "--model", "ridge.tar.gz").stdout.splitlines()
    assert [line.rpartition("  ")[2][-6:] for line in ridge] == ["second", "loaded"]
    finished = mme("logs", watched, "--model", KEY, "--errors", "--json")
    found = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [one["message"].rpartition(": ")[2] for one in found][-1] == "row 17 is bad"
    assert len(found) == 3
    assert f"{KEY} was packed as gradient_boosting" in finished.stderr


def test_a_model_of_which_there_is_no_line_is_an_error_with_the_names_there_are(mme, watched):
    finished = mme("logs", watched, "--model", "rigde.tar.gz")
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert "remedy: Lines name: ridge." in finished.stderr


@pytest.mark.parametrize("command", ["top", "logs"])
def test_for_an_endpoint_that_is_not_there_the_nearest_names_are_told(mme, watched, command):
    finished = mme(command, "wacthed")
    assert finished.returncode == 1
    assert f"remedy: did you mean {watched}? There " in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_log_of_a_deleted_endpoint_can_still_be_read(mme, service):
    write_log(service, "gone", STREAMS[0], 0, *said("ridge", "the last words"))
    finished = mme("logs", "gone")
    assert "the last words" in finished.stdout
    assert "is deleted" in finished.stderr


def test_a_time_that_is_none_is_a_usage_error(mme, watched):
    assert mme("logs", watched, "--since", "yesterday").returncode == 2


def test_cloudwatch_alone_tells_of_requests_models_and_failures(mme, watched):
    finished = mme("top", watched, "--source", "cloudwatch")
    assert finished.returncode == 0, finished.stderr
    assert "requests 4, errors 1, cold loads 2, hit rate 50.0%, p50" in finished.stdout
    lines = [line.split() for line in finished.stdout.splitlines()]
    assert ["ridge", "3", "0", "0", "-", "-", "-", STREAMS[0]] in lines
    assert [
        "1",
        *lines[-3][1:3],
        "-",
        "gradient_boosti",
        "ValueError:",
        "row",
        "<n>",
        "is",
        "bad",
    ] in lines
    found = json.loads(mme("top", watched, "--source", "cloudwatch", "--json").stdout)
    assert found["source"] == "cloudwatch"
    assert found["requests"] == 4
    assert [one["target"] for one in found["models"]] == ["ridge"]


def test_the_service_itself_tells_of_each_model_and_where_it_is(mme, watched):
    finished = mme("top", watched)
    assert finished.returncode == 0, finished.stderr
    (row,) = [line.split() for line in finished.stdout.splitlines() if line.startswith("ridge")]
    assert row[1:4] == ["3", "0", "1"]
    assert row[-1] == "AllTraffic/1"
    (row,) = [line.split() for line in finished.stdout.splitlines() if line.startswith(KEY)]
    assert row[1:4] == ["1", "1", "1"]
    assert "errors 1, cold loads 2, hit rate 50.0%" in finished.stdout
    (failure,) = [line for line in finished.stdout.splitlines() if "ModelError" in line]
    assert failure.split()[:5] == ["1", *failure.split()[1:3], "500", KEY]


@pytest.fixture
def aws(service):
    """Variables that have the service take the part of AWS."""
    return {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "somebodys",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_ENDPOINT_URL": service.url,
        "MME_TARGET": "aws",
    }


def test_on_aws_no_role_is_needed_and_cloudwatch_is_who_tells(mme, watched, aws):
    finished = mme("top", watched, "--json", **aws)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["source"] == "cloudwatch"
    assert mme("top", watched, "--source", "service", **aws).returncode == 2


def test_a_deployment_file_says_name_region_and_profile(mme, watched, aws, tmp_path):
    config = tmp_path / "config"
    keys = "aws_access_key_id=AKIAIOSFODNN7EXAMPLE\naws_secret_access_key=x\n"
    config.write_text(f"[profile staging]\n{keys}")
    variables = {**aws, "AWS_CONFIG_FILE": str(config), "AWS_DEFAULT_REGION": "ap-east-1"}
    del variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]
    file, request = tmp_path / "staging.yaml", tmp_path / "request.json"
    file.write_text(
        f"name: {watched}\nversions: true\npackages: []\nregion: us-east-1\nprofile: staging\n"
    )
    request.write_text("{}")
    data = ("--data", str(request))

    finished = mme("invoke", str(file), "--target-model", "ridge.tar.gz", *data, **variables)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["length"] == len("{}")
    load = ("--targets", "ridge.tar.gz", "--requests", "4", "--json", *data)
    finished = mme("bench", "--endpoint", str(file), *load, **variables)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["plan"]["destination"]["endpoint"] == watched


@pytest.mark.thorough
def test_what_comes_is_followed_until_ctrl_c(service, tmp_path):
    write_log(service, "followed", STREAMS[0], 0, *said("ridge", "the first"))
    environment = {**os.environ, "MME_LOCAL_URL": service.url}
    command = [sys.executable, "-m", "mmekit.cli", "logs", "followed", "--follow"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().endswith("the first\n")
        # Another instance's clock is behind: it comes all the same, and nothing comes twice.
        write_log(service, "followed", STREAMS[1], -5, *said("ridge", "the second"))
        assert process.stdout.readline().endswith("the second\n")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert process.returncode == 0


@pytest.mark.thorough
def test_a_terminal_shows_it_live_until_q(service, watched, tmp_path):
    options = ("--source", "cloudwatch", "--every", "0.2")
    pressed = {"every 0.2 s": b"q"}
    text, ended = mme_in_a_terminal(
        "top", watched, *options, folder=tmp_path, answers=pressed, MME_LOCAL_URL=service.url
    )
    assert ended == 0
    assert "requests 4" in text
    assert "\x1b[?1049l" in text  # the screen that was there before
