"""The AWS CLI, from an environment of its own: the commands of a deployment, one after another."""

import datetime as dt
import json

import pytest

pytestmark = [
    pytest.mark.timeout(900),  # the environment may have to be made first
    pytest.mark.thorough,  # what it asks of the service, boto3 asks for in test_boto3.py
]


@pytest.fixture(scope="module")
def aws_cli(rehearsal, python_with):
    """A function that runs the AWS CLI and returns what it prints, as data where it is JSON."""
    program = python_with("aws-cli").with_name("aws")

    def aws_cli(*arguments):
        said = rehearsal.run(program, *arguments)
        return json.loads(said) if said.startswith(("{", "[")) else said

    return aws_cli


@pytest.fixture(scope="module")
def deployed(rehearsal, aws_cli, tmp_path_factory):
    """An endpoint that the CLI made, with its models in a bucket that the CLI filled."""
    folder = tmp_path_factory.mktemp("to-sync")
    (folder / "more").mkdir()
    (folder / "times1.tar.gz").write_bytes(rehearsal.archives[1].read_bytes())
    (folder / "more" / "times10.tar.gz").write_bytes(rehearsal.archives[10].read_bytes())
    aws_cli("s3", "mb", "s3://from-the-cli")
    aws_cli("s3", "sync", folder, "s3://from-the-cli/models/", "--no-progress")
    container = {
        "Image": rehearsal.image,
        "Mode": "MultiModel",
        "ModelDataUrl": "s3://from-the-cli/models/",
    }
    aws_cli(
        *("sagemaker", "create-model", "--model-name", "from-the-cli"),
        *("--execution-role-arn", rehearsal.role, "--primary-container", json.dumps(container)),
    )
    aws_cli(
        *("sagemaker", "create-endpoint-config", "--endpoint-config-name", "from-the-cli"),
        "--production-variants",
        "VariantName=All,ModelName=from-the-cli,InstanceType=ml.m5.large,InitialInstanceCount=1",
    )
    aws_cli(
        *("sagemaker", "create-endpoint", "--endpoint-name", "from-the-cli"),
        *("--endpoint-config-name", "from-the-cli"),
    )
    aws_cli("sagemaker", "wait", "endpoint-in-service", "--endpoint-name", "from-the-cli")
    return "from-the-cli"


def test_s3_commands_list_what_sync_brought_and_copy_it_back(
    rehearsal, aws_cli, deployed, tmp_path
):
    listed = aws_cli("s3", "ls", "s3://from-the-cli/models/", "--recursive")
    assert [line.split()[-1] for line in listed.splitlines()] == [
        "models/more/times10.tar.gz",
        "models/times1.tar.gz",
    ]
    aws_cli("s3", "cp", "s3://from-the-cli/models/times1.tar.gz", tmp_path / "back.tar.gz")
    assert (tmp_path / "back.tar.gz").read_bytes() == rehearsal.archives[1].read_bytes()


def test_the_cli_invokes_a_target_model_and_cloudwatch_has_counted_it(aws_cli, deployed, tmp_path):
    (tmp_path / "rows.json").write_text('{"instances": [[1, 2], [3, 4]]}')
    for target, expected in (("times1.tar.gz", [3, 7]), ("more/times10.tar.gz", [30, 70])):
        said = aws_cli(
            *("sagemaker-runtime", "invoke-endpoint", "--endpoint-name", deployed),
            *("--target-model", target, "--content-type", "application/json"),
            *("--body", f"fileb://{tmp_path / 'rows.json'}", tmp_path / "answer.json"),
        )
        assert said["InvokedProductionVariant"] == "All"
        assert json.loads((tmp_path / "answer.json").read_text())["predictions"] == expected
    day = dt.timedelta(days=1)
    now = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None, microsecond=0)
    counted = aws_cli(
        *("cloudwatch", "get-metric-statistics", "--namespace", "AWS/SageMaker"),
        *("--metric-name", "Invocations", "--statistics", "Sum", "--period", "86400"),
        *("--start-time", (now - day).isoformat(), "--end-time", (now + day).isoformat()),
        *("--dimensions", f"Name=EndpointName,Value={deployed}", "Name=VariantName,Value=All"),
    )
    assert sum(point["Sum"] for point in counted["Datapoints"]) == 2


def test_the_containers_output_is_in_cloudwatch_logs(aws_cli, deployed):
    group = f"/aws/sagemaker/Endpoints/{deployed}"
    events = aws_cli("logs", "filter-log-events", "--log-group-name", group)["events"]
    assert events
    assert all(event["logStreamName"].startswith("All/") for event in events)


def test_the_cli_deletes_what_it_made(aws_cli):
    name = "made-and-gone"
    aws_cli(
        *("sagemaker", "create-model", "--model-name", name, "--execution-role-arn"),
        *("arn:aws:iam::123456789012:role/Rehearsal", "--primary-container", "Image=image"),
    )
    aws_cli("sagemaker", "delete-model", "--model-name", name)
    assert aws_cli("sagemaker", "list-models", "--name-contains", name)["Models"] == []
