"""What the page shows, as JSON: all endpoints at one moment, their last minutes, events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mmekit_local.sagemaker.journal import Event
    from mmekit_local.sagemaker.observability.latency import SeriesPoint
    from mmekit_local.sagemaker.observability.metrics import VariantMetrics
    from mmekit_local.sagemaker.observability.watch import Watch
    from mmekit_local.sagemaker.snapshot import (
        EndpointStatus,
        InstanceSnapshot,
        ModelSnapshot,
        VariantSnapshot,
    )
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["event_members", "state_members"]

_ROWS = 200  # models of an instance that are listed: the last used; the others are only counted

Members = dict[str, Any]


def state_members(
    watch: Watch, statuses: Callable[[], Sequence[EndpointStatus]], *, history: bool
) -> Members:
    """Return all endpoints as JSON's types.

    Parameters
    ----------
    watch
        Knows those in service.
    statuses
        Returns all that exist.
    history
        Whether each variant's last minutes are asked for, or only its last second.
    """
    fleets = watch.look()
    endpoints = []
    for status in statuses():
        fleet = fleets.get(status.id)
        endpoints.append(
            {
                "account": status.id.account,
                "region": status.id.region,
                "name": status.id.name,
                "status": status.status,
                "reason": status.failure_reason,
                "config": status.config_name,
                "variants": [
                    _variant(watch, status.id, variant, history=history)
                    for variant in (() if fleet is None else fleet.variants)
                ],
            }
        )
    return {"at": time.time(), "endpoints": endpoints}


def event_members(event: Event) -> Members:
    """Return an event as JSON's types."""
    return {
        "number": event.number,
        "at": event.at,
        "kind": event.kind,
        "where": event.where,
        "target": event.target,
        "text": event.text,
        "milliseconds": event.milliseconds,
    }


def _variant(
    watch: Watch, endpoint: EndpointId, variant: VariantSnapshot, *, history: bool
) -> Members:
    series = watch.series(endpoint, variant.name).seconds
    seconds = list(series) if history else list(series)[-1:]
    return {
        "name": variant.name,
        "weight": variant.weight,
        "multiModel": variant.multi_model,
        "instanceType": variant.instance_type,
        "totals": _totals(watch.metrics.variant(endpoint, variant.name)),
        "seconds": [_second(second) for second in seconds],
        "instances": [_instance(instance) for instance in variant.instances],
    }


def _totals(metrics: VariantMetrics) -> Members:
    return {
        "invocations": metrics.invocations.ever,
        "errors": metrics.errors,
        "lookups": metrics.cache_hit.ever,
        "hits": metrics.cache_hit.total_ever,
        "coldLoads": metrics.loading.ever,
        "evictions": metrics.unloading.ever,
    }


def _second(second: SeriesPoint) -> list[float | None]:
    """Return a second as a row, for there are hundreds."""
    return [
        round(second.at, 1),
        round(second.rate, 1),
        round(second.errors, 1),
        *(None if ms is None else round(ms, 3) for ms in (second.p50, second.p95, second.p99)),
    ]


def _instance(instance: InstanceSnapshot) -> Members:
    listed = [model for model in instance.models if model.state != "on disk"]
    resting = [model for model in instance.models if model.state == "on disk"]
    listed.sort(key=lambda model: model.idle_s)
    return {
        "label": instance.label,
        "state": instance.state,
        "pid": instance.pid,
        "memory": instance.memory_bytes,
        "memoryLimit": instance.memory_limit,
        "disk": instance.disk_bytes,
        "diskLimit": instance.disk_limit,
        "cpu": round(instance.cpu_percent, 1),
        "inFlight": instance.in_flight,
        "loaded": len(listed),
        "onDisk": len(resting),
        "models": _models(listed[:_ROWS]),
    }


def _models(models: Iterable[ModelSnapshot]) -> list[Members]:
    return [
        {
            "target": model.target,
            **_state(model),
            "memory": model.memory_bytes,
            "disk": model.disk_bytes,
            "age": round(model.age_s, 1),
            "idle": round(model.idle_s, 1),
            "inFlight": model.in_flight,
            "invocations": model.invocations,
        }
        for model in models
    ]


def _state(model: ModelSnapshot) -> Members:
    """Return a model's state; since when it is parked, and how often it was woken, where told."""
    parking = model.parking
    if parking is None:
        return {"state": model.state, "parkedAt": None, "wakes": None}
    state = model.state if parking.since is None else "parked"
    return {"state": state, "parkedAt": parking.since, "wakes": parking.wakes}
