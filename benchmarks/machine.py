"""What figures were measured on."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass

import psutil

_QUIET_PERCENT = 15


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on, without naming it.

    Attributes
    ----------
    busy_percent
        How busy others kept the cores, in the second before the first measurement.
    """

    cores: int
    memory_gib: int
    system: str
    python: str
    busy_percent: float

    @classmethod
    def this(cls) -> Machine:
        """Describe this machine."""
        affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        memory = round(psutil.virtual_memory().total / 2**30)
        system = f"{platform.system()} {platform.release().partition('-')[0]}"
        busy = psutil.cpu_percent(interval=1.0)
        return cls(cores, memory, system, platform.python_version(), busy)

    def __str__(self) -> str:
        """Return what matters to a reader, as one line."""
        system, python = self.system.split()[0], self.python.rpartition(".")[0]
        return f"{self.cores} cores, {self.memory_gib} GiB, {system}, Python {python}"

    def warn_if_busy(self) -> None:
        """Say so on standard error when others kept the cores from what is to be measured."""
        if self.busy_percent > _QUIET_PERCENT:
            print(
                f"Something else keeps the cores {self.busy_percent:.0f} % busy.", file=sys.stderr
            )
