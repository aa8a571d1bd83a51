"""Two results side by side, and which of the differences mean something."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmekit_bench.recording import Recording, Second
    from mmekit_bench.result import LoadResult

__all__ = ["Row", "Verdict", "compare", "differences"]

Verdict = Literal["better", "worse", "within noise", "unknown"]

_BLOCKS = 10
_FEWEST = 3
_STUDENT_T = (9.92, 5.84, 4.60, 4.03, 3.71, 3.50, 3.36, 3.25)
"""Student's t for 99 %, two-sided, with 2 to 9 degrees of freedom."""

_FLOOR = 0.03
"""Two runs of one thing after another differ by as much for no reason that either shows."""


@dataclass(frozen=True)
class Row:
    """One figure of both.

    Attributes
    ----------
    name, unit
        What it is.
    first, second
        The figure of each.
    verdict
        Of the second against the first; ``unknown`` when too little was measured to tell.
    """

    name: str
    unit: str
    first: float
    second: float
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        """Second / first; None when there is nothing to divide by."""
        return self.second / self.first if self.first else None


def compare(first: LoadResult, second: LoadResult) -> tuple[Row, ...]:
    """Hold two results against each other.

    A difference is within noise when it is no larger than 3 %, or than what the variation from
    second to second lets one expect in 99 of 100 cases (Student's t; see docs/bench.md).
    """
    figures = (_THROUGHPUT, *(_percentile(percent) for percent in (50, 90, 99)))
    return (*(_judged(figure, first, second) for figure in figures), *_plain(first, second))


def differences(first: LoadResult, second: LoadResult) -> list[str]:
    """Return what differs in what was asked and on what: it may explain what was found."""
    pairs = {
        "destination": (first.plan.destination.url, second.plan.destination.url),
        "payload": (len(first.plan.payload.body), len(second.plan.payload.body)),
        "targets": (_named(first.plan.targets), _named(second.plan.targets)),
        "processor": (first.machine.processor, second.machine.processor),
        "cores": (first.machine.cores, second.machine.cores),
    }
    for name in ("distribution", "connections", "rate", "poisson", "ramp", "spike", "client"):
        pairs[name] = (getattr(first.plan, name), getattr(second.plan, name))
    for name in sorted(first.versions.keys() | second.versions.keys()):
        pairs[name] = (first.versions.get(name), second.versions.get(name))
    return [f"{name}: {one} / {other}" for name, (one, other) in pairs.items() if one != other]


@dataclass(frozen=True)
class _Figure:
    """A figure that there is of the whole load and of each second."""

    name: str
    unit: str
    of_all: Callable[[Recording], float]
    of_second: Callable[[Second], float]
    more_is_better: bool = False


_THROUGHPUT = _Figure(
    "requests/s",
    "",
    lambda recording: recording.requests_per_second,
    lambda second: float(second.answered),
    more_is_better=True,
)


def _percentile(percent: int) -> _Figure:
    def of_all(recording: Recording) -> float:
        return recording.later.percentile(percent)

    def of_second(second: Second) -> float:
        value: float = getattr(second, f"p{percent}_ms")
        return value

    return _Figure(f"p{percent}", "ms", of_all, of_second)


def _judged(figure: _Figure, first: LoadResult, second: LoadResult) -> Row:
    one, other = figure.of_all(first.recording), figure.of_all(second.recording)
    spreads = [
        _spread([figure.of_second(at) for at in result.recording.series if at.answered])
        for result in (first, second)
    ]
    known = [spread for spread in spreads if spread is not None]
    verdict: Verdict = "unknown"
    if len(known) == len(spreads) and one and other:
        # The two loads vary independently of each other, so that their squares add up.
        noise = max(math.hypot(*known), _FLOOR * max(one, other))
        if abs(other - one) <= noise:
            verdict = "within noise"
        else:
            verdict = "better" if (other > one) is figure.more_is_better else "worse"
    return Row(figure.name, figure.unit, one, other, verdict)


def _plain(first: LoadResult, second: LoadResult) -> tuple[Row, ...]:
    """Return the figures of which there are too few to judge a difference."""
    found = []
    named: dict[str, tuple[str, Callable[[LoadResult], float]]] = {
        "p99.9": ("ms", lambda result: result.recording.later.percentile(99.9)),
        "first calls, median": ("ms", lambda result: result.recording.first.percentile(50)),
        "errors": ("", lambda result: float(result.recording.failed)),
        "dropped": ("", lambda result: float(result.recording.dropped)),
        "client's work a request": ("µs", lambda result: result.recording.own_time.cpu_us),
    }
    for name, (unit, figure) in named.items():
        one, other = figure(first), figure(second)
        if one or other:
            found.append(Row(name, unit, one, other, "unknown"))
    return tuple(found)


def _spread(values: Sequence[float]) -> float | None:
    """Return how far a mean of values that follow each other may be off; None for too few.

    Neighbours resemble each other, so that means of ten or more stretches take the values' place.
    """
    if len(values) < _FEWEST:
        return None
    size = max(1, len(values) // _BLOCKS)
    blocks = [
        statistics.fmean(values[at : at + size]) for at in range(0, len(values) - size + 1, size)
    ]
    # There may be up to 19 stretches. The last t is a little too large for more than ten, which
    # errs towards noise.
    t = _STUDENT_T[min(len(blocks) - _FEWEST, len(_STUDENT_T) - 1)]
    return t * statistics.stdev(blocks) / math.sqrt(len(blocks))


def _named(targets: Sequence[str]) -> str:
    return targets[0] if len(targets) == 1 else f"{len(targets)}, {targets[0]} and others"
