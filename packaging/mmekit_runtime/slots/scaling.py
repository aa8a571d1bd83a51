"""How many processes a model has: as many as its requests need."""

from __future__ import annotations

import math
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit_runtime.slots.cores import Cores
    from mmekit_runtime.slots.processes import Process

CALM_S = 30.0
"""Without requests that wait, after which processes that are not needed end."""

_PERIODS = 6
_COMPUTES = 0.3
_MARGIN = 1.25
_FREE = 0.6
"""Of what a process computes, the part that must be idle for another to be of use."""


class Scaling:
    """Says how many processes a model should have.

    Parameters
    ----------
    fixed
        The number that its settings name; None for as many as its requests need.
    """

    def __init__(self, fixed: int | None) -> None:
        self.fixed = fixed
        self._crowded_at = 0.0
        self._not_before = 0.0
        self._looked_at = 0.0
        self._busy_ns: dict[Process, int] = {}
        self._used: deque[float] = deque(maxlen=_PERIODS)

    @property
    def at_start(self) -> int:
        """How many there are as soon as there are as many slots."""
        return self.fixed or 1

    def more(
        self, processes: int, slots: int, crowded: float, computing: float, cores: Cores
    ) -> int:
        """Return how many further processes the requests that wait for one of them need.

        While the model computes, more processes than cores help nobody; while it waits, each
        process is a place to wait.
        """
        self._crowded_at = now = time.monotonic()
        free = cores.free()
        if self.fixed is not None or now < self._not_before:
            return 0
        if computing > _COMPUTES and free < _FREE * min(1.0, computing):
            return 0
        most = min(slots, max(cores.count, int(cores.count / max(computing, 0.001))))
        return max(0, min(most - processes, processes, math.ceil(crowded)))

    def failed(self) -> None:
        """Note that a further process could not load the model: try again later."""
        self._not_before = time.monotonic() + CALM_S

    def surplus(self, processes: Sequence[Process], period_s: float) -> list[Process]:
        """Return the processes that are not needed any more; to be asked now and then."""
        now = time.monotonic()
        if self.fixed is not None or len(processes) < 2 or now - self._looked_at < period_s:  # noqa: PLR2004
            return []
        busy = {one: one.ledger.counters()["predict_ns"] for one in processes if one.ledger}
        spent = sum(value - self._busy_ns.get(one, value) for one, value in busy.items())
        self._used.append(spent / 1e9 / (now - self._looked_at))
        self._busy_ns, self._looked_at = busy, now
        if len(self._used) < _PERIODS or now - self._crowded_at < CALM_S:
            return []
        needed = max(1, math.ceil(max(self._used) * _MARGIN))
        return list(processes[needed:])
