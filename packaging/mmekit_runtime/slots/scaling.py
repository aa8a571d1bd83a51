"""How many processes a model has: as many as its requests need, and the cores have use for.

Each process sees how many requests wait for it (`LoadMonitor`) and tells the fork server, which
knows the cores (`Cores`) and decides (`Scaling`).
"""

from __future__ import annotations

import math
import os
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit_runtime.slots.slot import ProcessHandle

CALM_S = 30.0
"""Without requests that wait, after which processes that are not needed end."""

_PERIODS = 6
"""That are looked back upon before a process ends."""
_COMPUTES = 0.3
"""Of the time in calls, from which on a model is taken for one that computes."""
_MARGIN = 1.25
"""More processes than the busiest period has used: requests do not come evenly."""
_FREE = 0.6
"""Of what a process computes, the part that must be idle for another to be of use."""

_TICKS = os.sysconf("SC_CLK_TCK")
# Idle time is counted in ticks, of 10 ms mostly: over less it says little, over more not what is
# idle now.
_SHORT_S, _LONG_S = 0.05, 2.0

_WINDOW_NS = 100_000_000
_CROWDED = 0.5
"""Requests that wait, on average over a window, from which on another process is worth asking for.
"""

_LONGER = 2
"""Than a single request, what a call with two may take; one with n, half of what n would alone."""

_IN_A_ROW = 3
"""Calls that have to take longer: one that does so may have waited for a core."""


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
        self._busy_ns: dict[ProcessHandle, int] = {}
        self._used: deque[float] = deque(maxlen=_PERIODS)

    @property
    def at_start(self) -> int:
        """How many there are as soon as there are as many slots."""
        return self.fixed or 1

    def further_processes(
        self, processes: int, slots: int, crowded: float, computing: float, cores: Cores
    ) -> int:
        """Return how many further processes the requests that wait for one of them need.

        While the model computes, more processes than cores help nobody; while it waits, each
        process is a place to wait.
        """
        self._crowded_at = now = time.monotonic()
        # Asked in any case: the answer is for the time since it was last asked.
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

    def surplus(self, processes: Sequence[ProcessHandle], period_s: float) -> list[ProcessHandle]:
        """Return the processes that are not needed any more; to be asked now and then."""
        now = time.monotonic()
        if self.fixed is not None or len(processes) < 2 or now - self._looked_at < period_s:  # noqa: PLR2004
            return []
        busy = {one: one.scoreboard.counters()["predict_ns"] for one in processes if one.scoreboard}
        spent = sum(value - self._busy_ns.get(one, value) for one, value in busy.items())
        self._used.append(spent / 1e9 / (now - self._looked_at))
        self._busy_ns, self._looked_at = busy, now
        if len(self._used) < _PERIODS or now - self._crowded_at < CALM_S:
            return []
        needed = max(1, math.ceil(max(self._used) * _MARGIN))
        return list(processes[needed:])


class Cores:
    """The cores that this process and what it forks may use.

    Attributes
    ----------
    count
        At least 1; what the control group allows, where that is less.
    """

    def __init__(self) -> None:
        self._own = os.sched_getaffinity(0)
        self.count = max(1, min(len(self._own), round(_quota() or len(self._own))))
        self._looked_at, self._idle_s = 0.0, 0.0
        self._free = 0.0

    def free(self) -> float:
        """Return how many were idle since the last call; none when that was too long ago."""
        now = time.monotonic()
        elapsed = now - self._looked_at
        if elapsed < _SHORT_S:
            return self._free
        idle_s = self._idle()
        self._free = 0.0 if elapsed > _LONG_S else (idle_s - self._idle_s) / elapsed
        self._looked_at, self._idle_s = now, idle_s
        return self._free

    def _idle(self) -> float:
        """Return the seconds that these cores were idle since the machine has started."""
        names = {f"cpu{number}".encode() for number in self._own}
        try:
            with open("/proc/stat", "rb") as file:  # noqa: PTH123
                lines = [line.split() for line in file if line.startswith(b"cpu")]
        except OSError:
            return 0.0
        # idle and iowait: a core whose process waits for a disk is free as well.
        return sum((int(line[4]) + int(line[5])) / _TICKS for line in lines if line[0] in names)


def _quota() -> float | None:
    """Return the cores that the control group allows, None when it does not limit them."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:  # noqa: PTH123
            quota, period = file.read().split()
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:  # noqa: PTH123
                quota = file.read().strip()
            with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:  # noqa: PTH123
                period = file.read()
        except OSError:
            return None
    return int(quota) / int(period) if quota.isdigit() and int(period) else None


class LoadMonitor:
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

    def batch_limit(self, limit_s: float) -> int:
        """Return how many requests one call may answer, to take half of ``limit_s`` at most.

        Where joining them gains nothing, the last of them would wait beyond it for the first.
        Before anything is known, it is one.
        """
        if not self._each_ns:
            return 1
        return max(1, int(limit_s * 5e8 / self._each_ns))

    def record(self, answered: int, waiting: int, took_ns: int) -> dict[str, float] | None:
        """Take a call into account.

        Parameters
        ----------
        answered, waiting
            Requests that were answered by it, none when it made chunks of answers, and those that
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
    # schedstat knows who has waited for a core, but is that of the first thread alone.
    return max(time.process_time_ns(), int(running)) + int(delayed)
