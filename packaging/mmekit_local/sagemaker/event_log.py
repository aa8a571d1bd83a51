"""What happened lately, for whoever looks: loads, evictions, errors, instances, endpoints."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EndpointEvent", "EventLog"]

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
    """The latest events, oldest first."""

    latest: deque[EndpointEvent] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _listeners: list[Callable[[EndpointEvent], None]] = field(default_factory=list)
    _count: int = 0

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
