"""A running endpoint service, and stacks on it as boto3's users deploy them."""

import contextlib
import dataclasses
import io
import json
import pathlib
import re
import tarfile
import tempfile
import time

import boto3
import pytest
from botocore.config import Config

from tests.mmekit_local.endpoint.service_process import ServiceProcess

ROOT = pathlib.Path(__file__).parents[2]
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
REGION = "us-east-1"


@dataclasses.dataclass
class Local:
    """The endpoint service, with containers that echo."""

    process: ServiceProcess
    url: str
    clients: dict = dataclasses.field(default_factory=dict)

    def client(self, service, region=REGION):
        if (service, region) not in self.clients:
            self.clients[service, region] = boto3.client(
                service,
                region_name=region,
                endpoint_url=self.url,
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=Config(retries={"max_attempts": 0}),
            )
        return self.clients[service, region]

    @property
    def environment(self):
        """What a command needs in order to speak to it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def create(self, stack, template, **parameters):
        """Create a stack; return what DescribeStacks says when nothing moves any more."""
        self.client("cloudformation").create_stack(
            StackName=stack,
            TemplateBody=text_of(template),
            Parameters=as_parameters(parameters),
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        return self.settled(stack)

    def update(self, stack, template, **parameters):
        self.client("cloudformation").update_stack(
            StackName=stack,
            TemplateBody=text_of(template),
            Parameters=as_parameters(parameters),
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        return self.settled(stack)

    def delete(self, stack):
        identifier = self.describe(stack)["StackId"]
        self.client("cloudformation").delete_stack(StackName=stack)
        return self.settled(identifier)

    def settled(self, stack):
        return until(
            lambda: (
                (found := self.describe(stack))
                and not found["StackStatus"].endswith("IN_PROGRESS")
                and found
            )
        )

    def describe(self, stack):
        [found] = self.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        return found

    def outputs(self, stack):
        return {one["OutputKey"]: one["OutputValue"] for one in self.describe(stack)["Outputs"]}

    def events(self, stack):
        """(logical id, status, reason), the oldest first."""
        found = self.client("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]
        return [
            (one["LogicalResourceId"], one["ResourceStatus"], one.get("ResourceStatusReason", ""))
            for one in reversed(found)
        ]

    def seen(self, endpoint, **more):
        """What the echoing container saw of an invocation."""
        runtime = self.client("sagemaker-runtime")
        answer = runtime.invoke_endpoint(EndpointName=endpoint, Body=b"x", **more)
        return json.loads(answer["Body"].read())

    def put(self, bucket, *keys):
        """Put archives of the echoing container into a bucket."""
        for key in keys:
            self.client("s3").put_object(Bucket=bucket, Key=key, Body=echo_archive())


def until(condition, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not come true within {seconds} s"
        time.sleep(0.05)
    return value


def text_of(template):
    if isinstance(template, pathlib.Path):
        return template.read_text()
    return template if isinstance(template, str) else json.dumps(template)


def as_parameters(values):
    return [{"ParameterKey": name, "ParameterValue": str(value)} for name, value in values.items()]


def echo_archive(**description):
    """A model of the echoing container."""
    content, buffer = json.dumps(description).encode(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("model.json")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def templates():
    """Return the folder of the CloudFormation templates."""
    return ROOT / "infrastructure" / "cloudformation"


@pytest.fixture(scope="session")
def local():
    """An endpoint service for all tests of a worker."""
    with tempfile.TemporaryDirectory() as folder, start_service(pathlib.Path(folder)) as running:
        yield running


@contextlib.contextmanager
def start_service(folder, *options):
    """Run a service whose log goes below `folder`."""
    log_path = folder / "log.txt"
    process = ServiceProcess(options, log_path)

    def announced():
        text = log_path.read_text()
        assert process.poll() is None, text
        return re.search(r"listen on (http://[\d.:]+)", text)

    local = None
    try:
        local = Local(process, until(announced)[1])
        yield local
    finally:
        process.terminate()
        process.wait(60)
        for client in local.clients.values() if local else ():
            client.close()
