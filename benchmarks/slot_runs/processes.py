"""What processes cost in memory."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from mmekit_local.server.memory import process_memory
from slot_runs.servers import family

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from slot_runs.servers import Server


@dataclass(frozen=True)
class Footprint:
    """Bytes of some processes together.

    Attributes
    ----------
    private
        What they share with no other.
    proportional
        With their shares of what they share (PSS).
    """

    processes: int
    private: int
    proportional: int


def footprint(pids: Iterable[int]) -> Footprint:
    """Measure processes."""
    found = [process_memory(pid) for pid in pids]
    return Footprint(
        len(found),
        sum(one.private_bytes for one in found),
        sum(one.proportional_bytes for one in found),
    )


def of_models(server: Server, folders: Sequence[Path]) -> list[Footprint]:
    """Measure the processes that belong to each model: those that work in its folder.

    That is a worker of the plain engine, a model process, and the stubs before it.
    """
    by_folder: dict[str, list[int]] = defaultdict(list)
    for process in family(server):
        with contextlib.suppress(OSError):
            by_folder[os.readlink(f"/proc/{process.pid}/cwd")].append(process.pid)  # noqa: PTH115
    return [footprint(by_folder[str(folder)]) for folder in folders]


def of_server(server: Server) -> Footprint:
    """Measure all processes of a server."""
    return footprint(process.pid for process in family(server))


def available() -> int:
    """Return the machine's MemAvailable in bytes."""
    return int(psutil.virtual_memory().available)
