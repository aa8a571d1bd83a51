"""What an endpoint knows of its models, for `mme top` and the page: GET /_mme/top?endpoint=NAME.

Nothing is measured for it: it is put together from what is there, in a few milliseconds for
thousands of models.
"""

from __future__ import annotations

import asyncio
import json
import time
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, NamedTuple

from mmekit_local.sagemaker.aws_client import locate
from mmekit_local.sagemaker.observability.targets import WINDOW_SECONDS, TargetFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mmekit_local.sagemaker.aws_client import ObjectAddress
    from mmekit_local.sagemaker.event_log import EventLog
    from mmekit_local.sagemaker.failures import FailureCause
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

__all__ = ["ListKeys", "failure_members", "stored_targets", "top_text"]

_ARCHIVES = (".tar.gz", ".tgz")
_STATES = ("loaded", "parked", "loading", "disk")
_SHORT = {"on disk": "disk"}
_NOTHING = TargetFigures("")


class _Place(NamedTuple):
    """Where a model is, as JSON without the brackets, and what it takes there together."""

    where: str
    memory: int | None


_NO_PLACE = _Place("", None)


async def top_text(
    endpoint: EndpointId, monitor: EndpointMonitor, event_log: EventLog, list_keys: ListKeys
) -> str:
    """Return what an endpoint knows of its models, as JSON.

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
    # Between its parts requests have their turn.
    await asyncio.sleep(0)
    targets = monitor.metrics.targets(endpoint)
    figures = {one.target: one for one in targets.figures()}
    await asyncio.sleep(0)
    places = _places(fleet)
    stored = stored_targets(endpoint, fleet, list_keys)
    await asyncio.sleep(0)
    models = [
        _model(figures.get(target, _NOTHING), target, places.get(target, _NO_PLACE), stored)
        for target in sorted({*figures, *places, *stored})
    ]
    failures = event_log.failures(endpoint)
    hits = sum(one.hits for one in figures.values())
    lookups = hits + sum(one.misses for one in figures.values())
    members = {
        "endpoint": endpoint.name,
        "account": endpoint.account,
        "region": endpoint.region,
        "at": time.time(),
        "windowSeconds": WINDOW_SECONDS,
        "instances": [_instance(*pair) for pair in _instances(fleet)],
        "requestsLeftOut": targets.left_out,
        "hitRate": hits / lookups if lookups else None,
        "errors": [failure_members(one) for one in (failures.latest() if failures else ())],
        "errorsLeftOut": failures.left_out if failures else 0,
    }
    return f'{json.dumps(members)[:-1]}, "models": [{", ".join(models)}]}}'


def failure_members(failure: FailureCause) -> Members:
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


def _places(fleet: FleetSnapshot | None) -> dict[str, _Place]:
    """Return where each model is."""
    places: dict[str, _Place] = {}
    for _, instance in _instances(fleet):
        texts = {
            state: json.dumps({"instance": instance.label, "state": state}) for state in _STATES
        }
        for model in instance.models:
            state = "parked" if _is_parked(model) else model.state
            where, memory = places.get(model.target, _NO_PLACE)
            here = texts[_SHORT.get(state, state)]
            told = model.memory_bytes
            places[model.target] = _Place(
                f"{where}, {here}" if where else here,
                memory if told is None else (memory or 0) + told,
            )
    return places


def _is_parked(model: ModelSnapshot) -> bool:
    return model.parking is not None and model.parking.since is not None


def stored_targets(
    endpoint: EndpointId, fleet: FleetSnapshot | None, list_keys: ListKeys
) -> frozenset[str]:
    """Return the target models that are in S3, loaded or not."""
    urls = {one.data_url for one in (() if fleet is None else fleet.variants) if one.multi_model}
    return frozenset(_targets_below(urls, endpoint, list_keys))


def _targets_below(urls: Iterable[str], endpoint: EndpointId, list_keys: ListKeys) -> Iterator[str]:
    for url in urls:
        try:
            place = locate(url)
        except ValueError:
            continue  # its instances say so
        keys = list_keys(endpoint.account, endpoint.region, place)
        yield from (key[len(place.key) :] for key in keys if key.endswith(_ARCHIVES))


def _model(figures: TargetFigures, target: str, place: _Place, stored: frozenset[str]) -> str:
    # By hand: there are thousands, and numbers and null are all that is in them.
    _, requests, errors, hits, _, loads, p50, p99 = figures
    return (
        f'{{"target": {encode_basestring_ascii(target)}, "where": [{place.where}], '
        f'"stored": {"true" if target in stored else "false"}, "requests": {requests}, '
        f'"errors": {errors}, "hits": {hits}, "coldLoads": {loads}, '
        f'"p50Ms": {"null" if p50 is None else p50}, "p99Ms": {"null" if p99 is None else p99}, '
        f'"memoryBytes": {"null" if place.memory is None else place.memory}}}'
    )
