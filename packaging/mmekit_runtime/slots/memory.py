"""The memory that is left, and what a process takes of it."""

from __future__ import annotations

import functools
import os
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMINFO = "/proc/meminfo"
_CGROUPS = "/sys/fs/cgroup"
_OWN_CGROUP = "/proc/self/cgroup"
_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Of version 2 and of version 1: the limit, and the use."""

_TAKEN_BACK = (b"inactive_file ", b"slab_reclaimable "), (b"total_inactive_file ",)
"""Of version 2 and of version 1, in memory.stat: what the kernel takes back when it is needed."""

_KERNEL = "memory.kmem.usage_in_bytes"
"""What the kernel itself has taken for a group of version 1: names and numbers of files above all,
gigabytes where a server with thousands of open files starts processes. It says of the whole machine
alone how much of that it can take back."""

_RECLAIMABLE = b"SReclaimable:"
_KEPT = b"SUnreclaim:", b"KernelStack:", b"PageTables:"
"""Of the machine: what the kernel can take back of its own, and what it keeps: half a MiB a process
for instance."""

_LOW_PART, _MOST_LOW = 10, 512 << 20
_MOST_LOW_OF_MACHINE = 2 << 30
"""Where nothing limits this server, others on the machine take from the same memory, and may take a
gigabyte before one looks again."""

_FLOOR_PART = 4
# Without a limit, version 1 names a number near 2**63.
_UNLIMITED = 1 << 60

RESERVE_VARIABLE = "MMEKIT_SLOTS_RESERVE_MB"
"""The MiB below which idle models park, instead of a tenth of the memory, at most 512, or
2048 where nothing limits the server."""


def private_bytes(pid: int | str = "self") -> int:
    """Return what a process shares with no other; 0 when it has ended."""
    lines = _read(f"/proc/{pid}/smaps_rollup").splitlines()
    names = (b"Private_Clean:", b"Private_Dirty:")
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))


class ServerLimit:
    """What was left when the server last measured, and what has changed since.

    Attributes
    ----------
    limit
        Bytes that the server and all its processes may take; None where it has no such limit.
    sharers
        How many fork servers take of it.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self.sharers = 1
        self._left = 0
        self._changes: deque[tuple[float, int]] = deque()
        self._changed = 0

    def update(self, limit: int, left: int, at: float, sharers: int) -> None:
        """Take what the server has measured.

        Parameters
        ----------
        at
            When it began to, by the monotonic clock: what has changed since counts besides.
        """
        self.limit, self._left, self.sharers = limit, left, max(1, sharers)
        while self._changes and self._changes[0][0] < at:
            self._changed -= self._changes.popleft()[1]

    def count(self, size: int) -> None:
        """Count bytes that a process has taken; negative ones have been given back."""
        if self.limit is not None and size:
            self._changes.append((time.monotonic(), size))
            self._changed += size

    def left(self) -> int | None:
        """Return the bytes that are left; None without a limit."""
        return None if self.limit is None else self._left - self._changed


class AvailableMemory:
    """The machine's memory, or the part that control groups or the server's own limit leave.

    Attributes
    ----------
    server_limit
        What the server that started this fork server leaves of a limit of its own.
    """

    def __init__(self) -> None:
        self.server_limit = ServerLimit()
        self._groups = list(_limited_groups())
        # Asked now, before there are models: it keeps its first answer.
        kept_at_first()
        self._machine = _meminfo(b"MemTotal:")[0]
        self._total = min([self._machine, *(limit for limit, _, _ in self._groups)])
        given = os.environ.get(RESERVE_VARIABLE, "")
        self._reserve = int(given) << 20 if given.isdigit() else None

    @property
    def low(self) -> int:
        """With less than this left, models that are idle park, whatever their age."""
        if self._reserve is not None:
            return self._reserve
        limit = self.server_limit.limit
        total = self._total if limit is None else min(self._total, limit)
        most = _MOST_LOW if total < self._machine else _MOST_LOW_OF_MACHINE
        return min(most, total // _LOW_PART)

    @property
    def floor(self) -> int:
        """Of this no further process takes anything."""
        return self.low // _FLOOR_PART

    def available(self) -> int:
        """Return the bytes that are left."""
        free = list(_meminfo(b"MemAvailable:"))
        for limit, folder, used in self._groups:
            taken = int(_read(f"{folder}/{used}") or b"0")
            free.append(limit - max(0, taken - taken_back(folder)))
        left = self.server_limit.left()
        return min(free) if left is None else min(left, *free)


def taken_back(folder: str) -> int:
    """Return the bytes of a control group that the kernel takes back when they are needed."""
    lines = _read(f"{folder}/memory.stat").splitlines()
    of_v2, of_v1 = _TAKEN_BACK
    # Version 1 has the name of version 2 as well, without the groups below this one.
    names = of_v1 if any(line.startswith(of_v1) for line in lines) else of_v2
    found = sum(int(line.split()[1]) for line in lines if line.startswith(names))
    kernel = int(_read(f"{folder}/{_KERNEL}") or b"0")
    if not kernel:
        return found
    reclaimable, *kept = _meminfo(_RECLAIMABLE, *_KEPT)
    share = kernel * reclaimable // (reclaimable + sum(kept))
    # What the kernel has come to keep meanwhile is this group's, for all that is known.
    # It was 400 of 4,096 MiB by the 470th model.
    meanwhile = sum(kept) - kept_at_first()
    return found + max(0, min(share, kernel - meanwhile))


@functools.cache
def kept_at_first() -> int:
    """Return what the kernel kept of the machine's memory when this process first asked."""
    return sum(_meminfo(*_KEPT))


def _limited_groups() -> Iterator[tuple[int, str, str]]:
    """Yield each limit of a control group around this process, its folder, and the use's file."""
    for line in _read(_OWN_CGROUP).decode().splitlines():
        _, controllers, path = line.split(":", 2)
        # The line of version 2 names no controllers.
        if controllers and "memory" not in controllers.split(","):
            continue
        top = f"{_CGROUPS}/memory" if controllers else _CGROUPS
        parts = [part for part in path.split("/") if part]
        # A container sees its own group at the top, and may be told the path that the host knows.
        for depth in range(len(parts), -1, -1):
            folder = "/".join([top, *parts[:depth]])
            for files in _FILES:
                limit = _read(f"{folder}/{files[0]}").strip()
                if limit.isdigit() and int(limit) < _UNLIMITED:
                    yield int(limit), folder, files[1]


def _meminfo(*names: bytes) -> list[int]:
    """Return what the machine has, in the order of the names."""
    lines = [line.split() for line in _read(_MEMINFO).splitlines()]
    sizes = {line[0]: int(line[1]) << 10 for line in lines if len(line) > 1}
    return [sizes.get(name, _UNLIMITED) for name in names]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return b""
