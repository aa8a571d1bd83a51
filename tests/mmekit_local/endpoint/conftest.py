"""A running endpoint service, and what a user of boto3 does with it; a fleet without a service."""

import asyncio
import dataclasses
import io
import itertools
import json
import os
import pathlib
import re
import signal
import sys
import tarfile
import tempfile
import time

import boto3
import psutil
import pytest
from botocore.config import Config

from mmekit_local.sagemaker import CommandLauncher, EndpointLimits, EndpointOptions
from mmekit_local.sagemaker.api import Caller
from mmekit_local.sagemaker.data_plane import DataPlane
from mmekit_local.sagemaker.errors import AwsError
from mmekit_local.sagemaker.event_log import EventLog
from mmekit_local.sagemaker.instances.fleet import Fleet
from mmekit_local.sagemaker.instances.launcher import launcher_named
from mmekit_local.sagemaker.observability.metrics import Metrics
from mmekit_local.sagemaker.specification import (
    EndpointId,
    EndpointSpecification,
    ModelSpecification,
    VariantSpecification,
)
from tests.mmekit_local.endpoint.browser import running_chromium
from tests.mmekit_local.endpoint.service_process import ServiceProcess

HERE = pathlib.Path(__file__).parent
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
REGION = "us-east-1"


@dataclasses.dataclass
class Service:
    """A running endpoint service."""

    process: ServiceProcess
    url: str
    folder: pathlib.Path
    log_path: pathlib.Path
    clients: dict = dataclasses.field(default_factory=dict)

    @staticmethod
    def wait_until(condition, seconds=120.0, what="the condition"):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
            time.sleep(0.02)
        return value

    @staticmethod
    def wait_for_the_end(processes):
        """Wait until processes run no more, be they zombies still."""

        def has_ended(process):
            try:
                return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return True

        Service.wait_until(lambda: all(map(has_ended, processes)), what="the processes' end")

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
            EndpointName=name, WaiterConfig={"Delay": 0.05, "MaxAttempts": 2400}
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
        code = self.process.wait(120)
        for client in self.clients.values():
            client.close()
        self.clients.clear()
        return code


def _start_service(folder, *options, **variables):
    """Start a service whose temporary files go below `folder`, unless a variable says otherwise."""
    log_path = folder / "log.txt"
    state = folder / "tmp"
    state.mkdir()
    path = os.pathsep.join(
        [str(HERE.parents[2] / "packaging"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    variables = {"TMPDIR": str(state), "PYTHONPATH": path, **variables}
    process = ServiceProcess(options, log_path, **variables)
    service = Service(process, "", state, log_path)

    def announced():
        assert process.poll() is None, service.log
        return re.search(r"listen on (http://[\d.:]+)", service.log)

    service.url = Service.wait_until(announced, what="an address")[1]
    return service


@pytest.fixture(scope="module")
def chromium():
    """A running Chromium."""
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def start_service():
    """A function that starts a service in a folder."""
    return _start_service


def one_after_the_other(folder, state):
    """Yield a function that starts services in a folder on one state; each kills the former."""
    numbers, running = itertools.count(1), []

    def begin():
        for old in running:
            old.stop(signal.SIGKILL)
        own = folder / str(next(numbers))
        own.mkdir()
        running.append(_start_service(own, "--state", str(state)))
        return running[-1]

    yield begin
    for service in running:
        service.stop()


@pytest.fixture
def start(tmp_path):
    """A function that starts one service after the other on the same state folder."""
    yield from one_after_the_other(tmp_path, tmp_path / "state")


@pytest.fixture(scope="module")
def service_options():
    """Options of service_program.py; a module may define its own."""
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


ENDPOINT = EndpointId("123456789012", REGION, "rehearsal")
CALLER = Caller(account="123456789012", region=REGION, service="sagemaker")


class Rehearsal:
    """A fleet in this process, asked through the data plane, with S3 a dictionary.

    `put` takes what model.json of the small container shall say, and bytes of padding that
    compress (`zeros`) or do not (`padding`).
    """

    def __init__(self, folder):
        self.folder = folder
        self.objects = {}
        self.reads = []
        self.event_log = EventLog()

    def put(self, *keys, **description):
        for key in keys:
            self.objects[f"models/{key}"] = archive_of(**description)

    def read(self, bucket, key):
        self.reads.append(key)
        return self.objects.get(f"{bucket}/{key}")

    @property
    def variant(self):
        return self.fleet.variants[0]

    def only_instance(self):
        (instance,) = self.fleet.snapshot().variants[0].instances
        return instance

    def events(self, kind):
        return [event for event in self.event_log.latest if event.kind == kind]

    def files(self):
        return sorted(str(path) for path in self.folder.rglob("models/*"))

    async def seen(self, target="", body=b"x", variant="AllTraffic"):
        """What the container saw of an invocation; AwsError for an error."""
        fields = {b"content-type": b"text/plain"}
        if target:
            fields[b"x-amzn-sagemaker-target-model"] = target.encode()
        if variant:
            fields[b"x-amzn-sagemaker-target-variant"] = variant.encode()
        reply = await self.plane.answer(CALLER, ENDPOINT.name, fields, body)
        content = json.loads(reply.body)
        if reply.status == 200:
            return content
        code = dict(reply.headers)[b"x-amzn-errortype"].decode()
        raise AwsError(reply.status, code, content["message"], content)

    @staticmethod
    async def until(condition, seconds=120.0):
        patience = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < patience, f"it did not come true within {seconds} s"
            await asyncio.sleep(0.01)
        return value


def archive_of(files=None, *, padding=0, zeros=0, noise=0, **description):
    contents = {"model.json": json.dumps(description).encode()} if files is None else files
    extra = {"padding": os.urandom(padding or noise), "zeros": b"\0" * zeros}
    return Service.archive({**contents, **{name: one for name, one in extra.items() if one}})


@pytest.fixture
def rehearse(tmp_path):
    """A function that starts a fleet, runs a story with it and stops it again."""

    def run(story, *, container="small", prepare=None, **how):
        rehearsal = Rehearsal(tmp_path / "fleet")
        rehearsal.put("a.tar.gz", "b.tar.gz", "only.tar.gz")
        if prepare is not None:
            prepare(rehearsal)
        asyncio.run(_tell(story, rehearsal, container, how))

    run.archive = archive_of
    return run


async def _tell(story, rehearsal, container, how):
    data_url = how.pop("data_url", "s3://models/")
    model = ModelSpecification(
        "model",
        data_url,
        multi_model=data_url.endswith("/"),
        environment=tuple(how.pop("environment", {}).items()),
        caches_models=how.pop("caches", True),
    )
    count, kind = how.pop("count", 1), how.pop("instance_type", "ml.m6i.large")
    serverless, memory = how.pop("serverless", None), how.pop("memory", None)
    more = how.pop("variant", {})
    variants = tuple(
        VariantSpecification(
            name, model, count, weight, None if serverless else kind, serverless=serverless, **more
        )
        for name, weight in how.pop("weights", {"AllTraffic": 1.0}).items()
    )
    options = EndpointOptions(memory=memory, limits=EndpointLimits(**how))
    small = CommandLauncher([sys.executable, str(HERE / "small_container.py")])
    fleet = rehearsal.fleet = Fleet(
        EndpointSpecification(ENDPOINT, "config", variants),
        options=options,
        launcher=small if container == "small" else launcher_named(container),
        read_object=rehearsal.read,
        folder=rehearsal.folder,
        metrics=Metrics(None),
        event_log=rehearsal.event_log,
    )
    rehearsal.plane = DataPlane({ENDPOINT: fleet}, options.limits)
    try:
        await fleet.start()
        await story(rehearsal)
    finally:
        await fleet.stop()
    assert not rehearsal.folder.exists()
