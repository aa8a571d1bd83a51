"""What has failed at an endpoint, by cause: counted for as long as the endpoint is there."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

__all__ = ["FailureCause", "FailureCounts", "cause_of"]

_KEPT = 100
"""Causes of an endpoint that are told apart; beyond, the one that was not seen for longest goes."""
_KEPT_TARGETS = 200
_CAUSE = 300
_EXAMPLE = 2000
_STATUS = re.compile(r"\A(?:\w+: )?\d{3} ")
"""As `DataPlane` begins: a status is no number that differs from one request to the next."""
_VARYING = (
    (re.compile(r"\barn:aws[\w-]*:[^\s\"',]+"), "<arn>"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE), "<address>"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b(?::\d+)?|\blocalhost:\d+"), "<address>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b0x[0-9a-f]+\b|\bi-[0-9a-f]{8,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"(?<![\w.<])(?:~|\.{1,2})?/[\w.@+~-]+(?:/[\w.@+~-]*)*"), "<path>"),
    (re.compile(r"(?<![\w.])[+-]?\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?(?![\w])", re.IGNORECASE), "<n>"),
)
_numbers = itertools.count(1)


@dataclass
class FailureCause:
    """Failures of one cause.

    Attributes
    ----------
    number
        Its own, of all endpoints' since the service began.
    cause
        What was said, without what differs from one time to the next.
    target
        The target model of the latest; "" where there is none.
    status
        What the container or the endpoint answered; None where no request failed.
    targets
        The target models that it happened to, the first of them.
    first, last
        Seconds since the epoch.
    example
        What was said the latest time.
    """

    number: int
    cause: str
    target: str
    status: int | None
    first: float
    last: float
    example: str
    count: int = 0
    targets: set[str] = field(default_factory=set)


class FailureCounts:
    """The failures of one endpoint.

    Examples
    --------
    >>> failures = FailureCounts()
    >>> for row in (3, 17):
    ...     failures.add(f"ModelError: 400 row {row}: no number", "a.tar.gz", 400, at=float(row))
    >>> (failure,) = failures.latest()
    >>> failure.cause, failure.count, failure.example
    ('ModelError: 400 row <n>: no number', 2, 'ModelError: 400 row 17: no number')
    """

    def __init__(self) -> None:
        self.number = next(_numbers)
        """Another for an endpoint that was deleted and made anew."""
        self.left_out = 0
        """Failures whose causes are told no longer."""
        self._by_cause: dict[tuple[str, int | None], FailureCause] = {}  # the latest last
        self._changed: dict[int, FailureCause] = {}

    def add(self, text: str, target: str, status: int | None, at: float) -> None:
        """Count a failure."""
        text = text[:_EXAMPLE]
        key = (cause_of(text, target), status)
        found = self._by_cause.pop(key, None)
        if found is None:
            found = FailureCause(next(_numbers), key[0], target, status, at, at, text)
            if len(self._by_cause) >= _KEPT:
                oldest = self._by_cause.pop(next(iter(self._by_cause)))
                self._changed.pop(oldest.number, None)
                self.left_out += oldest.count
        self._by_cause[key] = found
        found.count += 1
        found.target, found.last, found.example = target, at, text
        if len(found.targets) < _KEPT_TARGETS:
            found.targets.add(target)
        self._changed[found.number] = found

    def latest(self) -> list[FailureCause]:
        """Return all causes, the one that was seen last first."""
        return list(reversed(self._by_cause.values()))

    def take_changed(self) -> list[FailureCause]:
        """Return those that were seen since the last time, the latest last."""
        changed, self._changed = list(self._changed.values()), {}
        return changed


def cause_of(text: str, target: str = "") -> str:
    """Return what two failures of one cause say alike.

    Examples
    --------
    >>> cause_of("No room for 'a.tar.gz': 12.5 of 64 MiB in /tmp/x1/models", "a.tar.gz")
    "No room for '<model>': <n> of <n> MiB in <path>"
    >>> cause_of("ModelError: 500 process 4711 at 127.0.0.1:8080 has ended")
    'ModelError: 500 process <n> at <address> has ended'
    """
    status = _STATUS.match(text)
    kept, rest = ("", text) if status is None else (status[0], text[status.end() :])
    if target:
        rest = rest.replace(target, "<model>")
    for pattern, name in _VARYING:
        rest = pattern.sub(name, rest)
    return (kept + rest)[:_CAUSE]
