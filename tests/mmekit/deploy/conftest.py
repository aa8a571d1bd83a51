"""A running endpoint service, and `mme` as its user types it."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
import time

import boto3
import botocore.session
import pytest
from botocore.config import Config
from typer.testing import CliRunner

from mmekit_local.ports import free_port
from tests.mmekit_local.endpoint.service_process import ServiceProcess

HERE = pathlib.Path(__file__).parent
REGION = "us-east-1"
ACCOUNT = "123456789012"


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not come true within {seconds} s"
        time.sleep(0.02)
    return value


def archive(**description):
    """A model of the small container, as a .tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        content = json.dumps(description).encode()
        info = tarfile.TarInfo("model.json")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="session", autouse=True)
def _service_models_are_read_once():
    """boto3 reads them anew for each client, which takes most of a run's time."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.lru_cache(botocore.session.create_loader)
        patch.setattr(botocore.session, "create_loader", once)
        yield


@dataclasses.dataclass
class Service:
    """A running endpoint service."""

    process: ServiceProcess
    url: str
    log_path: pathlib.Path
    clients: dict = dataclasses.field(default_factory=dict)

    def client(self, name, **config):
        key = (name, *config)
        if key not in self.clients:
            chosen = {"retries": {"max_attempts": 0}, "max_pool_connections": 40} | config
            self.clients[key] = boto3.client(
                name,
                region_name=REGION,
                endpoint_url=self.url,
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=Config(**chosen),
            )
        return self.clients[key]

    def invoke(self, endpoint, target, body=b"x"):
        answer = self.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=endpoint, TargetModel=target, Body=body
        )
        return json.loads(answer["Body"].read())

    def described(self, endpoint):
        return self.client("sagemaker").describe_endpoint(EndpointName=endpoint)

    def names(self, of=""):
        """Everything that deployments make, by kind; `of` is in each of the names."""
        sagemaker, s3 = self.client("sagemaker"), self.client("s3")
        buckets = [one["Name"] for one in s3.list_buckets()["Buckets"]]
        found = {
            "buckets": buckets,
            "objects": [
                f"{bucket}/{one['Key']}"
                for bucket in buckets
                for one in s3.list_objects_v2(Bucket=bucket).get("Contents", [])
            ],
            "roles": [one["RoleName"] for one in self.client("iam").list_roles()["Roles"]],
            "models": [one["ModelName"] for one in sagemaker.list_models()["Models"]],
            "configs": [
                one["EndpointConfigName"]
                for one in sagemaker.list_endpoint_configs()["EndpointConfigs"]
            ],
            "endpoints": [one["EndpointName"] for one in sagemaker.list_endpoints()["Endpoints"]],
            "scaled": [
                one["ResourceId"]
                for one in self.client("application-autoscaling").describe_scalable_targets(
                    ServiceNamespace="sagemaker"
                )["ScalableTargets"]
            ],
            "alarms": [
                one["AlarmName"]
                for one in self.client("cloudwatch").describe_alarms()["MetricAlarms"]
            ],
        }
        return {kind: [name for name in names if of in name] for kind, names in found.items()}

    def stop(self):
        self.process.terminate()
        self.process.wait(40)
        for client in self.clients.values():
            client.close()


@pytest.fixture(scope="module")
def container():
    """What the service's containers are; a module may say otherwise."""
    return "small"


@pytest.fixture(scope="module")
def surroundings():
    """Variables of the service's environment; a module may name some."""
    return {}


@pytest.fixture(scope="module")
def limits():
    """Limits of the service, such as busy_requests=1; a module may name some."""
    return ()


@contextlib.contextmanager
def running_service(container, surroundings, limits=()):
    """Run a service."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = pathlib.Path(name), free_port()
        log_path = folder / "log.txt"
        options = ["--port", str(port), "--container", container, "--limits", *limits]
        process = ServiceProcess(options, log_path, TMPDIR=name, **surroundings)
        running = Service(process, f"http://127.0.0.1:{port}", log_path)

        def listens():
            assert process.poll() is None, log_path.read_text()
            return "serving" in log_path.read_text() or str(port) in log_path.read_text()

        try:
            wait_until(listens)
            yield running
        finally:
            running.stop()


@pytest.fixture(scope="module")
def service(container, surroundings, limits):
    """A service for the whole module."""
    with running_service(container, surroundings, limits) as running:
        yield running


@pytest.fixture(scope="session")
def shared_service():
    """A service for all modules that leave nothing behind."""
    with running_service("small", {}) as running:
        yield running


@dataclasses.dataclass
class Desk:
    """A folder with a deployment file, and `mme` run in it."""

    folder: pathlib.Path
    url: str

    def write(self, text, name="mme.yaml"):
        (self.folder / name).write_text(textwrap.dedent(text))

    def put(self, name, content):
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    def pack(self, name, **description):
        self.put(name, archive(**description))

    def contents(self):
        """Every file: {path: bytes}."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files}

    def restore(self, contents):
        for path in self.contents().keys() - contents.keys():
            path.unlink()
        for path, content in contents.items():
            path.write_bytes(content)

    def variables(self, **variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return kept | {"MME_LOCAL_URL": self.url, "COLUMNS": "200"} | variables

    def start(self, *arguments, program=("-m", "mmekit.cli"), **variables):
        """Start a program in the folder, `mme` unless told otherwise."""
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=self.folder,
            env=self.variables(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, **variables):
        """Run `mme` in this process: its imports take longer than all that it does."""
        from mmekit.cli import app

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patch.delenv(name)
            for name, value in self.variables(**variables).items():
                patch.setenv(name, value)
            return CliRunner().invoke(app, list(arguments), prog_name="mme")

    def mme(self, *arguments, **variables):
        """Run `mme`, which has to succeed; return what it prints."""
        done = self.run(*arguments, **variables)
        assert done.exit_code == 0, done.stdout + done.stderr
        return done.stdout

    def planned(self, *arguments, **variables):
        """Run `mme deploy --plan`, which has to say whether something would change; the plan."""
        done = self.run("deploy", "--plan", *arguments, **variables)
        would_change = any(line[:2] in ("+ ", "~ ", "- ") for line in done.stdout.splitlines())
        assert done.exit_code == (2 if would_change else 0), done.stdout + done.stderr
        return done.stdout

    def refused(self, *arguments, **variables):
        """Run `mme`, which has to refuse; return what it says."""
        done = self.run(*arguments, **variables)
        assert done.exit_code == 1, done.stdout + done.stderr
        return done.stderr

    def killed(self, *arguments):
        """Run `mme` until nothing is left to do, each run killed after its first change."""
        with self.start(*arguments, program=(str(HERE / "killed_runs.py"),)) as process:
            watchdog = threading.Timer(500, process.kill)
            watchdog.start()
            _, told = process.communicate()
            watchdog.cancel()
        assert told.endswith("exit 0\n"), told
        return told.split("\n")[:-2]


@pytest.fixture
def desk(service, tmp_path):
    """A folder to work in."""
    return Desk(tmp_path, service.url)


@pytest.fixture
def nothing_left(service):
    """After the test, the service has what it had before."""
    before = service.names()
    yield
    assert service.names() == before


def changes(output):
    """The lines of a plan that change something: {what is named: action}."""
    lines = [line[2:] for line in output.splitlines() if line[:2] in ("+ ", "~ ", "- ")]
    return {line.split(None, 1)[1].split(" (")[0]: line.split()[0] for line in lines}


@pytest.fixture
def deployed(standing):
    """What a file's own `standing` has deployed, whatever the test before has made of it."""
    before = standing.contents()
    yield standing
    if standing.contents() != before:
        standing.restore(before)
        standing.mme("deploy")
