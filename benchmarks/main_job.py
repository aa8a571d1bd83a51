"""The figures of the main job: four model classes, cold and warm; one of them under load.

Needs the archives that ``make demo`` leaves, and some 45 seconds::

    .venv/bin/python benchmarks/main_job.py

Cold and warm latency are what boto3 sees at the local endpoint (`mme up`). Load is put on the
embedded server (`mme serve`) itself, by wrk when it is installed. Both are started here, on free
ports of loopback. Writes build/benchmarks/main_job.json and main_job.md; with --publish, README.md
as well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import Machine
from publishing import put_into_readme

from mmekit.archive import SampleRequest, read_package, unpack
from mmekit.settings import Settings
from mmekit_bench import Load, Target, measure
from mmekit_local.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
MODELS = (
    "linear_regression",
    "extra_trees_classifier",
    "multi_output_classifier",
    "setfit_classifier",
)
UNDER_LOAD = "linear_regression"
CONNECTIONS = (1, 8)

_START_S = 60
_STOP_S = 40
_POLL_S = 0.05
_WARM_UP_S = 2
_COLD_BUDGET_MS = 20_000


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one model class's calls.

    Attributes
    ----------
    first_ms
        The first call of the class: download, unpack, start a worker, import, load, answer.
    cold_ms
        Median of the first calls of further archives of that class, on the same instance.
    warm_ms, warm_p99_ms
        Median and 99th percentile of the later ones, one after another.
    """

    model: str
    first_ms: float
    cold_ms: float
    warm_ms: float
    warm_p99_ms: float


def main() -> int:
    """Measure, print and write; 1 when the archives are missing."""
    arguments = _arguments()
    missing = [name for name in MODELS if not _archive(arguments.archives, name).is_file()]
    if missing:
        print(f"{arguments.archives} lacks {', '.join(missing)}: run make demo", file=sys.stderr)
        return 1
    began = time.monotonic()
    machine = Machine.this()
    machine.warn_if_busy()
    latencies = _latencies(arguments.archives, arguments.cold_calls, arguments.warm_calls)
    loads = _loads(_archive(arguments.archives, UNDER_LOAD), arguments.seconds, arguments.tool)
    table = _table(machine, latencies, loads)
    print(f"\n{table}\nmeasured in {time.monotonic() - began:.0f} s")
    _write(arguments.output, machine, latencies, loads, table)
    if arguments.publish:
        put_into_readme("main_job", table)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--archives", type=Path, default=ROOT / "build" / "archives")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument(
        "--cold-calls", type=int, default=3, help="at most, a model class; each a new key"
    )
    parser.add_argument("--warm-calls", type=int, default=100, help="a model class")
    parser.add_argument("--seconds", type=int, default=5, help="of load for each measurement")
    parser.add_argument("--tool", choices=("wrk", "python"), default=None)
    parser.add_argument("--publish", action="store_true", help="put the tables into README.md")
    return parser.parse_args()


def _archive(folder: Path, model: str) -> Path:
    return folder / f"{model}.tar.gz"


def _sample(model: str) -> SampleRequest:
    sample = read_package(ROOT / "model_packages" / model).sample_request
    if sample is None:
        raise FileNotFoundError(f"{model} has no sample request")
    return sample


# Cold and warm, at the local endpoint.


def _latencies(archives: Path, cold_calls: int, warm_calls: int) -> list[Latency]:
    with _running("up") as url:
        settings = Settings(target="local", local_url=url)
        _create_endpoint(settings)
        found = []
        for model in MODELS:
            found.append(_latency(settings, archives, model, cold_calls, warm_calls))
            last = found[-1]
            print(f"{model}: first {last.first_ms:.0f}, cold {last.cold_ms:.0f} ms")
        return found


def _create_endpoint(settings: Settings) -> None:
    settings.client("s3").create_bucket(Bucket=settings.bucket)
    sagemaker = settings.client("sagemaker")
    name = settings.endpoint_name
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=settings.role,
        PrimaryContainer={
            "Image": settings.image_uri,
            "Mode": "MultiModel",
            "ModelDataUrl": settings.model_data_url,
        },
    )
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": name,
        "InstanceType": settings.instance_type,
        "InitialInstanceCount": 1,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    waiter = sagemaker.get_waiter("endpoint_in_service")
    waiter.wait(EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": _START_S})


def _latency(
    settings: Settings, archives: Path, model: str, cold_calls: int, warm_calls: int
) -> Latency:
    s3 = settings.client("s3")
    runtime = settings.client("sagemaker-runtime")
    sample = _sample(model)

    def invoke(target: str) -> float:
        began = time.perf_counter()
        answer = runtime.invoke_endpoint(
            EndpointName=settings.endpoint_name,
            TargetModel=target,
            ContentType=sample.content_type,
            Body=sample.body,
        )
        answer["Body"].read()
        return (time.perf_counter() - began) * 1000

    targets = [f"{model}-{number}.tar.gz" for number in range(cold_calls)]
    for target in targets:
        key = f"{settings.prefix}/{target}"
        s3.upload_file(str(_archive(archives, model)), settings.bucket, key)
    # The connection is made before the clock runs: what is measured is the model, not TCP.
    with contextlib.suppress(runtime.exceptions.ClientError):
        invoke("none.tar.gz")
    cold: list[float] = []
    for target in targets:
        cold.append(invoke(target))
        if sum(cold) > _COLD_BUDGET_MS:
            break
    warm = sorted(invoke(targets[0]) for _ in range(warm_calls))
    worst = warm[min(len(warm) - 1, int(0.99 * len(warm)))]
    further = statistics.median(cold[1:] or cold)
    return Latency(model, cold[0], further, statistics.median(warm), worst)


# Load, on the embedded server itself.


def _loads(archive: Path, seconds: int, tool: Any) -> list[Load]:
    with tempfile.TemporaryDirectory(prefix="mme-benchmark-") as name, _running("serve") as url:
        folder = Path(name).resolve() / "model"
        unpack(archive, folder)
        _post(f"{url}/models", json.dumps({"model_name": "m", "url": folder.as_uri()}).encode())
        sample = _sample(UNDER_LOAD)
        target = Target(f"{url}/models/m/invoke", sample.body, sample.content_type)
        found = []
        for connections in CONNECTIONS:
            measure(target, connections, _WARM_UP_S, tool)  # starts workers up to the maximum
            found.append(measure(target, connections, seconds, tool))
            print(f"{connections} connections: {found[-1].requests_per_second:,.0f} requests/s")
        return found


def _post(url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - on loopback
    try:
        urllib.request.urlopen(request, timeout=_START_S).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{url} answered {error.read().decode()}") from error


# Processes.


@contextlib.contextmanager
def _running(command: str) -> Iterator[str]:
    """Run a command of `mme` on a free port until the block ends; yield its URL."""
    port = free_port()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [sys.executable, "-m", "mmekit.cli", command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + _START_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"mme {command} did not start:\n{log.read()}")
                time.sleep(_POLL_S)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# What comes out.


def _table(machine: Machine, latencies: list[Latency], loads: list[Load]) -> str:
    lines = [
        f"Measured on {machine}.",
        "",
        "| model class, local endpoint | first call | cold | warm, median | warm, p99 |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one.model} | {one.first_ms:,.0f} ms | {one.cold_ms:,.0f} ms "
        f"| {one.warm_ms:.1f} ms | {one.warm_p99_ms:.1f} ms |"
        for one in latencies
    ]
    lines += [
        "",
        f"| {UNDER_LOAD}, embedded server | requests/s | p50 | p95 | p99 | errors |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one.connections} {'connection' if one.connections == 1 else 'connections'} "
        f"({one.tool}) | {one.requests_per_second:,.0f} "
        f"| {one.p50_ms:.2f} ms | {one.p95_ms:.2f} ms | {one.p99_ms:.2f} ms | {one.errors} |"
        for one in loads
    ]
    return "\n".join(lines) + "\n"


def _write(
    folder: Path, machine: Machine, latencies: list[Latency], loads: list[Load], table: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": asdict(machine),
        "latencies": [asdict(one) for one in latencies],
        "loads": [{**asdict(one), "requests_per_second": one.requests_per_second} for one in loads],
    }
    (folder / "main_job.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "main_job.md").write_text(table)


if __name__ == "__main__":
    sys.exit(main())
