"""Unmodified AWS clients against `mme up`, which only environment variables point at it."""

import dataclasses
import fcntl
import hashlib
import importlib.util
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

import boto3
import pytest
from botocore.config import Config

from mmekit.archive import pack
from mmekit.aws_environment import STARTUP
from tests.real_account import RealAccount, real_account

HERE = pathlib.Path(__file__).parent
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
ROLE = "arn:aws:iam::123456789012:role/Rehearsal"
HANDLER = """
from mmekit_runtime import Handler


class ScaledSums(Handler):
    def load(self, folder):
        return float((folder / "scale.txt").read_text())

    def predict(self, scale, rows, parameters):
        return rows.sum(axis=1) * scale


handle = ScaledSums()
"""
OFFLINE = re.compile(r"fetch|connect|network|timed out|dns|offline", re.IGNORECASE)

collect_ignore = ["programs"]  # they import what only their own environments have


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """A running `mme up`."""

    url: str
    environment: dict
    """What tells a client where AWS is, and keeps it from going anywhere else."""
    archives: dict
    """Packed models by the factor that they multiply sums with: {1: path, 10: path}."""
    log_path: pathlib.Path
    home: pathlib.Path
    outside: RealAccount
    """Hears what a client asks of anybody but the rehearsal."""

    image = IMAGE
    role = ROLE

    @property
    def log(self):
        return self.log_path.read_text()

    def client(self, service, **config):
        """A boto3 client for setting the stage; tests make theirs as users do."""
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=self.environment["AWS_DEFAULT_REGION"],
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=Config(**config),
        )

    def run(self, *command, **more):
        """Run a client's program to its end, with nothing of this process's own settings."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        done = subprocess.run(
            [str(part) for part in command],
            env={**kept, **self.environment, "HOME": str(self.home), "PYTHONWARNINGS": "ignore"},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **more,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self.log}"
        return done.stdout

    def describe(self, name, data_url="s3://models/", mode="MultiModel", **container):
        """Create a model and an endpoint config of one name."""
        sagemaker = self.client("sagemaker")
        sagemaker.create_model(
            ModelName=name,
            ExecutionRoleArn=ROLE,
            PrimaryContainer={
                "Image": IMAGE,
                "Mode": mode,
                "ModelDataUrl": data_url,
                **container,
            },
        )
        variant = {
            "VariantName": "AllTraffic",
            "ModelName": name,
            "InstanceType": "ml.m5.large",
            "InitialInstanceCount": 1,
        }
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])

    def create(self, name, **described):
        """Create an endpoint, and its model and config, and wait until it is in service."""
        self.describe(name, **described)
        sagemaker = self.client("sagemaker")
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 1000}
        )
        return name


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """Models that sum a row and multiply the sum, packed as a user packs them, by the factor."""
    folder = tmp_path_factory.mktemp("packages")
    package = folder / "scaled_sums"
    package.mkdir()
    (package / "model.py").write_text(HANDLER)
    (package / "serving.properties").write_text("engine=Python\nminWorkers=1\nmaxWorkers=1\n")
    (package / "sample_request.json").write_text('{"instances": [[1, 2]]}')
    packed = {}
    for scale in (1, 10):
        artifacts = folder / f"artifacts-{scale}"
        artifacts.mkdir()
        (artifacts / "scale.txt").write_text(str(scale))
        packed[scale] = pack(package, artifacts, folder / f"times{scale}.tar.gz").path
    return packed


@pytest.fixture(scope="session")
def rehearsal(archives):
    """`mme up` as a user starts it, with two models in the bucket `models`."""
    with tempfile.TemporaryDirectory() as name, real_account() as outside:
        folder = pathlib.Path(name)
        for part in ("tmp", "home"):
            (folder / part).mkdir()
        log_path = folder / "log.txt"
        command = [pathlib.Path(sys.executable).with_name("mme"), "up", "--port", "0"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MME_"))}
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | {"TMPDIR": str(folder / "tmp")},
            )
        try:
            running = _announced(process, log_path, folder / "home", archives, outside)
            s3 = running.client("s3")
            s3.create_bucket(Bucket="models")
            for scale, path in archives.items():
                s3.upload_file(str(path), "models", f"times{scale}.tar.gz")
            yield running
        finally:
            process.terminate()
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _announced(process, log_path, home, archives, outside):
    deadline = time.monotonic() + 180
    while not (found := re.search(r"listen on (http://[\d.:]+)", log_path.read_text())):
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline, "mme up announced no address"
        time.sleep(0.02)
    (home / "none").touch()
    environment = {
        "AWS_ENDPOINT_URL": found[1],
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PYTHONPATH": str(STARTUP),
        # From here on: whatever is on this machine stays out, and nothing leaves it.
        "AWS_CONFIG_FILE": str(home / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "HTTP_PROXY": outside.url,
        "HTTPS_PROXY": outside.url,
        "NO_PROXY": "127.0.0.1,localhost",
    }
    return Rehearsal(found[1], environment, archives, log_path, home, outside)


@pytest.fixture(scope="session")
def team(rehearsal):
    """A multi-model endpoint in service, one for all these tests."""
    return rehearsal.create("team")


@pytest.fixture(scope="session")
def lone(rehearsal):
    """A single-model endpoint in service, which multiplies by ten."""
    return rehearsal.create("lone", data_url="s3://models/times10.tar.gz", mode="SingleModel")


@pytest.fixture
def aws(rehearsal, monkeypatch):
    """The rehearsal, and this process's environment set up as a user's shell would be."""
    for name, value in rehearsal.environment.items():
        monkeypatch.setenv(name, value)
    boto3.DEFAULT_SESSION = None
    yield rehearsal
    boto3.DEFAULT_SESSION = None
    urllib.request.install_opener(None)  # the one that urlopen keeps knows the proxies of above


@pytest.fixture(scope="session")
def python_with(root):
    """A function that returns the Python of an environment with what a lock file names.

    Environments stay in build/ from one run to the next. Without a network and without them the
    tests that ask for one are skipped.
    """

    def python_with(name):
        lock = HERE / "environments" / f"{name}.lock"
        made_of = f"{platform.platform()} {sys.version}".encode() + lock.read_bytes()
        digest = hashlib.sha256(made_of).hexdigest()[:12]
        folder = root / "build" / "client-environments" / f"{name}-{digest}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # tests run in more than one process
            if not (folder / "complete").exists():
                _make_environment(folder, lock)
        return folder / "bin" / "python"

    return python_with


def _make_environment(folder, lock):
    if importlib.util.find_spec("uv") is None:
        pytest.skip(f"no uv (the extra `setup`) to make an environment of {lock.name} with")
    uv = [sys.executable, "-m", "uv", "--quiet"]
    for arguments in (
        ["venv", "--clear", "--python", sys.executable, str(folder)],
        ["pip", "install", "--python", str(folder), "--require-hashes", "-r", str(lock)],
    ):
        done = subprocess.run([*uv, *arguments], capture_output=True, text=True, check=False)
        if done.returncode and ("UV_OFFLINE" in os.environ or OFFLINE.search(done.stderr)):
            said = " ".join(done.stderr.split())
            pytest.skip(f"the packages of {lock.name} cannot be fetched: {said[:200]}")
        assert done.returncode == 0, done.stderr
    (folder / "complete").touch()
