"""Whether requests wait for a process, and whether it computes meanwhile or waits itself."""

from __future__ import annotations

import time

_WINDOW_NS = 100_000_000
_CROWDED = 0.5
"""Requests that wait, on average over a window, from which on another process is worth asking for.
"""

_LONGER = 2
"""Than a single request, what a call with two may take; one with n, half of what n would alone."""

_IN_A_ROW = 3
"""Calls that have to take longer: one that does so may have waited for a core."""


class Demand:
    """What one process sees of the requests that wait for it.

    Requests that are answered together wait for nobody, as long as that takes not much longer than
    one of them alone.
    """

    def __init__(self) -> None:
        self._single_ns = 0.0
        self._each_ns = 0.0
        self._longer = 0
        self._began_ns = 0
        self._busy_ns = 0
        self._waited_ns = 0
        self._computed_ns = 0

    def most(self, limit_s: float) -> int:
        """Return how many requests one call may answer, to take half of ``limit_s`` at most.

        Where joining them gains nothing, the last of them would wait beyond it for the first.
        Before anything is known, it is one.
        """
        if not self._each_ns:
            return 1
        return max(1, int(limit_s * 5e8 / self._each_ns))

    def note(self, answered: int, waiting: int, took_ns: int) -> dict[str, float] | None:
        """Take a call into account.

        Parameters
        ----------
        answered, waiting
            Requests that were answered by it, none when it made pieces of answers, and those that
            had to wait meanwhile.

        Returns
        -------
        dict or None
            After a window in which too many have waited: how many, as ``crowded``, and for how
            much of the time in calls the process was ``computing``, from 0.
        """
        if answered:
            # Up at once, down by halves.
            each_ns = took_ns / answered
            self._each_ns = max(each_ns, (self._each_ns + each_ns) / 2)
        if answered == 1:
            self._single_ns += (took_ns - self._single_ns) * (0.2 if self._single_ns else 1.0)
        elif answered and took_ns > self._single_ns * max(_LONGER, answered / 2):
            self._longer += 1
            if self._longer >= _IN_A_ROW:
                waiting += answered - 1
        else:
            self._longer = 0
        now = time.monotonic_ns()
        if now - self._began_ns > 2 * _WINDOW_NS + took_ns:
            if not waiting:
                return None
            # What came before is in none of the figures: this call neither.
            self._began_ns = now
            self._busy_ns = self._waited_ns = 0
            self._computed_ns = _computed_ns()
            return None
        self._busy_ns += took_ns
        self._waited_ns += waiting * took_ns
        elapsed = now - self._began_ns
        if elapsed < _WINDOW_NS:
            return None
        self._began_ns = 0
        crowded = self._waited_ns / elapsed
        if crowded < _CROWDED or not self._busy_ns:
            return None
        computing = (_computed_ns() - self._computed_ns) / self._busy_ns
        return {"crowded": crowded, "computing": max(0.0, computing)}


def _computed_ns() -> int:
    """Return the time that this process has computed, or has waited for a core to do so."""
    try:
        with open("/proc/self/schedstat", "rb") as file:  # noqa: PTH123
            running, delayed, _ = file.read().split()
    except (OSError, ValueError):
        return time.process_time_ns()
    return max(time.process_time_ns(), int(running)) + int(delayed)
