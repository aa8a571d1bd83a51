"""Two dozen models of other kinds: initialised without code, packed, and served by one endpoint.

Each of 200 rows is a request of its own, from 16 callers at once who ask all models in turn; every
answer has to be what the library itself answers.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config

from mmekit_local.ports import free_port
from tests.zero_code.models import KINDS, Kind

CALLERS = 16
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
}

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.timeout(1800),
    # Libraries warn while they train; what is tested is what they answer.
    pytest.mark.filterwarnings("ignore"),
]


def mme(folder: Path, *arguments: object) -> str:
    """Run a command in a folder that is not this repository."""
    done = subprocess.run(
        [sys.executable, "-m", "mmekit.cli", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Kind]:
    """Train all models."""
    chosen = os.environ.get("MMEKIT_TEST_KINDS")
    names = chosen.split(",") if chosen else list(KINDS)
    return {name: KINDS[name](tmp_path_factory.mktemp(name)) for name in names}


@pytest.fixture(scope="module")
def archives(kinds, tmp_path_factory) -> dict[str, Path]:
    """Initialise and pack all of them."""
    folder = tmp_path_factory.mktemp("project")
    found = {}
    for name, kind in kinds.items():
        example = () if kind.example is None else ("--example", kind.example)
        mme(folder, "init", name, "--artifact", kind.artifact, *example, *kind.options)
        archive = folder / f"{name}.tar.gz"
        package = Path("model_packages") / name
        mme(folder, "check", package)
        artifacts = Path("build/artifacts") / name
        mme(folder, "pack", package, "--artifacts", artifacts, "-o", archive)
        found[name] = archive
    return found


@pytest.fixture(scope="module")
def runtime(archives, tmp_path_factory):
    """Serve all of them by one endpoint."""
    port = free_port()
    folder = tmp_path_factory.mktemp("service")
    service = subprocess.Popen(
        [sys.executable, "-m", "mmekit.cli", "up", "--port", str(port)],
        cwd=folder,
        env={**os.environ, **OFFLINE},
        stdout=(folder / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: urllib.request.urlopen(f"{url}/_mme/", timeout=5))

        def client(service: str) -> Any:
            return boto3.client(
                service,
                endpoint_url=url,
                region_name="eu-north-1",
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=Config(retries={"total_max_attempts": 1}, max_pool_connections=CALLERS),
            )

        create_endpoint(client, archives)
        yield client("sagemaker-runtime")
    finally:
        service.send_signal(signal.SIGINT)
        assert service.wait(timeout=60) is not None


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            condition()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def create_endpoint(client, archives: dict[str, Path]) -> None:
    s3, sagemaker = client("s3"), client("sagemaker")
    s3.create_bucket(
        Bucket="models", CreateBucketConfiguration={"LocationConstraint": "eu-north-1"}
    )
    for name, archive in archives.items():
        s3.upload_file(str(archive), "models", f"all/{name}.tar.gz")
    sagemaker.create_model(
        ModelName="all",
        ExecutionRoleArn="arn:aws:iam::123456789012:role/all",
        PrimaryContainer={
            "Image": "763104351884.dkr.ecr.eu-north-1.amazonaws.com/djl-inference:0.36.0-cpu-full",
            "Mode": "MultiModel",
            "ModelDataUrl": "s3://models/all/",
        },
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName="all",
        ProductionVariants=[
            {
                "VariantName": "all",
                "ModelName": "all",
                "InstanceType": "ml.m5.2xlarge",
                "InitialInstanceCount": 1,
            }
        ],
    )
    sagemaker.create_endpoint(EndpointName="all", EndpointConfigName="all")
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName="all", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )


def equals(answer: Any, expected: Any, tolerance: float) -> bool:
    """Whether two answers are the same, numbers within a tolerance."""
    if isinstance(expected, list):
        return (
            isinstance(answer, list)
            and len(answer) == len(expected)
            and all(equals(a, e, tolerance) for a, e in zip(answer, expected, strict=True))
        )
    if isinstance(expected, float) and isinstance(answer, (int, float)):
        return math.isclose(answer, expected, rel_tol=tolerance, abs_tol=tolerance)
    return answer == expected


def test_every_model_answers_every_row_as_its_library_does(kinds, archives, runtime):
    def ask(name: str, place: int) -> str | None:
        kind = kinds[name]
        answer = runtime.invoke_endpoint(
            EndpointName="all",
            TargetModel=f"{name}.tar.gz",
            ContentType="application/json",
            Body=json.dumps({"instances": [kind.rows[place]]}),
        )
        found = json.loads(answer["Body"].read())["predictions"]
        expected = kind.expected[place]
        if equals(found, [expected], kind.tolerance):
            return None
        return f"{name}, row {place}: {found} instead of {[expected]}"

    # Loaded one after the other; then all at once, in an order of no meaning.
    for name in kinds:
        assert ask(name, 0) is None
    questions = [(name, place) for name, kind in kinds.items() for place in range(len(kind.rows))]
    np.random.default_rng(7).shuffle(questions)
    with ThreadPoolExecutor(CALLERS) as callers:
        wrong = [said for said in callers.map(lambda one: ask(*one), questions) if said]

    assert len(questions) == 200 * len(kinds)
    assert not wrong
