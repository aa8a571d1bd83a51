"""The containers' output in CloudWatch Logs.

Group ``/aws/sagemaker/Endpoints/<endpoint>``, stream ``<variant>/<instance id>``: AWS's "Log groups
and streams that Amazon SageMaker AI sends to Amazon CloudWatch Logs", which knows no streams of
single models.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moto.backends import get_backend

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.sagemaker.observability.embedded_metrics import EmbeddedMetrics
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["LogShipper"]

logger = logging.getLogger("mmekit.endpoint")

_WAITING = 10_000  # lines of a stream between two flushes; beyond, the oldest are lost
_KEPT = 20_000  # lines of a stream in CloudWatch Logs, which lives in this process' memory
_KEPT_CHARACTERS = 16 << 20  # of them
_WAITING_CHARACTERS = 4 << 20
_LONGEST = 256 * 1024 - 26  # characters; CloudWatch Logs' limit, 26 bytes of overhead included


@dataclass(eq=False)
class _LogStream:
    """A log stream, and the lines that are not there yet: (milliseconds, text)."""

    endpoint: EndpointId
    name: str
    lines: deque[tuple[int, str]] = field(default_factory=deque)
    characters: int = 0
    lost: int = 0
    at: int = 0


class LogShipper:
    """Takes lines without ever blocking; `flush` brings them to CloudWatch Logs in batches.

    Parameters
    ----------
    embedded
        Takes what is a metric among them; None for nobody.
    """

    def __init__(self, embedded: EmbeddedMetrics | None = None) -> None:
        self._embedded = embedded
        self._pending: dict[_LogStream, None] = {}

    def sink(self, endpoint: EndpointId, variant: str) -> Callable[[str], None]:
        """Return a function that takes a line of a new instance's output."""
        stream = _LogStream(endpoint, f"{variant}/i-{secrets.token_hex(9)[:17]}")

        def take(line: str) -> None:
            if not line:
                return  # CloudWatch Logs refuses empty messages
            line = line[:_LONGEST]
            stream.characters += len(line)
            while stream.lines and (
                len(stream.lines) >= _WAITING or stream.characters > _WAITING_CHARACTERS
            ):
                stream.characters -= len(stream.lines.popleft()[1])
                stream.lost += 1
            # CloudWatch Logs refuses a batch that is not in order, and clocks are set back.
            stream.at = max(stream.at, int(time.time() * 1e3))
            stream.lines.append((stream.at, line))
            self._pending[stream] = None

        return take

    def flush(self) -> None:
        """Bring to CloudWatch Logs what came since the last time. May run in a thread."""
        for stream in tuple(self._pending):
            # First: a line that comes from now on marks its stream anew.
            del self._pending[stream]
            try:
                if events := _taken(stream):
                    _write(stream, events)
                    self._take_metrics(stream.endpoint, events)
            except Exception:  # a subscription of the user's may fail in any way
                logger.exception("log lines of %s are lost", stream.name)

    def _take_metrics(self, endpoint: EndpointId, events: list[dict[str, object]]) -> None:
        if self._embedded is not None:
            for event in events:
                self._embedded.take(endpoint, str(event["message"]))


def _taken(stream: _LogStream) -> list[dict[str, object]]:
    """Return as events what waits in a stream."""
    events: list[dict[str, object]] = []
    while stream.lines:
        at, line = stream.lines.popleft()
        stream.characters -= len(line)
        if stream.lost:
            lost, stream.lost = stream.lost, 0
            text = f"{lost} lines of output came too fast and were lost here"
            events.append({"timestamp": at, "message": text})
        events.append({"timestamp": at, "message": line})
    return events


def _write(stream: _LogStream, events: list[dict[str, object]]) -> None:
    endpoint = stream.endpoint
    backend = get_backend("logs")[endpoint.account][endpoint.region]
    group = f"/aws/sagemaker/Endpoints/{endpoint.name}"
    backend.ensure_log_group(group)
    backend.ensure_log_stream(group, stream.name)
    backend.put_log_events(group, stream.name, events)
    kept = backend.groups[group].streams[stream.name].events
    surplus = max(len(kept) - _KEPT, 0)
    characters = sum(len(event.message) for event in kept)
    for number, event in enumerate(kept):
        if characters <= _KEPT_CHARACTERS:
            break
        characters -= len(event.message)
        surplus = max(surplus, number + 1)
    del kept[:surplus]
