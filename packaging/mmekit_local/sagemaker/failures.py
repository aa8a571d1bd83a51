"""What has failed at an endpoint, by cause: counted for as long as the endpoint is there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from mmekit.operate.causes import cause_of

__all__ = ["CountedFailure", "FailureCounts"]

_KEPT = 100
"""Causes of an endpoint that are told apart; beyond, the one that was not seen for longest goes."""
_KEPT_TARGETS = 200
_EXAMPLE = 2000
_numbers = itertools.count(1)


@dataclass
class CountedFailure:
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
        self._by_cause: dict[tuple[str, int | None], CountedFailure] = {}  # the latest last
        self._changed: dict[int, CountedFailure] = {}

    def add(self, text: str, target: str, status: int | None, at: float) -> None:
        """Count a failure."""
        text = text[:_EXAMPLE]
        key = (cause_of(text, target, status), status)
        found = self._by_cause.pop(key, None)
        if found is None:
            found = CountedFailure(next(_numbers), key[0], target, status, at, at, text)
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

    def latest(self) -> list[CountedFailure]:
        """Return all causes, the one that was seen last first."""
        return list(reversed(self._by_cause.values()))

    def take_changed(self) -> list[CountedFailure]:
        """Return those that were seen since the last time, the latest last."""
        changed, self._changed = list(self._changed.values()), {}
        return changed
