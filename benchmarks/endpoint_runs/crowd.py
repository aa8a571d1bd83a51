"""Many more models than fit into memory, asked at a fixed rate; against an ideal cache."""

from __future__ import annotations

import base64
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from slot_runs import servers

from endpoint_runs.models import CLASSES, small_models
from endpoint_runs.service import BUCKET, ServiceFailure, running
from mmekit.archive import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from endpoint_runs.models import SmallModel
    from endpoint_runs.service import Service

PERCENTILES = (50.0, 99.0, 99.9)
INSTANCES = 2
_ENDPOINT = "crowd"
_PROBED = 12
_POLL_S = 2.0
_OK = 200
_MIB = 1 << 20


@dataclass(frozen=True)
class Crowd:
    """What came of one kind of traffic.

    Attributes
    ----------
    traffic
        ``Zipf`` or ``uniform``.
    rate
        Arrivals a second.
    fitted
        Models in memory on all instances together, from when they were full: the median.
    hit_rate
        The share of requests that needed no load: all but the loads of CloudWatch's
        ModelLoadingTime. Who joins a load under way needs none of its own.
    warm_rate
        ModelCacheHit of CloudWatch: the share of requests whose model was in memory at once.
    ideal_hit_rate
        Of one LRU cache of `fitted` models on the same trace.
    loads
        Models loaded, from CloudWatch.
    cold_ms, warm_ms
        Response times from when a request was due, at `PERCENTILES`; cold is whoever waited for a
        load.
    slices
        For the plot: seconds, and each slice's 50 % and 99 % in milliseconds.
    """

    traffic: str
    models: int
    rate: float
    seconds: float
    requests: int
    errors: int
    statuses: dict[str, int]
    memory_mib: float
    fitted: float
    hit_rate: float
    warm_rate: float
    ideal_hit_rate: float
    loads: float
    cold: int
    cold_ms: tuple[float, ...]
    warm_ms: tuple[float, ...]
    slices: tuple[tuple[float, float, float], ...]


def ideal_hits(trace: Sequence[float], capacity: int) -> float:
    """Return the share of a trace that one least-recently-used cache answers from memory."""
    kept: OrderedDict[float, None] = OrderedDict()
    hits = 0
    for model in trace:
        if model in kept:
            hits += 1
            kept.move_to_end(model)
            continue
        if len(kept) == capacity:
            kept.popitem(last=False)
        kept[model] = None
    return hits / len(trace)


def run_crowds(
    work: Path,
    count: int,
    fitting: int,
    seconds: float,
    rates: dict[str, float],
    say: Callable[[str], None],
) -> Iterator[Crowd]:
    """Ask `count` models of four classes, of which about `fitting` fit, with each traffic.

    Every traffic has a service of its own, which begins with nothing loaded.
    """
    say("crowd: training and packing four models")
    models = small_models(work)
    memory = _memory_for(models, fitting // INSTANCES, work, say)
    for traffic, rate in rates.items():
        with running(work, "--memory", str(memory)) as service:
            _upload(service, models, count, lambda n: say(f"crowd: {n} of {count} uploaded"))
            service.create_model(_ENDPOINT, f"s3://{BUCKET}/crowd/")
            service.create_endpoint(
                _ENDPOINT, {"InstanceType": "ml.m5.large", "InitialInstanceCount": INSTANCES}
            )
            _warm_up(service, models)
            say(f"crowd: {traffic}, {rate:g} arrivals a second for {seconds:g} s")
            yield _run(service, models, count, traffic, rate, seconds, memory, work)


def _memory_for(
    models: list[SmallModel], fitting: int, work: Path, say: Callable[[str], None]
) -> int:
    """Return the bytes with which a container takes about that many models.

    From loading a few and some more, in turn of all classes, into a server as the endpoint has it.
    """
    say("crowd: measuring what a model takes")
    folders = []
    for number in range(3 * _PROBED):
        folder = work / "probe" / f"m{number}"
        folder.parent.mkdir(exist_ok=True)
        unpack(models[number % len(models)].archive, folder)
        folders.append(folder)
    sizes = []
    with servers.running("embedded") as server:
        for number, folder in enumerate(folders, 1):
            server.load(folder.name, folder)
            server.invoke(
                folder.name, models[(number - 1) % len(models)].request, "application/json"
            )
            if number in (_PROBED, 3 * _PROBED):
                sizes.append(servers.of_server(server).proportional)
    marginal = (sizes[1] - sizes[0]) / (2 * _PROBED)
    return int(sizes[0] + marginal * (fitting - _PROBED))


def _upload(
    service: Service, models: list[SmallModel], count: int, said: Callable[[int], None]
) -> None:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done % 100 == 0:
            said(done)

    for place, model in enumerate(models):
        keys = [f"crowd/m{number}.tar.gz" for number in range(place, count, len(models))]
        service.upload(model.archive, keys, advance)


def _warm_up(service: Service, models: list[SmallModel]) -> None:
    """Have both instances import what models need: that is the machine's affair, not a cache's."""
    runtime = service.client("sagemaker-runtime")
    for place, model in enumerate(models):
        key = f"warm{place}.tar.gz"
        service.upload(model.archive, [f"crowd/{key}"], lambda: None)
        for _ in range(2):
            runtime.invoke_endpoint(
                EndpointName=_ENDPOINT,
                TargetModel=key,
                ContentType="application/json",
                Body=model.request,
            )["Body"].read()


def _run(
    service: Service,
    models: list[SmallModel],
    count: int,
    traffic: str,
    rate: float,
    seconds: float,
    memory: int,
    work: Path,
) -> Crowd:
    arrivals = int(rate * seconds)
    # The most popular first; which one that is has nothing to do with its class.
    order = np.random.default_rng(0).permutation(count)
    plan, found = work / f"{traffic}.json", work / f"{traffic}.npy"
    requests = [_request(service, models, number) for number in order]
    plan.write_text(
        json.dumps(
            {
                "port": service.port,
                "requests": [base64.b64encode(one).decode() for one in requests],
                "distribution": traffic.lower(),
                "rate": rate,
                "arrivals": arrivals,
            }
        )
    )
    hits_before = service.metric(_ENDPOINT, "ModelCacheHit")
    loads_before = service.metric(_ENDPOINT, "ModelLoadingTime")
    with _Counting(service) as counting:
        program = Path(__file__).with_name("arrivals.py")
        finished = subprocess.run(
            [sys.executable, str(program), str(plan), str(found)],
            capture_output=True,
            text=True,
            check=False,
        )
    if finished.returncode != 0:
        raise ServiceFailure(f"arrivals.py failed: {finished.stderr}")
    answers = np.load(found)
    statuses, counts = np.unique(answers[:, 3].astype(int), return_counts=True)
    waited = _waited_for_load(answers)
    good = answers[:, 3] == _OK
    hit = service.metric(_ENDPOINT, "ModelCacheHit")
    loaded = service.metric(_ENDPOINT, "ModelLoadingTime")
    loads = loaded["SampleCount"] - loads_before["SampleCount"]
    return Crowd(
        traffic=traffic,
        models=count,
        rate=rate,
        seconds=seconds,
        requests=arrivals,
        errors=int((~good).sum()),
        statuses={str(one): int(number) for one, number in zip(statuses, counts, strict=True)},
        memory_mib=memory / _MIB,
        fitted=counting.fitted,
        hit_rate=1 - loads / arrivals,
        warm_rate=(hit["Sum"] - hits_before["Sum"]) / arrivals,
        ideal_hit_rate=ideal_hits(answers[:, 0].tolist(), max(1, round(counting.fitted))),
        loads=loads,
        cold=int((waited & good).sum()),
        cold_ms=_percentiles(answers[waited & good, 2]),
        warm_ms=_percentiles(answers[~waited & good, 2]),
        slices=_slices(answers),
    )


def _request(service: Service, models: list[SmallModel], number: int) -> bytes:
    model = models[number % len(CLASSES)]
    url, headers = service.signed(_ENDPOINT, f"m{number}.tar.gz", model.request)
    path = url.removeprefix(service.url)
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{service.port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(model.request)}", "", ""]
    return "\r\n".join(lines).encode() + model.request


def _waited_for_load(answers: np.ndarray) -> np.ndarray:
    """Say of each arrival whether it waited for a load: its own, or another's of that model."""
    waited = answers[:, 4] == 1
    for place in np.flatnonzero(waited):
        model, due, taken = answers[place, :3]
        together = (answers[:, 0] == model) & (answers[:, 1] >= due)
        waited |= together & (answers[:, 1] < due + taken)
    return waited


def _percentiles(seconds: np.ndarray) -> tuple[float, ...]:
    if not len(seconds):
        return tuple(float("nan") for _ in PERCENTILES)
    return tuple(float(one) * 1000 for one in np.percentile(seconds, PERCENTILES))


def _slices(answers: np.ndarray, number: int = 60) -> tuple[tuple[float, float, float], ...]:
    edges = np.linspace(0, answers[-1, 1], number + 1)
    found = []
    for start, stop in itertools.pairwise(edges):
        times = answers[(answers[:, 1] >= start) & (answers[:, 1] < stop), 2]
        if len(times):
            p50, p99 = np.percentile(times, (50, 99)) * 1000
            found.append((float(start), float(p50), float(p99)))
    return tuple(found)


class _Counting:
    """Counts the models in memory now and then, in a thread."""

    def __init__(self, service: Service) -> None:
        self._containers = service.containers()
        self._counts: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> _Counting:  # noqa: PYI034  Self came with Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def fitted(self) -> float:
        """The median of the second half, by when memory is full."""
        return statistics.median(self._counts[len(self._counts) // 2 :] or [0])

    def _count(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(_POLL_S - (time.monotonic() - began) % _POLL_S):
            self._counts.append(sum(len(one.models()) for one in self._containers))
