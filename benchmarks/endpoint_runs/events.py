"""What must come out exactly: first calls together, an instance killed, more clients than slots."""

from __future__ import annotations

import collections
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import botocore.exceptions

from endpoint_runs.models import small_model
from endpoint_runs.service import BUCKET, running, wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from endpoint_runs.models import SmallModel
    from endpoint_runs.service import Service

_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Together:
    """First calls to one model at the same moment: answers, downloads and loads."""

    calls: int
    answers: int
    downloads: float
    loads: float


@dataclass(frozen=True)
class Killed:
    """One of two instances killed under load.

    Attributes
    ----------
    in_flight
        Clients, each with one request under way: no more than these can have been on it.
    failed
        Requests without an answer of 200, by what was said.
    strength_s
        From the kill to two healthy containers; None when it took longer than was waited.
    """

    in_flight: int
    requests: int
    failed: dict[str, int]
    strength_s: float | None


@dataclass(frozen=True)
class Serverless:
    """More clients than MaxConcurrency: what they were told, without and with retries."""

    concurrency: int
    clients: int
    without_retries: dict[str, int]
    with_retries: dict[str, int]


def first_calls(work: Path, calls: int) -> Together:
    """Ask a model that nobody has asked, many times at once."""
    model = small_model("extra trees", work)
    with running(work) as service:
        _multi_model(service, "together", model, 1)
        answers = _at_once(service, "together", "model.tar.gz", model.request, calls)
        return Together(
            calls,
            answers.get("200", 0),
            service.metric("together", "ModelDownloadingTime")["SampleCount"],
            service.metric("together", "ModelLoadingTime")["SampleCount"],
        )


def kill_one(work: Path, clients: int, seconds: float) -> Killed:
    """Kill one of two instances while both are asked; wait until there are two again."""
    model = small_model("ridge", work)
    with running(work) as service:
        _multi_model(service, "killed", model, 2)
        runtime = service.client("sagemaker-runtime", connections=clients)
        ended = threading.Event()
        told: collections.Counter[str] = collections.Counter()

        for number in range(8):
            told[_told(runtime, "killed", f"model{number}.tar.gz", model.request)] += 1

        def ask_on(number: int) -> None:
            while not ended.is_set():
                told[_told(runtime, "killed", f"model{number % 8}.tar.gz", model.request)] += 1

        with ThreadPoolExecutor(clients) as pool:
            asking = [pool.submit(ask_on, number) for number in range(clients)]
            try:
                time.sleep(seconds)
                before = service.containers()
                os.kill(before[0].pid, signal.SIGKILL)
                strength = _seconds_to_full_strength(service, before[0].pid)
                time.sleep(seconds)
            finally:
                ended.set()
            for one in asking:
                one.result()
    good = told.pop("200", 0)
    return Killed(clients, good + sum(told.values()), dict(told), strength)


def serverless(work: Path, concurrency: int, clients: int) -> Serverless:
    """Ask a serverless endpoint of a model that takes its time, by more clients than it allows."""
    model = _sleeper(work)
    with running(work) as service:
        service.upload(model.archive, ["serverless/model.tar.gz"], lambda: None)
        service.create_model(
            "serverless", f"s3://{BUCKET}/serverless/model.tar.gz", multi_model=False
        )
        service.create_endpoint(
            "serverless",
            {"ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": concurrency}},
        )
        once = _at_once(service, "serverless", None, model.request, clients)
        again = _at_once(service, "serverless", None, model.request, clients, attempts=100)
    return Serverless(concurrency, clients, once, again)


def _multi_model(service: Service, name: str, model: SmallModel, instances: int) -> None:
    keys = ["model.tar.gz", *(f"model{number}.tar.gz" for number in range(8))]
    service.upload(model.archive, [f"{name}/{key}" for key in keys], lambda: None)
    service.create_model(name, f"s3://{BUCKET}/{name}/")
    service.create_endpoint(
        name, {"InstanceType": "ml.m5.large", "InitialInstanceCount": instances}
    )


def _at_once(
    service: Service,
    endpoint: str,
    target: str | None,
    body: bytes,
    calls: int,
    attempts: int = 1,
) -> dict[str, int]:
    runtime = service.client("sagemaker-runtime", attempts, calls)
    gate = threading.Barrier(calls)

    def ask(_: int) -> str:
        gate.wait()
        return _told(runtime, endpoint, target, body)

    with ThreadPoolExecutor(calls) as pool:
        return dict(collections.Counter(pool.map(ask, range(calls))))


def _told(runtime: Any, endpoint: str, target: str | None, body: bytes) -> str:
    given = {} if target is None else {"TargetModel": target}
    try:
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint, ContentType="application/json", Body=body, **given
        )
        answer["Body"].read()
    except botocore.exceptions.ClientError as error:
        return str(error.response["Error"]["Code"])
    except botocore.exceptions.BotoCoreError as error:
        return type(error).__name__
    return "200"


def _seconds_to_full_strength(service: Service, killed: int) -> float | None:
    from endpoint_runs.service import ServiceFailure

    def is_whole() -> bool:
        return len([one for one in service.containers() if one.pid != killed]) == 2  # noqa: PLR2004

    try:
        return wait_until(is_whole, _PATIENCE_S, "a second instance")
    except ServiceFailure:
        return None


def _sleeper(work: Path) -> SmallModel:
    """Pack a model that takes three seconds, so that all clients are there at once."""
    import json

    from endpoint_runs.models import SmallModel
    from mmekit.archive import pack

    folder = work / "sleeper"
    package, artifacts = folder / "package", folder / "artifacts"
    package.mkdir(parents=True)
    artifacts.mkdir()
    (artifacts / "seconds.json").write_text("3.0")
    (package / "model.py").write_text(_SLEEPER)
    (package / "serving.properties").write_text(
        "engine=Python\nminWorkers=100\nmaxWorkers=100\njob_queue_size=1000\n"
    )
    request = json.dumps({"instances": [[1.0]]}).encode()
    (package / "sample_request.json").write_bytes(request)
    archive = folder / "model.tar.gz"
    pack(package, artifacts, archive)
    return SmallModel("sleeper", archive, request)


_SLEEPER = '''"""Answers after three seconds."""

import json
import time

from mmekit_runtime import Handler


class Sleeper(Handler):
    def load(self, folder):
        return json.loads((folder / "seconds.json").read_text())

    def predict(self, model, rows, parameters):
        time.sleep(model)
        return rows.sum(axis=1)


handle = Sleeper()
'''
