"""What an endpoint's models were asked in the last five minutes, model by model.

One matrix has a row a model: counts, and a histogram of times in steps of four per cent. What
comes is added to it, and what has become too old is taken off again, so that neither a request nor
a look costs more when there are thousands of models, and a model takes 1.5 KiB however often it is
asked. A row is another model's as soon as its last request is five minutes old.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

    _Cells = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]

__all__ = ["WINDOW_SECONDS", "TargetFigures", "TargetMetrics"]

WINDOW_SECONDS = 300
_PART_SECONDS = 10.0
"""What is too old goes in parts of so many seconds."""
_WAITING = 2048
_PIECES = 16
"""Of a part, before they become one: each was taken in at once."""
_FIRST_ROWS = 16
_MOST_ROWS = 10_000
"""As many models as the embedded server takes; whoever asks for more names that do not exist is
not told of each of them."""
_REQUESTS, _ERRORS, _HITS, _MISSES, _LOADS, _TIMES = range(6)
_LEAST_MICROSECONDS = 31.25
_STEP = math.log(1.04)
_BUCKETS = 376
"""From the least to above 60 s: an invocation lasts no longer."""
_WIDTH = _TIMES + _BUCKETS


class TargetFigures(NamedTuple):
    """What happened with one target model in the last five minutes.

    Attributes
    ----------
    target
        The target model; "" for the only model of a single-model endpoint.
    hits, misses
        Requests that found it in memory, and that did not.
    p50_ms, p99_ms
        Of the whole invocation, to two per cent; None when there was no request.
    """

    target: str
    requests: int = 0
    errors: int = 0
    hits: int = 0
    misses: int = 0
    cold_loads: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None


class TargetMetrics:
    """What happens with each target model of one endpoint.

    Examples
    --------
    >>> metrics = TargetMetrics()
    >>> for microseconds in (900.0, 1000.0, 250_000.0):
    ...     metrics.asked("a.tar.gz", microseconds, failed=False)
    >>> (figures,) = metrics.figures()
    >>> figures.target, figures.requests, round(figures.p50_ms), round(figures.p99_ms, -1)
    ('a.tar.gz', 3, 1, 250.0)
    """

    def __init__(self) -> None:
        # With the first endpoint: what serves starts without, and a request does not wait for it.
        import numpy as np

        self._waiting: list[tuple[str, int, float]] = []
        self._keep = self._waiting.append
        self._rows: dict[str, int] = {}
        self._names: list[str | None] = []
        self._free: list[int] = []
        self._cells = np.zeros((_FIRST_ROWS, _WIDTH), np.uint32)
        self._percentiles = np.zeros((_FIRST_ROWS, 2))
        self._stale = np.ones(_FIRST_ROWS, np.bool_)
        self._parts: deque[tuple[float, list[_Cells]]] = deque()
        self.left_out = 0
        """Requests for models beyond the most that are told apart, ever."""

    # The hot path: a tuple and an append each.

    def asked(self, target: str, microseconds: float, *, failed: bool) -> None:
        """Record a request that has had its answer."""
        self._keep((target, _ERRORS if failed else _REQUESTS, microseconds))
        if len(self._waiting) >= _WAITING:
            self.settle()

    def looked_up(self, target: str, *, found: bool) -> None:
        """Record that a request found its model in memory, or did not."""
        self._keep((target, _HITS if found else _MISSES, 0.0))

    def loaded(self, target: str) -> None:
        """Record a cold load."""
        self._keep((target, _LOADS, 0.0))

    # Whoever looks.

    def figures(self, now: float | None = None) -> list[TargetFigures]:
        """Return what happened with every model of which there is something to tell."""
        import numpy as np

        self.settle(now)
        self._compute_percentiles()
        known = len(self._names)
        counts = self._cells[:known, :_TIMES].T.tolist()
        times: list[list[float | None]] = self._percentiles[:known].T.tolist()
        for row in np.flatnonzero(self._cells[:known, _REQUESTS] == 0).tolist():
            times[0][row] = times[1][row] = None
        rows = zip(self._names, *counts, *times, strict=True)
        return [TargetFigures(*row) for row in rows if row[0] is not None]

    def settle(self, now: float | None = None) -> None:
        """Take in what came since the last time, and let go of what is too old.

        Parameters
        ----------
        now
            The time, on the monotonic clock.
        """
        if not self._waiting and not self._parts:
            return
        now = time.monotonic() if now is None else now
        self._let_go(now - WINDOW_SECONDS)
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._keep = self._waiting.append
            self._take(waiting, now)

    def _take(self, waiting: list[tuple[str, int, float]], now: float) -> None:
        known = [(row, kind, us) for name, kind, us in waiting if (row := self._row(name)) >= 0]
        if not known:
            return
        import numpy as np

        rows, kinds, times = (np.array(column) for column in zip(*known, strict=True))
        timed = kinds <= _ERRORS
        steps = np.log(np.maximum(times[timed] / _LEAST_MICROSECONDS, 1.0)) / _STEP
        buckets = np.minimum(steps.astype(np.int64), _BUCKETS - 1)
        first = rows * _WIDTH
        # An error is a request, too.
        all_requests = first[timed & (kinds == _ERRORS)]
        found = np.concatenate(
            (first + kinds, all_requests + _REQUESTS, first[timed] + _TIMES + buckets)
        )
        cells, counts = np.unique(found, return_counts=True)
        self._cells.ravel()[cells] += counts.astype(np.uint32)
        self._stale[rows] = True
        if not self._parts or now - self._parts[-1][0] >= _PART_SECONDS:
            self._parts.append((now, []))
        pieces = self._parts[-1][1]
        pieces.append((cells, counts.astype(np.uint32)))
        if len(pieces) > _PIECES:
            pieces[:] = [_summed(pieces)]

    def _row(self, target: str) -> int:
        """Return a model's row, a new one when need be; -1 where there are too many."""
        row = self._rows.get(target)
        if row is None:
            if self._free:
                row = self._free.pop()
                self._names[row] = target
            elif len(self._names) < _MOST_ROWS:
                row = len(self._names)
                self._names.append(target)
                if row == len(self._cells):
                    self._grow()
            else:
                self.left_out += 1
                return -1
            self._rows[target] = row
        return row

    def _grow(self) -> None:
        import numpy as np

        more = len(self._cells)
        self._cells = np.concatenate((self._cells, np.zeros_like(self._cells)))
        self._percentiles = np.concatenate((self._percentiles, np.zeros((more, 2))))
        self._stale = np.concatenate((self._stale, np.ones(more, np.bool_)))

    def _let_go(self, before: float) -> None:
        import numpy as np

        old = []
        # A part began when its first came; its last may be so much younger.
        while self._parts and self._parts[0][0] + _PART_SECONDS <= before:
            old += self._parts.popleft()[1]
        if not old:
            return
        cells, counts = _summed(old)
        self._cells.ravel()[cells] -= counts.astype(np.uint32)
        rows = np.unique(cells // _WIDTH)
        self._stale[rows] = True
        for row in rows[~self._cells[rows].any(axis=1)].tolist():
            name = self._names[row]
            if name is not None:
                del self._rows[name]
            self._names[row] = None
            self._free.append(row)

    def _compute_percentiles(self) -> None:
        import numpy as np

        rows = np.flatnonzero(self._stale[: len(self._names)])
        if not len(rows):
            return
        below = np.cumsum(self._cells[rows, _TIMES:], axis=1, dtype=np.uint32)
        for place, share in enumerate((0.5, 0.99)):
            ranks = np.ceil(below[:, -1] * share).astype(np.uint32)
            buckets = np.count_nonzero(below < ranks[:, None], axis=1)
            # The middle of a bucket, as its edges differ by a factor.
            self._percentiles[rows, place] = np.exp((buckets + 0.5) * _STEP)
        told = self._percentiles[rows] * (_LEAST_MICROSECONDS / 1e3)
        self._percentiles[rows] = np.round(told, 4)
        self._stale[rows] = False


def _summed(parts: Iterable[_Cells]) -> _Cells:
    """Return cells, each once, and their counts together."""
    import numpy as np

    pairs = list(parts)
    cells, places = np.unique(np.concatenate([cells for cells, _ in pairs]), return_inverse=True)
    counts = np.concatenate([counts for _, counts in pairs])
    return cells, np.bincount(places, weights=counts).astype(np.uint32)
