"""A running `mme up` of its own folder, where images.json is, and what boto3 does with it."""

import dataclasses
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile
import time

import boto3
import pytest
from botocore.config import Config

HERE = pathlib.Path(__file__).parent


def archive(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@dataclasses.dataclass
class Service:
    """A running endpoint service."""

    process: subprocess.Popen
    url: str
    folder: pathlib.Path

    def images(self, **rules):
        write_images(self.folder, rules)

    @staticmethod
    def wait_until(condition, seconds=120.0):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"it did not come true within {seconds} s"
            time.sleep(0.02)
        return value

    @property
    def log(self):
        return (self.folder / "log.txt").read_text()

    def client(self, service):
        return boto3.client(
            service,
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}),
        )

    def describe(self, name, image, *, single=None, kind="ml.m5.large", **more):
        """Create model and config of one name."""
        sagemaker = self.client("sagemaker")
        mode = {"Mode": "MultiModel", "ModelDataUrl": "s3://models/"}
        if single is not None:
            mode = {"ModelDataUrl": f"s3://models/{single}"}
        sagemaker.create_model(
            ModelName=name,
            ExecutionRoleArn="arn:aws:iam::123456789012:role/Rehearsal",
            PrimaryContainer={"Image": image, "Environment": more.get("environment", {}), **mode},
            EnableNetworkIsolation=more.get("isolated", False),
        )
        instances = {"InstanceType": kind, "InitialInstanceCount": more.get("instances", 1)}
        if kind == "serverless":
            instances = {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 5}}
        variant = {"VariantName": "AllTraffic", "ModelName": name, **instances}
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])

    def create_endpoint(self, name, image, **more):
        """Create model, config and endpoint of one name; return its state once it has one."""
        self.describe(name, image, **more)
        sagemaker = self.client("sagemaker")
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)

        def settled():
            described = sagemaker.describe_endpoint(EndpointName=name)
            return described if described["EndpointStatus"] != "Creating" else None

        return self.wait_until(settled)

    def put(self, key, **files):
        s3 = self.client("s3")
        s3.create_bucket(Bucket="models")
        s3.put_object(Bucket="models", Key=key, Body=archive(**files))

    def invoke(self, endpoint, target=None, body=b"x", **more):
        if target is not None:
            more["TargetModel"] = target
        answer = self.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=endpoint, Body=body, **more
        )
        return answer["Body"].read()

    def seen(self, *arguments, **more):
        """What the echo container saw of an invocation."""
        return json.loads(self.invoke(*arguments, **more))

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(120)


def write_images(folder, rules):
    """Write images.json of repository=command or repository=(command, environment)."""
    listed = []
    for repository, rule in rules.items():
        command, environment = rule if isinstance(rule, tuple) else (rule, {})
        one = {"pattern": f"*/{repository}:*", "command": list(map(str, command))}
        listed.append({**one, "environment": environment} if environment else one)
    (folder / "images.json").write_text(json.dumps({"images": listed}))


def start_service(folder, *options, **variables):
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmekit.cli", "up", "--port", "0", *options],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(temporary), **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    service = Service(process, "", folder)

    def announced():
        assert process.poll() is None, service.log
        return re.search(r"listen on (http://[\d.:]+)", service.log)

    service.url = service.wait_until(announced)[1]
    return service


@pytest.fixture
def images(tmp_path):
    """A function that writes the images.json of `up`."""
    return lambda **rules: write_images(tmp_path, rules)


@pytest.fixture
def up(tmp_path):
    """A function that starts `mme up` in the folder of images.json."""
    running = []

    def start(*options, **variables):
        running.append(start_service(tmp_path, *options, **variables))
        return running[-1]

    yield start
    for service in running:
        service.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A service for a whole module; each test has `Service.images` say what it needs."""
    service = start_service(tmp_path_factory.mktemp("up"))
    yield service
    service.stop()


@pytest.fixture
def echo_command():
    """The command of the small container."""
    return ["python", HERE / "echo_container.py"]
