"""How many cores there are, and how many of them are idle."""

from __future__ import annotations

import os
import time

_TICKS = os.sysconf("SC_CLK_TCK")
_SHORT_S, _LONG_S = 0.05, 2.0


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
