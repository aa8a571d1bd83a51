"""The figures of the main job: four model classes, cold and warm; one of them under load.

Needs the archives that ``make demo`` leaves, and some 45 seconds::

    .venv/bin/python benchmarks/main_job.py

Cold and warm latency are what boto3 sees at the local endpoint (`mme up`). Load is put on the
embedded server (`mme serve`) itself, by wrk when it is installed. Both are started here, on free
ports of loopback. Writes build/benchmarks/main_job.json and main_job.md; with --publish,
docs/benchmarks.md as well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from endpoint_runs import service
from endpoint_runs.service import BUCKET
from reporting import LOAD_COLUMNS, Conditions, put_into_figures, table, under_load
from slot_runs import servers

from mmekit.archive import SampleRequest, read_package, unpack
from mmekit_bench import Load, Target, measure

if TYPE_CHECKING:
    from endpoint_runs.service import Service

ROOT = Path(__file__).resolve().parent.parent
MODELS = (
    "linear_regression",
    "extra_trees_classifier",
    "multi_output_classifier",
    "setfit_classifier",
)
UNDER_LOAD = "linear_regression"
CONNECTIONS = (1, 8)

_ENDPOINT = "main-job"
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
    machine = Conditions.this()
    machine.warn_if_busy()
    latencies = _latencies(arguments.archives, arguments.cold_calls, arguments.warm_calls)
    loads = _loads(_archive(arguments.archives, UNDER_LOAD), arguments.seconds, arguments.tool)
    text = _tables(machine, latencies, loads)
    print(f"\n{text}\nmeasured in {time.monotonic() - began:.0f} s")
    _write(arguments.output, machine, latencies, loads, text)
    if arguments.publish:
        put_into_figures("main_job", text)
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
    parser.add_argument(
        "--publish", action="store_true", help="put the tables into docs/benchmarks.md"
    )
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
    with (
        tempfile.TemporaryDirectory(prefix="mme-benchmark-") as name,
        # Models take as many threads as they take for a user.
        service.running(Path(name).resolve(), environment={}) as up,
    ):
        up.create_model(_ENDPOINT, f"s3://{BUCKET}/{_ENDPOINT}/")
        up.create_endpoint(_ENDPOINT, {"InstanceType": "ml.m5.xlarge", "InitialInstanceCount": 1})
        found = []
        for model in MODELS:
            found.append(_latency(up, archives, model, cold_calls, warm_calls))
            last = found[-1]
            print(f"{model}: first {last.first_ms:.0f}, cold {last.cold_ms:.0f} ms")
        return found


def _latency(up: Service, archives: Path, model: str, cold_calls: int, warm_calls: int) -> Latency:
    runtime = up.client("sagemaker-runtime")
    sample = _sample(model)

    def invoke(target: str) -> float:
        began = time.perf_counter()
        answer = runtime.invoke_endpoint(
            EndpointName=_ENDPOINT,
            TargetModel=target,
            ContentType=sample.content_type,
            Body=sample.body,
        )
        answer["Body"].read()
        return (time.perf_counter() - began) * 1000

    targets = [f"{model}-{number}.tar.gz" for number in range(cold_calls)]
    up.upload(
        _archive(archives, model), [f"{_ENDPOINT}/{target}" for target in targets], lambda: None
    )
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
    with (
        tempfile.TemporaryDirectory(prefix="mme-benchmark-") as name,
        servers.running("embedded") as server,
    ):
        folder = Path(name).resolve() / "m"
        unpack(archive, folder)
        server.load("m", folder)
        sample = _sample(UNDER_LOAD)
        target = Target(server.url("m"), sample.body, sample.content_type)
        found = []
        for connections in CONNECTIONS:
            measure(target, connections, _WARM_UP_S, tool)  # starts workers up to the maximum
            found.append(measure(target, connections, seconds, tool))
            print(f"{connections} connections: {found[-1].requests_per_second:,.0f} requests/s")
        return found


# What comes out.


def _tables(machine: Conditions, latencies: list[Latency], loads: list[Load]) -> str:
    calls = [
        (
            one.model,
            *(f"{value:,.0f} ms" for value in (one.first_ms, one.cold_ms)),
            *(f"{value:.1f} ms" for value in (one.warm_ms, one.warm_p99_ms)),
        )
        for one in latencies
    ]
    under = [
        (
            f"{one.connections} connection{'s' if one.connections > 1 else ''} ({one.tool})",
            *under_load(one),
        )
        for one in loads
    ]
    return "\n".join(
        (
            f"Measured on {machine}.\n",
            table(
                ("model class, local endpoint",),
                ("first call", "cold", "warm, median", "warm, p99"),
                calls,
            ),
            table((f"{UNDER_LOAD}, embedded server",), LOAD_COLUMNS, under),
        )
    )


def _write(
    folder: Path, machine: Conditions, latencies: list[Latency], loads: list[Load], text: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": asdict(machine),
        "latencies": [asdict(one) for one in latencies],
        "loads": [{**asdict(one), "requests_per_second": one.requests_per_second} for one in loads],
    }
    (folder / "main_job.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "main_job.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
