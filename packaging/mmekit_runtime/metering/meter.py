"""What a model process has counted, and when it says so."""

from __future__ import annotations

import functools
import logging
import time
from _thread import allocate_lock
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from mmekit_runtime.metering.buckets import ValueBuckets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Concatenate, ParamSpec, TypeVar

    _Given = ParamSpec("_Given")
    _Returned = TypeVar("_Returned")
    _Call = tuple[Sequence[int], int, Sequence[int]]
    """The statuses of a call's answers, how long it took, and how long its requests had waited."""
    Gaps = tuple[str, int, int]
    """A column's name, its cells that are missing, and those that are unseen."""

_logger = logging.getLogger()
_ERRORS = 400
_REFUSED = frozenset({400, 406, 415})
_NS = 1e9
_MOST_CALLS = 256
_SOON_S = 1.0
"""After a quiet time the first line comes so soon: whoever ends the process may do so any time."""

COUNTS = {
    "requests": "mme_model_requests_total",
    "errors": "mme_model_errors_total",
    "refused": "mme_model_refused_total",
    "loads": "mme_model_loads_total",
    "parks": "mme_model_parks_total",
    "wakes": "mme_model_wakes_total",
}
"""Requests answered; those with a status from 400; those of them that could not be read; …"""

DISTRIBUTIONS = {
    "batch": ("mme_model_batch_size", "Count"),
    "queue": ("mme_model_queue_seconds", "Seconds"),
    "predict": ("mme_model_predict_seconds", "Seconds"),
    "load": ("mme_model_load_seconds", "Seconds"),
}
"""Requests of a call; how long each waited in the process; calls of the handler; loads."""

MEMORY = "mme_model_memory_bytes"

COLUMN_COUNTS = {
    "missing": "mme_model_missing_values_total",
    "unseen": "mme_model_unseen_categories_total",
    "refused": "mme_model_refused_columns_total",
}
"""Of a column: cells without a value, cells with a category that was not there in training, and
requests that were refused for it."""


@dataclass
class Period:
    """What has happened since the last line.

    Attributes
    ----------
    counts, values, columns
        By the keys of `COUNTS`, `DISTRIBUTIONS` and, for each column's name, `COLUMN_COUNTS`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    values: dict[str, ValueBuckets] = field(
        default_factory=lambda: {name: ValueBuckets() for name in DISTRIBUTIONS}
    )
    columns: dict[str, Counter[str]] = field(default_factory=dict)


class PeriodSink(Protocol):
    """Takes what has happened, once in a while."""

    def write(self, model: str, period: Period, memory: int) -> bool:
        """Hand on a period; whether all that was to be handed on so far has been."""


class EventSink(Protocol):
    """Takes each event as it happens."""

    def count(self, name: str, number: int, column: str = "") -> None:
        """Count events, by a key of `COUNTS`, or of `COLUMN_COUNTS` with a column."""

    def record(self, name: str, values: Sequence[float]) -> None:
        """Take in values, by a key of `DISTRIBUTIONS`."""

    def close(self) -> None:
        """Hand on what is there, before the process ends."""


def _harmless(
    method: Callable[Concatenate[ModelMeter, _Given], _Returned],
) -> Callable[Concatenate[ModelMeter, _Given], _Returned | None]:
    """Have a method raise nothing: no answer is lost because it could not be counted."""

    @functools.wraps(method)
    def guarded(
        self: ModelMeter, /, *given: _Given.args, **named: _Given.kwargs
    ) -> _Returned | None:
        try:
            return method(self, *given, **named)
        except Exception as error:  # noqa: BLE001 - of an exporter, a library, the system
            self.failed(error)
            return None

    return guarded


class ModelMeter:
    """Counts what one model process does; none of its methods raises.

    Parameters
    ----------
    lines
        What is told of a period; None for nobody.
    seconds
        Between two lines, at least.
    memory
        Returns what the process takes.

    Attributes
    ----------
    model
        What the model is called.
    events
        What is told of each event; None for nobody.
    has_come
        Called when there is something to report, where nothing was before.
    is_told
        Whether handlers tell of their calls and loads, as on the plain engine; otherwise the loop
        around them does.
    """

    def __init__(
        self,
        lines: PeriodSink | None,
        seconds: float,
        memory: Callable[[], int],
    ) -> None:
        self.model = "model"
        self.events: EventSink | None = None
        self.has_come: Callable[[], object] | None = None
        self.is_told = False
        self._has_failed = False
        self._answered: list[int] = []
        self._aside: list[Gaps] = []
        self._calls: list[_Call] = []
        self._lines = lines
        self._seconds = seconds
        self._memory = memory
        self._period = Period()
        # On the plain engine another thread reports.
        self._lock = allocate_lock()
        self._due: float | None = None
        self._last = -seconds

    def failed(self, error: Exception) -> None:
        """Say, once, that something could not be counted."""
        if not self._has_failed:
            self._has_failed = True
            _logger.warning(
                "mmekit: metrics are not complete, and the model answers all the same: %s: %s",
                type(error).__name__,
                error,
            )

    @_harmless
    def called(
        self, statuses: Sequence[int], predict_ns: int, waited_ns: Sequence[int] = ()
    ) -> None:
        """Count one call of the handler, by the statuses of its answers."""
        # On the way of every request: the rest is done for many calls at once.
        with self._lock:
            self._calls.append((statuses, predict_ns, waited_ns))
            if len(self._calls) >= _MOST_CALLS:
                self._add_calls()
        if self._due is None:
            self._came()
        if self.events is not None:
            self._tell(*_of_calls([(statuses, predict_ns, waited_ns)]))

    def _add_calls(self) -> None:
        """Add to the period what was put aside of calls."""
        calls, self._calls = self._calls, []
        self._add(*_of_calls(calls))

    @_harmless
    def answered(self, statuses: list[int], took_ns: int) -> None:
        """Take note of the statuses of a handler's call."""
        if self.is_told:
            self.called(statuses, took_ns)
        else:
            self._answered = statuses

    def take_answered(self) -> list[int]:
        """Return the statuses of the last call, of a handler that tells; once."""
        statuses, self._answered = self._answered, []
        return statuses

    @_harmless
    def loaded(self, took_ns: int) -> None:
        """Count the load."""
        self._take({"loads": 1}, {"load": [took_ns / _NS]})

    @_harmless
    def woken(self) -> None:
        """Count that the model, which was parked, is loaded again."""
        self._take({"wakes": 1}, {})

    @_harmless
    def parked(self) -> None:
        """Count that the model gives back its process."""
        self._take({"parks": 1}, {})

    @_harmless
    def column(self, name: str, *, missing: int = 0, unseen: int = 0, refused: int = 0) -> None:
        """Count what was in a column of the model's."""
        found = {"missing": missing, "unseen": unseen, "refused": refused}
        counted = {key: number for key, number in found.items() if number}
        if not counted:
            return
        with self._lock:
            self._period.columns.setdefault(name, Counter()).update(counted)
        self._came()
        if self.events is not None:
            for key, number in counted.items():
                self.events.count(key, number, name)

    @_harmless
    def gaps(self, name: str, count: Callable[[], tuple[int, int]]) -> None:
        """Put aside how many cells of a column are missing, and how many are unseen."""
        missing, unseen = count()
        self.put_aside(name, missing, unseen)

    @_harmless
    def refused_cells(self, name: str, count: Callable[[], int]) -> None:
        """Count the unseen cells of the column that a request is refused for."""
        if unseen := count():
            self.column(name, unseen=unseen)

    def put_aside(self, name: str, missing: int, unseen: int = 0) -> None:
        """Remember what was in a column of a request that may still be refused."""
        if missing or unseen:
            self._aside.append((name, missing, unseen))

    def take_aside(self) -> list[Gaps]:
        """Return what was put aside since the last time."""
        aside, self._aside = self._aside, []
        return aside

    def taken(self, gaps: Sequence[Gaps], status: int) -> None:
        """Count what was in the columns of a request, unless it was refused."""
        if status not in _REFUSED:
            for name, missing, unseen in gaps:
                self.column(name, missing=missing, unseen=unseen)

    def _take(self, counted: dict[str, int], values: dict[str, Sequence[float]]) -> None:
        with self._lock:
            self._add(counted, values)
        self._came()
        self._tell(counted, values)

    def _add(self, counted: Mapping[str, int], values: Mapping[str, Sequence[float]]) -> None:
        period = self._period
        for name, number in counted.items():
            period.counts[name] += number
        for name, several in values.items():
            period.values[name].add(several)

    def _tell(self, counted: Mapping[str, int], values: Mapping[str, Sequence[float]]) -> None:
        if self.events is not None:
            for name, number in counted.items():
                self.events.count(name, number)
            for name, several in values.items():
                self.events.record(name, several)

    def _came(self) -> None:
        if self._due is None and self._lines is not None:
            now = time.monotonic()
            self._due = max(self._last + self._seconds, now + min(_SOON_S, self._seconds))
            if self.has_come is not None:
                self.has_come()

    @_harmless
    def report_if_due(self) -> float | None:
        """Hand on what has happened, when it is time.

        Returns in how many seconds it is, None while nothing happens.
        """
        due = self._due
        if due is None:
            return None
        wait_s = due - time.monotonic()
        if wait_s > 0:
            return wait_s
        self._report()
        return None if self._due is None else self._seconds

    def _report(self) -> None:
        if self._lines is None:
            return
        with self._lock:
            self._add_calls()
            period, self._period = self._period, Period()
            self._due = None
        self._last = time.monotonic()
        if not self._lines.write(self.model, period, self._memory()):
            self._due = self._last + self._seconds  # again, with what comes meanwhile

    def close(self) -> None:
        """Hand on what is there: the process ends."""
        self._close_lines()
        self._close_events()

    @_harmless
    def _close_lines(self) -> None:
        if self._due is not None:
            self._report()

    @_harmless
    def _close_events(self) -> None:
        if self.events is not None:
            self.events.close()


def _of_calls(calls: Sequence[_Call]) -> tuple[dict[str, int], dict[str, Sequence[float]]]:
    """Return what there is to count of calls, and their values."""
    statuses = Counter(chain.from_iterable(call[0] for call in calls))
    counted = {
        "requests": statuses.total(),
        "errors": sum(number for status, number in statuses.items() if status >= _ERRORS),
        "refused": sum(statuses[status] for status in _REFUSED),
    }
    values: dict[str, Sequence[float]] = {
        "batch": [len(call[0]) for call in calls],
        "predict": [call[1] / _NS for call in calls],
        "queue": [waited / _NS for call in calls for waited in call[2]],
    }
    return counted, values
