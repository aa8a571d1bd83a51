"""The serverless stacks of infrastructure/cloudformation/, deployed by deploy.sh."""

import json
import os
import shutil
import subprocess

import pytest

from .conftest import IMAGE, echo_archive

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.timeout(900),  # the AWS CLI takes its time on a busy machine
]

needs_aws = pytest.mark.skipif(shutil.which("aws") is None, reason="there is no AWS CLI on PATH")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "model.tar.gz"
    path.write_bytes(echo_archive())
    return path


@pytest.fixture(scope="module")
def run(local, templates):
    """A function that runs deploy.sh against the local service."""

    def started(*arguments):
        return subprocess.run(
            ["bash", str(templates / "deploy.sh"), *map(str, arguments)],
            env={**os.environ, **local.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return started


@needs_aws
def test_deploy_sh_deploys_both_stacks_and_deletes_them(local, run, archive):
    more = ("--model", archive, "--image", IMAGE)
    done = run("deploy", *more, "--", "MaxConcurrency=7", "MaxAttempts=0")
    assert done.returncode == 0, done.stderr
    outputs = dict(line.split("\t") for line in done.stdout.splitlines())
    described = local.client("sagemaker").describe_endpoint(EndpointName=outputs["EndpointName"])
    [variant] = described["ProductionVariants"]
    assert variant["CurrentServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 7}
    assert "environment" in local.seen(outputs["EndpointName"])

    answer = local.client("lambda").invoke(
        FunctionName=outputs["FunctionName"],
        Payload=json.dumps({"body": {"instances": [[1]]}}).encode(),
    )
    said = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, said
    assert said["retries"] == 0
    assert "prediction" in said

    again = run("deploy", *more, "--", "MaxConcurrency=8", "MaxAttempts=0")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("is there") == 2
    config = local.client("sagemaker").describe_endpoint(EndpointName=outputs["EndpointName"])
    assert config["ProductionVariants"][0]["CurrentServerlessConfig"]["MaxConcurrency"] == 8

    gone = run("delete")
    assert gone.returncode == 0, gone.stderr
    assert "Nothing of serverless-benchmark is left." in gone.stderr
    # Other tests of this worker may have endpoints on the same service.
    left = local.client("sagemaker").list_endpoints(NameContains=outputs["EndpointName"])
    assert left["Endpoints"] == []
