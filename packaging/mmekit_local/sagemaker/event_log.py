"""What happened lately, for whoever looks: loads, evictions, errors, instances, endpoints."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mmekit_local.sagemaker.failures import FailureCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["EndpointEvent", "EndpointEvents", "EventLog"]

EventKind = Literal["cold load", "eviction", "error", "instance", "endpoint"]
_KEPT = 500


@dataclass(frozen=True)
class EndpointEvent:
    """One thing that happened.

    Attributes
    ----------
    number
        Counts all events, from 1: whoever has seen one knows which are new.
    at
        Seconds since the epoch.
    where
        The endpoint, or an instance's label.
    target
        The target model, "" where there is none.
    text
        What happened, and for an error its cause, in a sentence.
    milliseconds
        How long it took, where that means something.
    """

    number: int
    at: float
    kind: EventKind
    where: str
    target: str
    text: str
    milliseconds: float | None = None


@dataclass
class EventLog:
    """The latest events of all endpoints, oldest first, and what failed, by endpoint and cause."""

    latest: deque[EndpointEvent] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _listeners: list[Callable[[EndpointEvent], None]] = field(default_factory=list)
    _count: int = 0
    _failures: dict[EndpointId, FailureCounts] = field(default_factory=dict)

    def of(self, endpoint: EndpointId) -> EndpointEvents:
        """Return where what happens at an endpoint is recorded."""
        return EndpointEvents(self, self._failures.setdefault(endpoint, FailureCounts()))

    def failures(self, endpoint: EndpointId) -> FailureCounts | None:
        """Return what has failed at an endpoint; None when nothing of it was recorded."""
        return self._failures.get(endpoint)

    def forget(self, endpoint: EndpointId) -> None:
        """Let go of an endpoint that is gone; what its last instances record is nobody's."""
        self._failures.pop(endpoint, None)

    def record(
        self,
        kind: EventKind,
        where: str,
        text: str,
        *,
        target: str = "",
        milliseconds: float | None = None,
    ) -> None:
        """Take note of an event and tell whoever listens."""
        self._count += 1
        event = EndpointEvent(self._count, time.time(), kind, where, target, text, milliseconds)
        self.latest.append(event)
        for listener in self._listeners:
            listener(event)

    def listen(self, listener: Callable[[EndpointEvent], None]) -> Callable[[], None]:
        """Call `listener` with every event to come; the function returned ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


class EndpointEvents:
    """Records what happens at one endpoint.

    Parameters
    ----------
    log
        Where all events go.
    failures
        Where the endpoint's errors are counted.
    """

    def __init__(self, log: EventLog, failures: FailureCounts) -> None:
        self._log = log
        self._failures = failures

    def record(
        self,
        kind: EventKind,
        where: str,
        text: str,
        *,
        target: str = "",
        status: int | None = None,
        milliseconds: float | None = None,
    ) -> None:
        """Take note of an event, count it if it is an error, and tell whoever listens.

        Parameters
        ----------
        status
            Of an error: what a request was answered.
        """
        if kind == "error":
            self._failures.add(text, target, status, time.time())
        self._log.record(kind, where, text, target=target, milliseconds=milliseconds)
