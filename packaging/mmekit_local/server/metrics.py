"""What a server can tell about its models: requests, batches, times and memory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mmekit_local.server.memory import process_memory
from mmekit_local.server.slots import ParkingState, SlotWorker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mmekit_local.server.registry import Registry, ServedModel

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PER_MODEL = ("model",)
_PER_PROCESS = ("model", "pid")
_NANOSECONDS = 1e9


@dataclass(frozen=True)
class ProcessMetrics:
    """One process that answers for a model.

    Attributes
    ----------
    slots
        Workers that it stands behind; 1 for a process of the plain engine.
    requests, errors, calls, largest_batch
        Requests answered; those answered with an error; calls of the handler; requests of the
        largest call. 0 for the plain engine, which does not count.
    queue_s, predict_s, load_s, import_s
        Seconds: requests' wait in the process, calls of the handler, the load, model.py's import.
    private_bytes, proportional_bytes
        Its own memory, and with its share of what it shares.
    """

    pid: int
    slots: int
    requests: int
    errors: int
    calls: int
    largest_batch: int
    queue_s: float
    predict_s: float
    load_s: float
    import_s: float
    private_bytes: int
    proportional_bytes: int


def of_processes(model: ServedModel) -> list[ProcessMetrics]:
    """Return the figures of each process of a model, oldest first; for a thread to call."""
    slots: dict[int, int] = {}
    counters: dict[int, dict[str, int]] = {}
    # A copy, as this runs in a thread: workers come and go meanwhile.
    for worker in tuple(model.pool.workers):
        pid = worker.pid
        if pid is None:
            continue
        slots[pid] = slots.get(pid, 0) + 1
        if isinstance(worker, SlotWorker) and worker.scoreboard is not None and pid not in counters:
            with contextlib.suppress(ValueError):  # it has just been closed
                counters[pid] = worker.scoreboard.counters()
    return [_of_process(pid, number, counters.get(pid, {})) for pid, number in slots.items()]


def parking_of(model: ServedModel) -> ParkingState:
    """Return since when a model is parked, and how often it was parked and woken."""
    known = [one.parking for one in tuple(model.pool.workers) if isinstance(one, SlotWorker)]
    return max(known, key=lambda one: (one.parks + one.wakes, one.wakes), default=ParkingState())


def _of_process(pid: int, slots: int, counters: dict[str, int]) -> ProcessMetrics:
    def seconds(name: str) -> float:
        return counters.get(name, 0) / _NANOSECONDS

    memory = process_memory(pid)
    return ProcessMetrics(
        pid=pid,
        slots=slots,
        requests=counters.get("requests", 0),
        errors=counters.get("errors", 0),
        calls=counters.get("calls", 0),
        largest_batch=counters.get("largest_batch", 0),
        queue_s=seconds("queue_ns"),
        predict_s=seconds("predict_ns"),
        load_s=seconds("load_ns"),
        import_s=seconds("import_ns"),
        private_bytes=memory.private_bytes,
        proportional_bytes=memory.proportional_bytes,
    )


def prometheus_text(registry: Registry) -> bytes:
    """Return all figures in Prometheus' text format."""
    collected = CollectorRegistry()
    collected.register(_Collector(registry))
    return generate_latest(collected)


class _Collector:
    """Yields the metrics of a registry; prometheus_client's interface for one's own collector."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        models = list(self._registry)
        loaded = GaugeMetricFamily("mmekit_models", "Models that are loaded")
        loaded.add_metric((), len(models))
        yield loaded
        yield from _memory_metrics(self._registry)
        yield from _model_metrics(models)
        yield from _parking_metrics(models)
        yield from _process_metrics(models)


def _memory_metrics(registry: Registry) -> list[Metric]:
    memory = registry.memory
    limit = GaugeMetricFamily(
        "mmekit_memory_limit_bytes", "Memory that the server and its workers may use"
    )
    limit.add_metric((), memory.limit)
    loading = GaugeMetricFamily(
        "mmekit_memory_loading_bytes", "Memory that is kept for models that are being loaded"
    )
    loading.add_metric((), memory.loading)
    return [limit, loading]


def _model_metrics(models: Iterable[ServedModel]) -> list[Metric]:
    requests = CounterMetricFamily(
        "mmekit_requests", "Requests that the model's workers answered", labels=_PER_MODEL
    )
    refused = CounterMetricFamily(
        "mmekit_requests_refused",
        "Requests that no worker answered: queue full, worker dead, model unloaded",
        labels=_PER_MODEL,
    )
    waited = CounterMetricFamily(
        "mmekit_queue_seconds", "Time that requests waited for a worker", labels=_PER_MODEL
    )
    answered = CounterMetricFamily(
        "mmekit_worker_seconds", "Time that workers took to answer", labels=_PER_MODEL
    )
    queued = GaugeMetricFamily(
        "mmekit_requests_queued", "Requests that wait for a worker", labels=_PER_MODEL
    )
    workers = GaugeMetricFamily("mmekit_workers", "Workers that are ready", labels=_PER_MODEL)
    failed = GaugeMetricFamily(
        "mmekit_model_failed", "1 when the model is marked as failed", labels=_PER_MODEL
    )
    admitted = GaugeMetricFamily(
        "mmekit_model_admitted_bytes",
        "Memory for which the model was found to fit when it was loaded",
        labels=_PER_MODEL,
    )
    for model in models:
        name, pool = (model.name,), model.pool
        admitted.add_metric(name, model.admitted_bytes)
        requests.add_metric(name, pool.counters.answered)
        refused.add_metric(name, pool.counters.refused)
        waited.add_metric(name, pool.counters.queue_s)
        answered.add_metric(name, pool.counters.worker_s)
        queued.add_metric(name, pool.queued)
        workers.add_metric(name, len(pool.workers))
        failed.add_metric(name, pool.failed)
    return [requests, refused, waited, answered, queued, workers, failed, admitted]


def _parking_metrics(models: Iterable[ServedModel]) -> list[Metric]:
    parked = GaugeMetricFamily(
        "mmekit_model_parked", "1 while the model has slots and no process", labels=_PER_MODEL
    )
    parks = CounterMetricFamily(
        "mmekit_model_parks", "Times that the model gave back its process", labels=_PER_MODEL
    )
    wakes = CounterMetricFamily(
        "mmekit_model_wakes", "Times that a request woke the model", labels=_PER_MODEL
    )
    wake_s = CounterMetricFamily(
        "mmekit_model_wake_seconds", "Seconds that the wakes took", labels=_PER_MODEL
    )
    for model in models:
        name, parking = (model.name,), parking_of(model)
        parked.add_metric(name, parking.since > 0)
        parks.add_metric(name, parking.parks)
        wakes.add_metric(name, parking.wakes)
        wake_s.add_metric(name, parking.wake_s)
    return [parked, parks, wakes, wake_s]


def _process_metrics(models: Iterable[ServedModel]) -> list[Metric]:
    counters = {
        "requests": "Requests that the process answered",
        "errors": "Requests that the process answered with an error",
        "calls": "Calls of the handler, each for one or more requests",
        "queue_s": "Seconds that requests waited in the process",
        "predict_s": "Seconds that calls of the handler took",
    }
    gauges = {
        "slots": "Workers that the process stands behind",
        "largest_batch": "Requests of the largest call of the handler",
        "load_s": "Seconds that the load took",
        "private_bytes": "Memory of the process that it shares with none",
        "proportional_bytes": "Memory of the process with its share of what it shares",
    }
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for name, text in counters.items():
        full = f"mmekit_process_{_spelled(name)}"
        families[name] = CounterMetricFamily(full, text, labels=_PER_PROCESS)
    for name, text in gauges.items():
        full = f"mmekit_process_{_spelled(name)}"
        families[name] = GaugeMetricFamily(full, text, labels=_PER_PROCESS)
    used = GaugeMetricFamily(
        "mmekit_model_used_bytes",
        "Memory of the model's processes, with their share of what they share",
        labels=_PER_MODEL,
    )
    for model in models:
        processes = of_processes(model)
        used.add_metric((model.name,), sum(one.proportional_bytes for one in processes))
        for process in processes:
            for name, family in families.items():
                family.add_metric((model.name, str(process.pid)), getattr(process, name))
    return [*families.values(), used]


def _spelled(name: str) -> str:
    return f"{name[:-2]}_seconds" if name.endswith("_s") else name
