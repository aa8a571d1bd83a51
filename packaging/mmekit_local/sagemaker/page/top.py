"""What an endpoint knows of its models, for `mme top` and the page: GET /_mme/top?endpoint=NAME.

Nothing is measured for it: it is put together from what is there, in a few milliseconds for
thousands of models.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mmekit_local.sagemaker.aws_client import locate
from mmekit_local.sagemaker.observability.targets import WINDOW_SECONDS, TargetFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mmekit_local.sagemaker.aws_client import ObjectAddress
    from mmekit_local.sagemaker.event_log import EventLog
    from mmekit_local.sagemaker.failures import Failure
    from mmekit_local.sagemaker.observability.monitor import EndpointMonitor
    from mmekit_local.sagemaker.snapshot import (
        FleetSnapshot,
        InstanceSnapshot,
        ModelSnapshot,
        VariantSnapshot,
    )
    from mmekit_local.sagemaker.specification import EndpointId

    ListKeys = Callable[[str, str, ObjectAddress], list[str]]
    Members = dict[str, Any]

__all__ = ["failure_members", "top_members"]

_ARCHIVES = (".tar.gz", ".tgz")
_STATES = {"on disk": "disk"}
_NOTHING = TargetFigures("")


def top_members(
    endpoint: EndpointId, monitor: EndpointMonitor, event_log: EventLog, list_keys: ListKeys
) -> Members:
    """Return what an endpoint knows of its models, as JSON's types.

    Parameters
    ----------
    endpoint
        Which one. It need not be in service: then nothing is loaded.
    monitor
        Knows those in service.
    event_log
        Knows what failed.
    list_keys
        Lists a bucket.
    """
    fleet = monitor.snapshots().get(endpoint)
    targets = monitor.metrics.targets(endpoint)
    figures = {one.target: one for one in targets.figures()}
    places, memory = _places(fleet)
    stored = _stored(endpoint, fleet, list_keys)
    hits = sum(one.hits for one in figures.values())
    lookups = hits + sum(one.misses for one in figures.values())
    failures = event_log.failures(endpoint)
    return {
        "endpoint": endpoint.name,
        "account": endpoint.account,
        "region": endpoint.region,
        "at": time.time(),
        "windowSeconds": WINDOW_SECONDS,
        "instances": [_instance(*pair) for pair in _instances(fleet)],
        "models": [
            _model(
                figures.get(target, _NOTHING), target, places.get(target, []), memory, stored
            )
            for target in sorted({*figures, *places, *stored})
        ],
        "requestsLeftOut": targets.left_out,
        "hitRate": hits / lookups if lookups else None,
        "errors": [failure_members(one) for one in (failures.latest() if failures else ())],
        "errorsLeftOut": failures.left_out if failures else 0,
    }


def failure_members(failure: Failure) -> Members:
    """Return failures of one cause as JSON's types."""
    return {
        "number": failure.number,
        "cause": failure.cause,
        "target": failure.target,
        "targets": len(failure.targets - {""}),
        "status": failure.status,
        "count": failure.count,
        "first": failure.first,
        "last": failure.last,
        "example": failure.example,
    }


def _instances(fleet: FleetSnapshot | None) -> Iterator[tuple[VariantSnapshot, InstanceSnapshot]]:
    for variant in () if fleet is None else fleet.variants:
        for instance in variant.instances:
            yield variant, instance


def _instance(variant: VariantSnapshot, instance: InstanceSnapshot) -> Members:
    loaded = [model for model in instance.models if model.state == "loaded"]
    return {
        "variant": variant.name,
        "instance": instance.label,
        "state": instance.state,
        "memoryBytes": instance.memory_bytes,
        "memoryLimit": instance.memory_limit,
        "cpuPercent": round(instance.cpu_percent, 1),
        "loaded": len(loaded),
        "parked": sum(_is_parked(model) for model in loaded),
    }


def _places(
    fleet: FleetSnapshot | None,
) -> tuple[dict[str, list[Members]], dict[str, int]]:
    """Return where each model is, and what it takes on all instances together."""
    places: dict[str, list[Members]] = {}
    memory: dict[str, int] = {}
    for _, instance in _instances(fleet):
        for model in instance.models:
            state = "parked" if _is_parked(model) else _STATES.get(model.state, model.state)
            place = {"instance": instance.label, "state": state}
            places.setdefault(model.target, []).append(place)
            if model.memory_bytes is not None:
                memory[model.target] = memory.get(model.target, 0) + model.memory_bytes
    return places, memory


def _is_parked(model: ModelSnapshot) -> bool:
    return model.parking is not None and model.parking.since is not None


def _stored(
    endpoint: EndpointId, fleet: FleetSnapshot | None, list_keys: ListKeys
) -> frozenset[str]:
    """Return the target models that are in S3."""
    urls = {one.data_url for one in (() if fleet is None else fleet.variants) if one.multi_model}
    return frozenset(_targets_below(urls, endpoint, list_keys))


def _targets_below(
    urls: Iterable[str], endpoint: EndpointId, list_keys: ListKeys
) -> Iterator[str]:
    for url in urls:
        try:
            place = locate(url)
        except ValueError:
            continue  # its instances say so
        keys = list_keys(endpoint.account, endpoint.region, place)
        yield from (key[len(place.key) :] for key in keys if key.endswith(_ARCHIVES))


def _model(
    figures: TargetFigures,
    target: str,
    where: list[Members],
    memory: dict[str, int],
    stored: frozenset[str],
) -> Members:
    return {
        "target": target,
        "where": where,
        "stored": target in stored,
        "requests": figures.requests,
        "errors": figures.errors,
        "hits": figures.hits,
        "coldLoads": figures.cold_loads,
        "p50Ms": None if figures.p50_ms is None else round(figures.p50_ms, 3),
        "p99Ms": None if figures.p99_ms is None else round(figures.p99_ms, 3),
        "memoryBytes": memory.get(target),
    }
