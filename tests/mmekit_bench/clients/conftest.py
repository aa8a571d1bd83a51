"""A running endpoint service with a serverless endpoint, and the function that asks it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

from tests.mmekit_local.endpoint.conftest import Service, _start_service

ROOT = Path(__file__).parents[3]
LAMBDA = ROOT / "infrastructure" / "lambda" / "app.py"


@pytest.fixture(scope="session")
def service():
    """An endpoint service with small containers, which hold a call as its body says."""
    with tempfile.TemporaryDirectory() as folder:
        running = _start_service(Path(folder))
        running.put("only.tar.gz", Service.echo_archive())
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture(scope="session")
def create_endpoint(service):
    """A function that creates a serverless endpoint."""

    def create(name, concurrency):
        variant = {
            "VariantName": "AllTraffic",
            "ModelName": name,
            "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": concurrency},
        }
        return service.create_endpoint(
            name, data_url="s3://models/only.tar.gz", mode="SingleModel", variants=[variant]
        )

    return create


@pytest.fixture(scope="session")
def create_function(service):
    """A function that creates the Lambda function of infrastructure/lambda."""
    iam = service.client("iam")
    role = iam.create_role(RoleName="functions", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(LAMBDA, LAMBDA.name)

    def create(name, timeout=600, **variables):
        service.client("lambda").create_function(
            FunctionName=name,
            Role=role,
            Runtime="python3.12",
            Handler="app.handler",
            Timeout=timeout,
            MemorySize=512,
            Code={"ZipFile": buffer.getvalue()},
            Environment={"Variables": variables},
        )
        return name

    return create


@dataclasses.dataclass
class Run:
    """A running `mme clients`, asking for what holds until `release`."""

    service: Service
    process: subprocess.Popen
    output: Path
    gate: Path

    def release(self):
        self.gate.touch()

    def rows(self, clients):
        """The rows that are in the table of so many clients now."""
        paths = list(self.output.glob(f"*_{clients}.csv"))
        return read_table(paths[0]) if paths else []

    def wait_for_rows(self, clients, count):
        def there():
            assert self.process.poll() is None, self.process.communicate()
            return len(self.rows(clients)) >= count

        self.service.wait_until(there, 180, f"{count} rows")

    def end(self):
        """The exit code and what was printed."""
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out, err


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def start(service, tmp_path):
    """A function that starts `mme clients`."""
    started = []

    def start(*arguments, output=None, body=None):
        gate, output = tmp_path / "gate", output or tmp_path / "results"
        data = tmp_path / "request.json"
        data.write_text(json.dumps({"hold": str(gate)} if body is None else body))
        kept = {name: os.environ[name] for name in os.environ if not name.startswith("MME_")}
        files = ["--data", str(data), "--output", str(output)]
        process = subprocess.Popen(
            [sys.executable, "-m", "mmekit.cli", "clients", *arguments, *files],
            env={**kept, "MME_LOCAL_URL": service.url, "COLUMNS": "200"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return Run(service, process, output, gate)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def throttled(service):
    """A function that waits until so many calls of an endpoint have been refused."""

    def count(endpoint):
        found = service.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName="Invocation4XXErrors",
            Dimensions=[
                {"Name": "EndpointName", "Value": endpoint},
                {"Name": "VariantName", "Value": "AllTraffic"},
            ],
            StartTime=time.time() - 3600,
            EndTime=time.time() + 3600,
            Period=86400,
            Statistics=["Sum"],
        )
        return sum(point["Sum"] for point in found["Datapoints"])

    def wait(endpoint, refused):
        service.wait_until(lambda: count(endpoint) >= refused, 180, f"{refused} refusals")

    return wait
