"""Whether there is memory for one more model.

DJL Serving answers 507 when what is available, less what the model requires, is less than what
shall stay free (ModelInfo.checkAvailableMemory). Here loads under way count as well, and a limit
can be set below the machine's.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIB = 1 << 20
DEFAULT_RESERVED_MB = 500
_MEASURED_AGAIN = 8
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def machine_limit() -> int:
    """Return the bytes that this machine, or the cgroup around this process, has in all."""
    total = int(psutil.virtual_memory().total)
    for path in _CGROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(total, int(text))
    return total


def proportional_bytes(pid: int) -> int:
    """Return a process's proportional set size in bytes; 0 when it has ended.

    Where the kernel does not tell (macOS), the resident size is the nearest there is.
    """
    return _memory_of(pid, ("Pss:",))


def private_bytes(pid: int) -> int:
    """Return the bytes that a process shares with no other; 0 when it has ended.

    Where the kernel does not tell (macOS), the resident size is the nearest there is.
    """
    return _memory_of(pid, ("Private_Clean:", "Private_Dirty:"))


def _memory_of(pid: int, names: tuple[str, ...]) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))


class Memory:
    """The memory of one server.

    Parameters
    ----------
    limit
        Bytes that the server and its workers may use; None takes the machine's.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit if limit is not None else machine_limit()
        self._set = limit is not None
        self._loading = 0
        self._measured: dict[int, int] = {}

    def available(self, worker_pids: Iterable[int]) -> int:
        """Return the bytes that are left, loads under way not counted.

        Measuring a process takes the kernel a millisecond: each is measured when it is new, and a
        few of the others again at each call, the longest ago first.
        """
        free = int(psutil.virtual_memory().available)
        if not self._set and self.limit >= psutil.virtual_memory().total:
            return free
        pids = {os.getpid(), *worker_pids}
        known = [pid for pid in self._measured if pid in pids]
        fresh = {pid: proportional_bytes(pid) for pid in pids - self._measured.keys()}
        again = {pid: proportional_bytes(pid) for pid in known[:_MEASURED_AGAIN]}
        kept = {pid: self._measured[pid] for pid in known[_MEASURED_AGAIN:]}
        # What was measured now goes to the end.
        self._measured = {**kept, **again, **fresh}
        return min(free, self.limit - sum(self._measured.values()))

    @contextmanager
    def admit(self, required: int, reserved: int, worker_pids: Iterable[int]) -> Iterator[bool]:
        """Say whether ``required`` bytes fit, and count them as taken while the load lasts."""
        if self.available(worker_pids) - self._loading - required < reserved:
            yield False
            return
        self._loading += required
        try:
            yield True
        finally:
            self._loading -= required
