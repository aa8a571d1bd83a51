"""Our load generator against wrk, on the same endpoint."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_bench import Load, Target, Tool, measure
from slot_runs import subjects
from slot_runs.servers import running

if TYPE_CHECKING:
    from pathlib import Path

    from slot_runs.subjects import Trained

CONNECTIONS = 8
_LIMIT = 0.9
_ROUNDS = 2
_TOOLS: tuple[Tool, Tool] = ("python", "wrk")


@dataclass(frozen=True)
class Generators:
    """The better of two measurements with each, in turn, on the same model."""

    subject: str
    ours: Load
    wrk: Load

    @property
    def ratio(self) -> float:
        """Requests a second, ours / wrk."""
        return self.ours.requests_per_second / self.wrk.requests_per_second

    @property
    def ours_was_the_limit(self) -> bool:
        """Whether our generator asked so slowly that it was measured, not the server."""
        return self.ratio < _LIMIT


def check(trained: Trained, seconds: int, work: Path) -> Generators | None:
    """Measure with both on the embedded server with worker slots; None when wrk is missing."""
    if shutil.which("wrk") is None:
        return None
    subject = trained.subject
    with running("embedded") as server:
        server.load("m", subjects.copy(trained.unpacked("slots"), work / "generators"))
        target = Target(server.url("m"), subject.load, subject.content_type)
        measure(target, CONNECTIONS, 1, "wrk")
        both = [
            tuple(measure(target, CONNECTIONS, seconds, tool) for tool in _TOOLS)
            for _ in range(_ROUNDS)
        ]
    # What else the machine does can only slow one down.
    ours, wrk = (
        max(loads, key=lambda load: load.requests_per_second) for loads in zip(*both, strict=True)
    )
    return Generators(subject.name, ours, wrk)
