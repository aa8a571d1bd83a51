"""What a load found, from single answers to figures, and what its generator tells of it."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from mmekit_bench.clock import OwnTime  # noqa: TC001 - pydantic reads it
from mmekit_bench.histogram import DurationCounter, Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmekit_bench.traffic import Profile

    _Floats = NDArray[np.float64]
    _Numbers = NDArray[np.int64]

__all__ = [
    "Failure",
    "GeneratorMessage",
    "LoadProgress",
    "LoadRecorder",
    "Recording",
    "Second",
    "TargetStatistics",
    "messages",
]

_SUCCESS, _FIRST = 0, 1  # what an answer is counted as; other numbers are kinds of errors
# When a request was due is worked out again from two rounded numbers: one that was due at the very
# beginning must not come out before it.
_ROUNDING_S = 1e-9


@dataclass(frozen=True)
class Second:
    """One second of the load.

    Attributes
    ----------
    second
        Its number, from 0.
    level
        Requests a second that were to arrive, or connections, in its middle.
    answered, errors, dropped
        Requests that ended in it.
    mean_ms, p50_ms, p90_ms, p99_ms, most_ms
        Of the answers that came in it; 0 when none did.
    """

    second: int
    level: float
    answered: int
    errors: int
    dropped: int
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p99_ms: float = 0.0
    most_ms: float = 0.0


@dataclass(frozen=True)
class TargetStatistics:
    """One target model.

    Attributes
    ----------
    answered, errors
        Requests that count.
    first_ms
        Until its first answer in the run, warm-up included; None when there was none.
    mean_ms, most_ms
        Of later answers; 0 when there were none.
    """

    target: str
    answered: int
    errors: int
    first_ms: float | None
    mean_ms: float
    most_ms: float


@dataclass(frozen=True)
class Recording:
    """All that was found.

    Attributes
    ----------
    seconds
        How long was measured.
    answered
        Successful answers in that time; requests sent in it and answered later are in `later`.
    first
        Calls sent before their target model had answered once: the cold ones, warm-up included.
    later
        All other successful calls that were due in the time measured.
    waited
        In an open loop: from the moment a request was due until it was sent. Part of `later`.
    errors
        Requests without a successful answer, by kind.
    dropped
        Requests of an open loop that found too many others outstanding.
    """

    seconds: float
    answered: int
    first: Histogram
    later: Histogram
    waited: Histogram
    errors: dict[str, int]
    dropped: int
    targets: tuple[TargetStatistics, ...]
    series: tuple[Second, ...]
    own_time: OwnTime

    @property
    def requests_per_second(self) -> float:
        """Successful answers in a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """How many requests had no successful answer."""
        return sum(self.errors.values())


@dataclass(frozen=True)
class LoadProgress:
    """Where a load has got to.

    Attributes
    ----------
    elapsed
        Seconds since measuring began; below zero in the warm-up.
    in_flight
        Requests that wait or are being answered.
    errors
        So far, by kind.
    latest
        The last second that is over, if there is one.
    """

    elapsed: float
    in_flight: int
    errors: dict[str, int] = field(default_factory=dict)
    latest: Second | None = None


@dataclass(frozen=True)
class Failure:
    """Why there could be no load."""

    what: str
    where: str | None
    remedy: str | None


@dataclass(frozen=True)
class GeneratorMessage:
    """A line that the generator writes, in JSON: one of the three."""

    progress: LoadProgress | None = None
    recording: Recording | None = None
    failure: Failure | None = None


messages: TypeAdapter[GeneratorMessage] = TypeAdapter(GeneratorMessage)


@dataclass
class _Open:
    """A second that is not over."""

    answered: int = 0
    errors: int = 0
    dropped: int = 0
    times: DurationCounter = field(default_factory=DurationCounter)

    def closed(self, second: int, level: float) -> Second:
        """Return it as it is to stay."""
        times = self.times.result()
        return Second(
            second=second,
            level=level,
            answered=self.answered,
            errors=self.errors,
            dropped=self.dropped,
            mean_ms=times.mean_ms,
            p50_ms=times.percentile(50),
            p90_ms=times.percentile(90),
            p99_ms=times.percentile(99),
            most_ms=times.most_ms,
        )


class LoadRecorder:
    """Takes down answers, cheaply for each of them, and sums them up now and then.

    Moments are those of `time.perf_counter`.

    Parameters
    ----------
    targets
        Their names.
    begin
        The moment at which measuring begins.
    profile
        Of the load, for the series.

    Attributes
    ----------
    end
        The moment at which measuring ends, once it is known.
    last
        The moment of the last answer that was summed up.
    """

    def __init__(self, targets: Sequence[str], begin: float, profile: Profile) -> None:
        self.series: list[Second] = []
        self.end = math.inf
        self.last = begin
        self._targets = targets
        self._begin = begin
        self._profile = profile
        self._kinds: list[str] = ["", "first"]
        # Of each answer: when it came, how long it took, how long it had waited, target and kind.
        self._finished, self._took, self._waits = array("d"), array("d"), array("d")
        self._numbers, self._codes = array("L"), array("L")
        self._drops = array("d")
        self._has_answered = bytearray(len(targets))
        self._first, self._later = DurationCounter(), DurationCounter()
        self._waited = DurationCounter()
        self._inside = self._dropped = 0
        self._errors: dict[str, int] = {}
        self._answers: Counter[int] = Counter()
        self._failures: Counter[int] = Counter()
        self._first_ms: dict[int, float] = {}
        self._sums, self._most = np.zeros(len(targets)), np.zeros(len(targets))
        self._laters = np.zeros(len(targets), np.int64)
        self._open: dict[int, _Open] = {}

    def is_first(self, target: int) -> bool:
        """Return whether a target has not answered yet."""
        return not self._has_answered[target]

    def add(self, finished: float, due: float, sent: float, target: int, *, first: bool) -> None:
        """Take down a successful answer.

        Parameters
        ----------
        first
            What `is_first` said when it was sent.
        """
        if first:
            self._has_answered[target] = 1
        elif due < self._begin:
            return
        self._note(finished, due, sent, target, _FIRST if first else _SUCCESS)

    def fail(self, finished: float, due: float, target: int, kind: str) -> None:
        """Take down a request without a successful answer."""
        if due >= self._begin:
            if kind not in self._kinds:
                self._kinds.append(kind)
            self._note(finished, due, due, target, self._kinds.index(kind))

    def drop(self, due: float) -> None:
        """Take down a request that was not sent."""
        if due >= self._begin:
            self._drops.append(due)

    def fold(self, now: float) -> None:
        """Sum up what was taken down since the last time, and close the seconds that are over."""
        finished, took, waits = (np.array(one) for one in (self._finished, self._took, self._waits))
        numbers, codes = (np.array(one, np.int64) for one in (self._numbers, self._codes))
        drops = np.array(self._drops)
        for one in (self._finished, self._took, self._waits, self._drops):
            del one[:]
        del self._numbers[:], self._codes[:]
        if finished.size:
            self._sum_up(finished, took, waits, numbers, codes)
        self._dropped += drops.size
        for second in np.floor(drops - self._begin).astype(np.int64).tolist():
            self._opened(second).dropped += 1
        while min(now, self.end) - self._begin >= len(self.series) + 1:
            second = len(self.series)
            level = self._profile.level(second + 0.5)
            self.series.append(self._open.pop(second, _Open()).closed(second, level))

    def result(self, own_time: OwnTime) -> Recording:
        """Return all that was found; `end` has to be known."""
        self.fold(self.end)
        return Recording(
            seconds=self.end - self._begin,
            answered=self._inside,
            first=self._first.result(),
            later=self._later.result(),
            waited=self._waited.result(),
            errors=dict(sorted(self._errors.items(), key=lambda item: -item[1])),
            dropped=self._dropped,
            targets=tuple(self._figures(number) for number in range(len(self._targets))),
            series=tuple(self.series),
            own_time=own_time,
        )

    @property
    def errors(self) -> dict[str, int]:
        """What has been summed up without success, by kind."""
        return dict(self._errors)

    @property
    def count(self) -> int:
        """How many requests have been summed up, failed ones included."""
        return sum(self._answers.values()) + sum(self._failures.values())

    def _note(self, finished: float, due: float, sent: float, target: int, code: int) -> None:
        self._finished.append(finished)
        self._took.append(finished - due)
        self._waits.append(sent - due)
        self._numbers.append(target)
        self._codes.append(code)

    def _sum_up(
        self, finished: _Floats, took: _Floats, waits: _Floats, numbers: _Numbers, codes: _Numbers
    ) -> None:
        # What counts is when a request was due. Were it when it was answered, the slowest of all,
        # which are answered after the end, would be missing from the percentiles.
        due = finished - took
        counted = (due >= self._begin - _ROUNDING_S) & (due < self.end)
        first, later = codes == _FIRST, counted & (codes == _SUCCESS)
        self._first.add(took[first])
        self._later.add(took[later])
        self._waited.add(waits[later])
        np.add.at(self._sums, numbers[later], took[later])
        np.add.at(self._laters, numbers[later], 1)
        np.maximum.at(self._most, numbers[later], took[later])
        for number, seconds in zip(numbers[first].tolist(), took[first].tolist(), strict=True):
            self._first_ms.setdefault(number, seconds * 1e3)
        good = later | (counted & first)  # a first call may be one of the warm-up
        self._answers.update(numbers[good].tolist())
        self._failures.update(numbers[counted & ~good].tolist())
        for code, count in zip(*np.unique(codes[counted & ~good], return_counts=True), strict=True):
            kind = self._kinds[code]
            self._errors[kind] = self._errors.get(kind, 0) + int(count)
        # Throughput is another matter: what came after the end was no work done in this time.
        self._inside += int((good & (finished <= self.end)).sum())
        if counted.any():
            self.last = float(finished[counted][-1])
        seconds = np.floor(finished - self._begin).astype(np.int64)
        for second in np.unique(seconds[counted]).tolist():
            here = counted & (seconds == second)
            opened = self._opened(second)
            opened.answered += int((here & good).sum())
            opened.errors += int((here & ~good).sum())
            opened.times.add(took[here & later])

    def _opened(self, second: int) -> _Open:
        return self._open.setdefault(second, _Open())

    def _figures(self, number: int) -> TargetStatistics:
        laters = int(self._laters[number])
        return TargetStatistics(
            target=self._targets[number],
            answered=self._answers[number],
            errors=self._failures[number],
            first_ms=self._first_ms.get(number),
            mean_ms=float(self._sums[number]) / laters * 1e3 if laters else 0.0,
            most_ms=float(self._most[number]) * 1e3,
        )
