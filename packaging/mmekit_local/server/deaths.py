"""How often the workers of a model have died of late, and whether that was too often."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

MAX_DEATHS = 3
WINDOW_S = 60.0


@dataclass(frozen=True)
class _Death:
    pid: int | None
    at: float
    why: str


class Deaths:
    """The last deaths of a model's workers; those that do not come to life count too.

    A model whose workers die more than `MAX_DEATHS` times within `WINDOW_S` is to be given up.
    """

    def __init__(self) -> None:
        self._last: deque[_Death] = deque(maxlen=MAX_DEATHS + 1)

    def too_often(self, pid: int | None, why: str) -> bool:
        """Count a death, and say whether it is one too many.

        Parameters
        ----------
        pid
            The process, which is counted once for all slots of it; None when it never was ready.
        why
            Goes on after the process's id: "died: it was killed".
        """
        if pid is not None and any(one.pid == pid for one in self._last):
            return False
        now = time.monotonic()
        self._last.append(_Death(pid, now, why))
        return len(self._last) > MAX_DEATHS and now - self._last[0].at < WINDOW_S

    def __str__(self) -> str:
        """Return what was counted, for a line of the log."""
        now = time.monotonic()
        return "; ".join(
            f"{now - one.at:.1f} s ago {one.pid or 'one'} {one.why}" for one in self._last
        )
