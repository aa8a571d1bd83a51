"""On what a load was run: without it, figures say little."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

__all__ = ["Machine", "this_machine", "versions"]

_PACKAGES = ("mmekit", "boto3", "httptools", "numpy", "uvloop")


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes
    ----------
    processor
        Its processor's name.
    cores
        How many of them this process may use.
    memory_gib
        All there is.
    load
        How many processes wanted a core in the minute before, on average.
    """

    system: str
    processor: str
    cores: int
    memory_gib: float
    load: float


def this_machine() -> Machine:
    """Describe the machine that the load comes from."""
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        load=round(psutil.getloadavg()[0], 2),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of what the load generator is made of."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
