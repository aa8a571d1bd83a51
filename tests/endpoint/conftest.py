"""A running endpoint service, and what a user of boto3 does with it."""

import dataclasses
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time

import boto3
import pytest
from botocore.config import Config

HERE = pathlib.Path(__file__).parent
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
REGION = "us-east-1"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclasses.dataclass
class Service:
    """A running endpoint service."""

    process: subprocess.Popen
    url: str
    folder: pathlib.Path
    log_path: pathlib.Path
    clients: dict = dataclasses.field(default_factory=dict)

    @staticmethod
    def wait_until(condition, seconds=20.0, what="the condition"):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
            time.sleep(0.02)
        return value

    @staticmethod
    def archive(files):
        """A .tar.gz of {name: bytes}."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    @staticmethod
    def echo_archive(**description):
        """A model of the small container."""
        return Service.archive({"model.json": json.dumps(description).encode()})

    @property
    def log(self):
        return self.log_path.read_text()

    def client(self, service, region=REGION, **config):
        key = (service, region, tuple(sorted(config.items(), key=str)))
        if key not in self.clients:
            self.clients[key] = boto3.client(
                service,
                region_name=region,
                endpoint_url=self.url,
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=Config(retries={"max_attempts": 0}, max_pool_connections=80, **config),
            )
        return self.clients[key]

    def put(self, key, body, bucket="models"):
        self.client("s3").create_bucket(Bucket=bucket)
        self.client("s3").put_object(Bucket=bucket, Key=key, Body=body)

    def describe_models(self, name, data_url="s3://models/", mode="MultiModel", **variants):
        """Create a model and an endpoint config of one name."""
        sagemaker = self.client("sagemaker")
        container = {"Image": IMAGE, "Mode": mode, "ModelDataUrl": data_url}
        container["Environment"] = variants.pop("environment", {})
        sagemaker.create_model(
            ModelName=name,
            ExecutionRoleArn="arn:aws:iam::123456789012:role/Rehearsal",
            PrimaryContainer=container,
        )
        variant = {
            "VariantName": "AllTraffic",
            "ModelName": name,
            "InstanceType": "ml.m6i.large",
            "InitialInstanceCount": variants.pop("instances", 1),
        }
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=variants.pop("variants", [variant])
        )

    def create_endpoint(self, name, **description):
        """Create model, config and endpoint of one name, and wait until it is in service."""
        self.describe_models(name, **description)
        sagemaker = self.client("sagemaker")
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        self.wait_for("endpoint_in_service", name)
        return name

    def wait_for(self, waiter, name):
        self.client("sagemaker").get_waiter(waiter).wait(
            EndpointName=name, WaiterConfig={"Delay": 0.05, "MaxAttempts": 600}
        )

    def invoke(self, endpoint, target=None, body=b"x", **more):
        if target is not None:
            more["TargetModel"] = target
        runtime = self.client("sagemaker-runtime", parameter_validation=False)
        return runtime.invoke_endpoint(EndpointName=endpoint, Body=body, **more)

    def seen(self, *arguments, **more):
        """What the small container saw of an invocation."""
        return json.loads(self.invoke(*arguments, **more)["Body"].read())

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(40)
        for client in self.clients.values():
            client.close()
        self.clients.clear()
        return code


def _start_service(folder, *options):
    """Start a service whose temporary files go below `folder`."""
    port = free_port()
    log_path = folder / "log.txt"
    state = folder / "tmp"
    state.mkdir()
    path = os.pathsep.join(
        [str(HERE.parents[1] / "packaging"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "service_process.py"), "--port", str(port), *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(state), "PYTHONPATH": path},
        )
    service = Service(process, f"http://127.0.0.1:{port}", state, log_path)

    def listens():
        assert process.poll() is None, service.log
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    Service.wait_until(listens, 60, "listening")
    return service


@pytest.fixture(scope="session")
def start_service():
    """A function that starts a service in a folder."""
    return _start_service


@pytest.fixture(scope="module")
def service_options():
    """Options of service_process.py; a module may define its own."""
    return []


@pytest.fixture(scope="module")
def service(service_options, start_service):
    """An endpoint service for the whole module."""
    with tempfile.TemporaryDirectory() as folder:
        running = start_service(pathlib.Path(folder), *service_options)
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture(scope="module")
def echo(service):
    """A multi-model endpoint in service, with a few models in its bucket."""
    for key in ("a.tar.gz", "b.tar.gz", "team/a.tar.gz"):
        service.put(key, service.echo_archive())
    return service.create_endpoint("echo", environment={"COLOUR": "blue"})
