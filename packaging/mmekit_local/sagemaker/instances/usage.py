"""What containers take of the machine: memory and processor time of all their processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Usage", "UsageMeter"]

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
# So many milliseconds of each look, of which a fleet takes one every three seconds.
_MEASURED_AGAIN = 32
_AT_REST = 1.0
"""Per cent of a core: a container that takes more has something to do, whoever asked for it."""


@dataclass(frozen=True)
class Usage:
    """What the processes of a container take.

    Attributes
    ----------
    memory_bytes
        Their proportional set sizes together.
    cpu_percent
        Their processor time since the measurement before; 100 is one core.
    processes
        Their ids.
    """

    memory_bytes: int
    cpu_percent: float
    processes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _ProcessEntry:
    parent: int
    session: int
    cpu_seconds: float


class UsageMeter:
    """Measures containers, a little at a time.

    The kernel takes about a millisecond for a process's proportional size. So each process is
    measured when it is new, and a few of the others again at each call, the longest ago first.
    Not for use by two threads at once.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._cpu: dict[str, tuple[float, float]] = {}
        self._known: dict[str, list[int]] = {}

    def measure(self, pids: Mapping[str, int]) -> dict[str, Usage]:
        """Measure containers, given the process id of each. Blocks."""
        table = _processes()
        self._known = {label: _processes_of(pid, table) for label, pid in pids.items()}
        self._refresh({pid for processes in self._known.values() for pid in processes})
        return self._usage(table)

    def measure_at_rest(self, pids: Mapping[str, int]) -> dict[str, Usage] | None:
        """Measure containers that nobody asks, by their processor time alone; None if they work.

        What has no processor time takes no memory, and starts and ends no process. That is a
        hundredth of the work of `measure`, and blocks for next to nothing.
        """
        if self._known.keys() != pids.keys():
            return None
        table = {}
        for pid in {pid for processes in self._known.values() for pid in processes}:
            if (entry := _entry(str(pid))) is None:
                return None
            table[pid] = entry
        before = dict(self._cpu)
        usage = self._usage(table)
        if any(one.cpu_percent > _AT_REST for one in usage.values()):
            self._cpu = before
            return None
        return usage

    def _usage(self, table: Mapping[int, _ProcessEntry]) -> dict[str, Usage]:
        now = time.monotonic()
        found = {}
        for label, processes in self._known.items():
            cpu = sum(table[pid].cpu_seconds for pid in processes)
            before, at = self._cpu.get(label, (cpu, now))
            self._cpu[label] = (cpu, now)
            # A process that has ended took its time along: the sum may go down.
            percent = 100 * max(0.0, cpu - before) / (now - at) if now > at else 0.0
            size = sum(self._sizes.get(pid, 0) for pid in processes)
            found[label] = Usage(size, percent, frozenset(processes))
        self._cpu = {label: self._cpu[label] for label in self._known}
        return found

    def _refresh(self, pids: set[int]) -> None:
        known = [pid for pid in self._sizes if pid in pids]
        fresh = [*(pids - self._sizes.keys()), *known[:_MEASURED_AGAIN]]
        kept = {pid: self._sizes[pid] for pid in known[_MEASURED_AGAIN:]}
        # What is measured now goes to the end.
        self._sizes = {**kept, **{pid: _proportional_bytes(pid) for pid in fresh}}


def _processes_of(root: int, table: Mapping[int, _ProcessEntry]) -> list[int]:
    """Return a process, its descendants, and what else is in the sessions that they lead.

    A process whose parent has ended is nobody's descendant, but its session stays.
    """
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
        if process.session != pid:
            # No process has a number below 0: sessions have their place there.
            children.setdefault(-process.session, []).append(pid)
    found: dict[int, None] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid in table and pid not in found:
            found[pid] = None
            waiting += children.get(pid, ())
            waiting += children.get(-pid, ())
    return list(found)


def _processes() -> dict[int, _ProcessEntry]:
    if not (_PROC / "self" / "stat").exists():
        return _processes_by_psutil()
    names = os.listdir(_PROC)  # noqa: PTH208 - names are enough, and cheaper
    entries = ((name, _entry(name)) for name in names if name.isdigit())
    return {int(name): entry for name, entry in entries if entry is not None}


def _entry(name: str) -> _ProcessEntry | None:
    """Return what the kernel tells of a process; None when it has ended, or the kernel does not."""
    try:
        with open(f"/proc/{name}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - a third of the time
            text = file.read(1024)
    except OSError:
        return None
    # proc(5): the command, in parentheses, may hold anything; numbers follow it.
    fields = text[text.rindex(b")") + 2 :].split(None, 14)
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS
    return _ProcessEntry(int(fields[1]), int(fields[3]), cpu)


def _processes_by_psutil() -> dict[int, _ProcessEntry]:
    table = {}
    for process in psutil.process_iter(["ppid", "cpu_times"]):
        times = process.info["cpu_times"]
        cpu = 0.0 if times is None else times.user + times.system
        # psutil tells no sessions: each process leads one, and what lost its parent is not found.
        table[process.pid] = _ProcessEntry(process.info["ppid"] or 0, process.pid, cpu)
    return table


def _proportional_bytes(pid: int) -> int:
    """Return a process's proportional size; where the kernel does not tell, the resident size."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
