"""Many models on the embedded server, of which some are wanted more than others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slot_runs import subjects
from slot_runs.crowd import allow_descriptors
from slot_runs.servers import running

from mmekit_bench import Destination, LoadPlan, Payload, put_load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slot_runs.subjects import Trained

    from mmekit_bench import Load

_AT_ONCE = 4


@dataclass(frozen=True)
class Crowd:
    """What came of it.

    Attributes
    ----------
    models, connections
        How many.
    found
        Of all models together.
    asked
        Models that were asked at least once.
    """

    models: int
    connections: int
    found: Load
    asked: int

    @property
    def tail(self) -> float:
        """p99.9 / p50."""
        return self.found.p999_ms / self.found.p50_ms


def ask_crowd(
    trained: Trained,
    models: int,
    connections: int,
    seconds: int,
    warm_up_s: int,
    work: Path,
    say: Callable[[str], None],
) -> Crowd:
    """Load that many models with worker slots, and ask the n-th of them in proportion to 1/n."""
    allow_descriptors()
    folders = [
        subjects.copy(trained.unpacked("slots"), work / f"m{number:03d}")
        for number in range(models)
    ]
    names = tuple(folder.name for folder in folders)
    with running("embedded") as server:
        say("loading")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda folder: server.load(folder.name, folder), folders))
        say(f"{connections} connections for {seconds} s")
        result = put_load(
            LoadPlan(
                Destination.of_url(f"http://127.0.0.1:{server.port}"),
                Payload(trained.subject.load, trained.subject.content_type),
                names,
                distribution="zipf",
                connections=connections,
                duration=float(seconds),
                warm_up=float(warm_up_s),
            )
        )
    asked = sum(one.answered > 0 for one in result.recording.targets)
    return Crowd(models, connections, result.load, asked)
