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

__all__ = ["TOLERANCE", "Comparison", "Row", "Verdict", "compare"]

Verdict = Literal["better", "worse", "within noise", "unknown"]

TOLERANCE = 0.05
"""By how much of itself a figure may become worse before two results count as worse."""

_BLOCKS = 10
_FEWEST = 3
_STUDENT_T = (9.92, 5.84, 4.60, 4.03, 3.71, 3.50, 3.36, 3.25)
"""Student's t for 99 %, two-sided, with 2 to 9 degrees of freedom."""

_FAILED = "failed or dropped"
_LOST_PERCENT = 0.1
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


@dataclass(frozen=True)
class Comparison:
    """Two results against each other.

    Attributes
    ----------
    rows
        Figure by figure.
    differences
        What differs in what was asked and on what: it may explain what was found.
    tolerance
        By how much of itself a figure may become worse.
    """

    rows: tuple[Row, ...]
    differences: tuple[str, ...]
    tolerance: float

    @property
    def worse(self) -> tuple[Row, ...]:
        """The figures that are worse, by more than noise explains and the tolerance allows."""
        return tuple(row for row in self.rows if row.verdict == "worse" and self._shows(row))

    @property
    def is_judged(self) -> bool:
        """Whether enough was measured to judge anything."""
        return any(row.verdict != "unknown" for row in self.rows if row.name != _FAILED)

    @property
    def exit_code(self) -> int:
        """What `mme bench compare` ends with: 1 for worse, 3 where nothing can be told."""
        if self.worse:
            return 1
        return 0 if self.is_judged else 3

    @property
    def sentence(self) -> str:
        """The end of the matter, in a sentence."""
        if self.worse:
            ratios = (
                f"{row.name} ({'from 0' if row.ratio is None else f'x {row.ratio:.2f}'})"
                for row in self.worse
            )
            return f"Worse: {', '.join(ratios)}."
        if not self.is_judged:
            return (
                "Not enough was measured to tell: loads of three seconds and more can be judged. "
                "Measure longer, such as with --duration 30."
            )
        return f"Not worse by more than noise and the tolerance of {self.tolerance:.0%}."

    def _shows(self, row: Row) -> bool:
        if row.name == _FAILED:
            return True
        return abs(row.second - row.first) > self.tolerance * row.first


def compare(first: LoadResult, second: LoadResult, tolerance: float = TOLERANCE) -> Comparison:
    """Hold two results against each other.

    A difference is within noise when it is no larger than 3 %, or than what the variation from
    second to second lets one expect in 99 of 100 cases (Student's t; see docs/bench.md). The share
    of requests without a successful answer is worse when it grew by more than a thousandth of all.
    """
    figures = (_THROUGHPUT, *(_percentile(percent) for percent in (50, 90, 99)))
    judged = (*(_judged(figure, first, second) for figure in figures), _failures(first, second))
    rows = (*judged, *_plain(first, second))
    return Comparison(rows, tuple(_differences(first, second)), tolerance)


def _failures(first: LoadResult, second: LoadResult) -> Row:
    shares = []
    for result in (first, second):
        recording = result.recording
        lost = recording.failed + recording.dropped
        shares.append(100 * lost / max(1, recording.answered + lost))
    one, other = shares
    verdict: Verdict = "within noise"
    if abs(other - one) > _LOST_PERCENT:
        verdict = "worse" if other > one else "better"
    return Row(_FAILED, "%", one, other, verdict)


def _differences(first: LoadResult, second: LoadResult) -> list[str]:
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
        "failed": ("", lambda result: float(result.recording.failed)),
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
