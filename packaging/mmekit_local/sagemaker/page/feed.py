"""What the page shows: all endpoints each second and each event, as JSON in server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from mmekit_local.sagemaker.failures import FailureCounts
from mmekit_local.sagemaker.page.top import failure_members, stored_targets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from mmekit_local.sagemaker.event_log import EndpointEvent, EventLog
    from mmekit_local.sagemaker.failures import FailureCause
    from mmekit_local.sagemaker.observability.latency import SeriesPoint
    from mmekit_local.sagemaker.observability.metrics import VariantMetrics
    from mmekit_local.sagemaker.observability.monitor import EndpointMonitor
    from mmekit_local.sagemaker.page.top import ListKeys
    from mmekit_local.sagemaker.snapshot import (
        EndpointStatus,
        InstanceSnapshot,
        ModelSnapshot,
        VariantSnapshot,
    )
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["Feed"]

_CLIENTS = 16
_WAITING = 64  # messages that a client may be behind; then it is let go, and comes again
_SHOWN_EVENTS = 200
_DIGITS = 20  # more than any event's number has

_RESTING = 1000  # models of an endpoint that are in S3 alone are named; others are only counted
_SECONDS_A_LISTING = 5
_EXAMPLE = 600
_ROWS = 200  # models of an instance that are listed: the last used; others are only counted

Members = dict[str, Any]
_Queue = asyncio.Queue["bytes | None"]


class Feed:
    """Tells all pages that are open.

    Parameters
    ----------
    monitor
        Knows the endpoints in service.
    event_log
        What happened.
    statuses
        Returns every endpoint that exists.
    list_keys
        Lists a bucket.
    token
        What the page has to show when it asks for something.
    """

    def __init__(
        self,
        monitor: EndpointMonitor,
        event_log: EventLog,
        statuses: Callable[[], Sequence[EndpointStatus]],
        list_keys: ListKeys = lambda *_: [],
        token: str = "",
    ) -> None:
        self._monitor = monitor
        self._event_log = event_log
        self._statuses = statuses
        self._list_keys = list_keys
        self._token = token
        self._stored: list[Members] = []
        self._seconds = 0
        self._clients: set[_Queue] = set()
        monitor.listen(self._send_state)
        event_log.listen(self._send_event)

    @property
    def is_full(self) -> bool:
        """Whether no more pages can be told."""
        return len(self._clients) >= _CLIENTS

    async def stream(self, last_seen: bytes | None) -> AsyncIterator[bytes]:
        """Yield server-sent events for one page, from now on.

        Parameters
        ----------
        last_seen
            Last-Event-ID: the number of the last event that the page has.
        """
        queue: _Queue = asyncio.Queue(_WAITING)
        self._clients.add(queue)  # before the first piece: nothing that happens now may be missed
        try:
            yield b"retry: 1000\n\n" + self._greeting(last_seen)
            while (message := await queue.get()) is not None:
                yield message
        finally:
            self._clients.discard(queue)

    def close(self) -> None:
        """End what every page listens to; they will try to come again."""
        for queue in tuple(self._clients):
            self._drop(queue)

    def _greeting(self, last_seen: bytes | None) -> bytes:
        """Return the whole state, and the events that the page has not seen."""
        is_number = last_seen and last_seen.isdigit() and len(last_seen) < _DIGITS
        seen = int(last_seen) if last_seen and is_number else 0
        events = self._event_log.latest
        if not events or seen > events[-1].number:
            seen = 0  # it saw them at a server that ran here before
        fresh = [event for event in events if event.number > seen][-_SHOWN_EVENTS:]
        state = state_members(self._monitor, self._statuses, history=True)
        state["token"] = self._token
        told = [
            _message("state", state),
            _message("stored", {"endpoints": self._list_stored()}),
            _message("failures", {"endpoints": self._failures(FailureCounts.latest)}),
        ]
        return b"".join(told) + b"".join(_event_message(event) for event in fresh)

    def _send_state(self) -> None:
        if self._clients:
            state = state_members(self._monitor, self._statuses, history=False)
            self._send(_message("state", state))
            if changed := self._failures(FailureCounts.take_changed):
                self._send(_message("failures", {"endpoints": changed}))
            self._send_stored()

    def _send_stored(self) -> None:
        """Tell what is in S3 and not in memory, when that is another than before."""
        self._seconds += 1
        if self._seconds % _SECONDS_A_LISTING == 0:
            stored = self._list_stored()
            if stored != self._stored:
                self._stored = stored
                self._send(_message("stored", {"endpoints": stored}))

    def _list_stored(self) -> list[Members]:
        listed = []
        for endpoint, fleet in self._monitor.snapshots().items():
            stored = stored_targets(endpoint, fleet, self._list_keys)
            in_memory = {
                model.target
                for variant in fleet.variants
                for instance in variant.instances
                for model in instance.models
                if model.state != "on disk"
            }
            resting = sorted(stored - in_memory)
            counts = {"stored": len(stored), "resting": len(resting)}
            listed.append({**endpoint._asdict(), **counts, "targets": resting[:_RESTING]})
        return listed

    def _failures(self, which: Callable[[FailureCounts], list[FailureCause]]) -> list[Members]:
        """Return those of all endpoints that have some."""
        told = []
        for status in self._statuses():
            counts = self._event_log.failures(status.id)
            found = [] if counts is None else which(counts)
            if counts is not None and found:
                groups = [failure_members(one) for one in found]
                for group in groups:
                    group["example"] = group["example"][:_EXAMPLE]
                about = {"generation": counts.number, "leftOut": counts.left_out}
                told.append({**status.id._asdict(), **about, "groups": groups})
        return told

    def _send_event(self, event: EndpointEvent) -> None:
        if self._clients:
            self._send(_event_message(event))

    def _send(self, message: bytes) -> None:
        for queue in tuple(self._clients):
            if queue.full():  # it does not read; when it comes again it gets the whole state
                self._drop(queue)
            else:
                queue.put_nowait(message)

    def _drop(self, queue: _Queue) -> None:
        # It may be full, and then there would be no place for the end.
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
        self._clients.discard(queue)


def _event_message(event: EndpointEvent) -> bytes:
    return b"id: %d\n%b" % (event.number, _message("event", event_members(event)))


def _message(name: str, members: Members) -> bytes:
    data = json.dumps(members, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode()


def state_members(
    monitor: EndpointMonitor, statuses: Callable[[], Sequence[EndpointStatus]], *, history: bool
) -> Members:
    """Return all endpoints as JSON's types.

    Parameters
    ----------
    monitor
        Knows those in service.
    statuses
        Returns all that exist.
    history
        Whether each variant's last minutes are asked for, or only its last second.
    """
    fleets = monitor.snapshots()
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
                    _variant(monitor, status.id, variant, history=history)
                    for variant in (() if fleet is None else fleet.variants)
                ],
            }
        )
    return {"at": time.time(), "endpoints": endpoints}


def event_members(event: EndpointEvent) -> Members:
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
    monitor: EndpointMonitor, endpoint: EndpointId, variant: VariantSnapshot, *, history: bool
) -> Members:
    series = monitor.series(endpoint, variant.name).seconds
    seconds = list(series) if history else list(series)[-1:]
    return {
        "name": variant.name,
        "weight": variant.weight,
        "multiModel": variant.multi_model,
        "instanceType": variant.instance_type,
        "totals": _totals(monitor.metrics.variant(endpoint, variant.name)),
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
