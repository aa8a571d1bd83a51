"""What the endpoint adds: the same requests to the container and through the endpoint, in turn."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil

from endpoint_runs.models import small_model
from endpoint_runs.service import BUCKET, running
from mmekit_bench import Destination, Load, LoadPlan, Payload, put_load
from mmekit_bench.load import is_wrk_installed, put_load_with_wrk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from endpoint_runs.service import Service

MODES = {"plain": "plain engine, 1 worker", "slots": "worker slots"}
_WARM_UP_S = 1


@dataclass(frozen=True)
class Overhead:
    """Loads of one kind of model at one number of connections; the middle of several each.

    Attributes
    ----------
    mode
        A key of `MODES`.
    ratio
        The middle of the rounds' ratios of throughput, endpoint to container.
    added_p50_ms, added_p99_ms
        Likewise of the differences of response times.
    cpu_us
        Processor time that the endpoint's process took for a request, in microseconds. It hardly
        depends on what else keeps the machine busy.
    """

    mode: str
    connections: int
    container: Load
    endpoint: Load
    ratio: float
    added_p50_ms: float
    added_p99_ms: float
    cpu_us: float


def measure_overhead(
    work: Path,
    connections: Sequence[int],
    seconds: int,
    rounds: int,
    say: Callable[[str], None],
) -> list[Overhead]:
    """Ask a ridge regression at its container and through the endpoint."""
    found = []
    with running(work) as service:
        service.create_model("overhead", f"s3://{BUCKET}/overhead/")
        service.create_endpoint(
            "overhead", {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        )
        for mode, title in MODES.items():
            direct, through = _plans(service, mode, work)
            for plan in (direct, through):
                _measure(plan, 8, _WARM_UP_S)
            for count in connections:
                say(f"overhead: {title}, {count} connections")
                used = _cpu_seconds(service)
                pairs = [
                    (_measure(direct, count, seconds), _measure(through, count, seconds))
                    for _ in range(rounds)
                ]
                used = _cpu_seconds(service) - used
                found.append(_middle(mode, count, pairs, used))
    return found


def _cpu_seconds(service: Service) -> float:
    times = psutil.Process(service.pid).cpu_times()
    return float(times.user + times.system)


def _plans(service: Service, mode: str, work: Path) -> tuple[LoadPlan, LoadPlan]:
    model = small_model("ridge", work, worker_slots=mode == "slots")
    key = f"{mode}.tar.gz"
    service.upload(model.archive, [f"overhead/{key}"], lambda: None)
    (container,) = service.containers()
    before = container.models()
    service.client("sagemaker-runtime").invoke_endpoint(
        EndpointName="overhead", TargetModel=key, ContentType="application/json", Body=model.request
    )["Body"].read()
    (name,) = container.models().keys() - before.keys()
    payload = Payload(model.request, "application/json")
    origin = f"http://127.0.0.1:{container.port}"
    return (
        LoadPlan(Destination(origin, path=f"/models/{name}/invoke"), payload, (name,)),
        LoadPlan(Destination(service.url, endpoint="overhead"), payload, (key,)),
    )


def _measure(plan: LoadPlan, connections: int, seconds: int) -> Load:
    plan = replace(plan, connections=connections, duration=float(seconds))
    return put_load_with_wrk(plan, seconds) if is_wrk_installed() else put_load(plan).load


def _middle(
    mode: str, connections: int, pairs: list[tuple[Load, Load]], cpu_seconds: float
) -> Overhead:
    by_throughput = sorted(
        pairs, key=lambda pair: pair[1].requests_per_second / pair[0].requests_per_second
    )
    container, endpoint = by_throughput[len(by_throughput) // 2]
    return Overhead(
        mode=mode,
        connections=connections,
        container=container,
        endpoint=endpoint,
        ratio=endpoint.requests_per_second / container.requests_per_second,
        added_p50_ms=statistics.median(via.p50_ms - alone.p50_ms for alone, via in pairs),
        added_p99_ms=statistics.median(via.p99_ms - alone.p99_ms for alone, via in pairs),
        cpu_us=cpu_seconds * 1e6 / sum(via.requests for _, via in pairs),
    )
