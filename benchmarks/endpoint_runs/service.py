"""The local endpoint service, as `mme up` runs it, and boto3's clients of it."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psutil
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from mmekit_local.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REGION = "us-east-1"
BUCKET = "benchmark"
_IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full"
_ROLE = "arn:aws:iam::123456789012:role/Benchmark"
_START_S = 60.0
_STOP_S = 60.0
_POLL_S = 0.02
_TAIL = 4000
# Of the shell that started this; the servers must decide for themselves.
_DROPPED = ("MMEKIT_WORKER_SLOTS", "MMEKIT_SLOTS_DIR", "MMEKIT_SLOTS_IDLE_S")


_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


class ServiceFailure(Exception):  # noqa: N818  it is the service's
    """The service did not do what it should; the text says what it said."""


@dataclass(frozen=True)
class ContainerProcess:
    """A container of the service: its process and the port at which it listens."""

    pid: int
    port: int

    def models(self) -> dict[str, str]:
        """Return the folders of the models that it has loaded, by name."""
        found: dict[str, str] = {}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
            start: str | None = "0"
            while start is not None:
                connection.request("GET", f"/models?limit=100&next_page_token={start}")
                page = json.loads(connection.getresponse().read())
                found |= {one["modelName"]: one["modelUrl"] for one in page["models"]}
                start = page.get("nextPageToken")
        return found


@dataclass(frozen=True)
class Service:
    """A running service."""

    port: int
    pid: int
    log: Path
    _clients: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, name: str, attempts: int = 1, connections: int = 10) -> Any:
        """Return a client of boto3 that asks so many times at most."""
        key = f"{name}-{attempts}-{connections}"
        if key not in self._clients:
            self._clients[key] = boto3.client(
                name,
                region_name=REGION,
                endpoint_url=self.url,
                aws_access_key_id="local",
                aws_secret_access_key="local",  # noqa: S106  nobody checks it
                config=Config(
                    retries={"total_max_attempts": attempts, "mode": "standard"},
                    max_pool_connections=connections,
                    read_timeout=120,
                ),
            )
        return self._clients[key]

    def create_model(self, name: str, data_url: str, *, multi_model: bool = True) -> None:
        """Create a SageMaker model."""
        container = {"Image": _IMAGE, "ModelDataUrl": data_url}
        if multi_model:
            container["Mode"] = "MultiModel"
        self.client("sagemaker").create_model(
            ModelName=name, ExecutionRoleArn=_ROLE, PrimaryContainer=container
        )

    def create_endpoint(self, name: str, variant: dict[str, Any]) -> None:
        """Create an endpoint with one variant of the model of its name; wait for it."""
        sagemaker = self.client("sagemaker")
        sagemaker.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[{"VariantName": "AllTraffic", "ModelName": name, **variant}],
        )
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        waiter = sagemaker.get_waiter("endpoint_in_service")
        waiter.wait(EndpointName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 600})

    def upload(self, archive: Path, keys: list[str], advance: Callable[[], object]) -> None:
        """Put one archive under many keys of `BUCKET`."""
        s3, body = self.client("s3"), archive.read_bytes()
        for key in keys:
            s3.put_object(Bucket=BUCKET, Key=key, Body=body)
            advance()

    def containers(self) -> list[ContainerProcess]:
        """Return the containers that listen."""
        found = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children():
                with contextlib.suppress(psutil.Error):
                    ports = [
                        one.laddr.port
                        for one in child.net_connections(kind="tcp")
                        if one.status == psutil.CONN_LISTEN
                    ]
                    found += [ContainerProcess(child.pid, port) for port in ports[:1]]
        return found

    def metric(
        self, endpoint: str, name: str, namespace: str = "AWS/SageMaker"
    ) -> dict[str, float]:
        """Return Sum and SampleCount of one of an endpoint's metrics in CloudWatch."""
        now = dt.datetime.now(dt.timezone.utc)
        hours = dt.timedelta(hours=1)
        points = self.client("cloudwatch").get_metric_statistics(
            Namespace=namespace,
            MetricName=name,
            Dimensions=[
                {"Name": "EndpointName", "Value": endpoint},
                {"Name": "VariantName", "Value": "AllTraffic"},
            ],
            StartTime=now - hours,
            EndTime=now + hours,
            Period=7200,
            Statistics=["Sum", "SampleCount"],
        )["Datapoints"]
        return {
            kind: sum((point[kind] for point in points), 0.0) for kind in ("Sum", "SampleCount")
        }

    def signed(self, endpoint: str, target: str | None, body: bytes) -> tuple[str, dict[str, str]]:
        """Return the URL and the headers of an InvokeEndpoint, as boto3 would sign them."""
        url = f"{self.url}/endpoints/{endpoint}/invocations"
        headers = {"Content-Type": "application/json", "User-Agent": "Boto3 benchmark"}
        if target is not None:
            headers["X-Amzn-SageMaker-Target-Model"] = target
        request = AWSRequest("POST", url, data=body, headers=headers)
        SigV4Auth(Credentials("local", "local"), "sagemaker", REGION).add_auth(request)
        return url, dict(request.headers.items())

    def said(self) -> str:
        """Return the end of the log."""
        return self.log.read_text(errors="replace")[-_TAIL:]


@contextlib.contextmanager
def running(
    work: Path, *options: str, environment: Mapping[str, str] = _ENVIRONMENT
) -> Iterator[Service]:
    """Run `mme up` on a free port of loopback until the block ends; `BUCKET` is there.

    Parameters
    ----------
    environment
        Further variables of it; otherwise models take one thread each, as in the image.
    """
    port = free_port()
    log = Path(tempfile.mkstemp(prefix="service-", suffix=".log", dir=work)[1])
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmekit.cli", "up", "--port", str(port), *options],
            env={**kept, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    service = Service(port, process.pid, log)
    try:
        wait_until(
            lambda: process.poll() is not None or _listens(port), _START_S, "mme up listening"
        )
        if process.poll() is not None:
            raise ServiceFailure(f"mme up ended with {process.returncode}:\n{service.said()}")
        service.client("s3").create_bucket(Bucket=BUCKET)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for a condition; return the seconds that it took.

    Raises
    ------
    ServiceFailure
        It did not come true in time.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise ServiceFailure(f"{what} did not come true within {seconds:g} s")
        time.sleep(_POLL_S)
    return time.monotonic() - began


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
