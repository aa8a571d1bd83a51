"""Thousands of models in a container with little memory, asked by an open loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_bench import Destination, LoadPlan, Payload, put_load
from slot_runs import crowd, groups, subjects
from slot_runs.outcome import GIB
from slot_runs.servers import TITLES, ServerKind, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slot_runs.subjects import Trained

_RATE = 50.0
_OUTSTANDING = 1000


@dataclass(frozen=True)
class Container:
    """What became of them.

    Attributes
    ----------
    limit
        Bytes of the control group, in which everything of the server is.
    models, loaded
        Wanted, and loaded.
    failure
        What went wrong while they were loaded; None when nothing did.
    load_s
        Seconds of loading.
    rate, seconds
        Requests a second, and for how long.
    answered, errors, dropped
        Requests, by what became of them.
    p50_ms, p95_ms, p99_ms
        Of the answers, from when each request was due.
    asked
        Models that were asked at all.
    awake
        Models that had a process at the end.
    used
        Bytes of the group at the end.
    kills
        Processes that the kernel killed for want of memory.
    """

    server: ServerKind
    limit: int
    models: int
    loaded: int
    failure: str | None
    load_s: float
    rate: float
    seconds: float
    answered: int
    errors: int
    dropped: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    asked: int
    awake: int
    used: int
    kills: int

    @property
    def complete(self) -> bool:
        """Whether every model was loaded and every request answered."""
        failed = self.errors or self.dropped or self.kills or self.failure
        return self.loaded == self.models and not failed


def serve(
    kind: ServerKind,
    work: Path,
    say: Callable[[str], None],
    *,
    trained: Trained,
    minutes: float,
    count: int = 2000,
    limit: int = 4 * GIB,
) -> Container:
    """Load models into a container with so many bytes, and ask them as Zipf has it.

    Raises
    ------
    NoControlGroupError
        Whoever runs this may make none.
    ServerFailure
        The server did not start.
    """
    crowd.allow_descriptors()
    say("copying the model's folder")
    source = trained.unpacked("slots")
    folders = [subjects.copy(source, work / f"m{number}") for number in range(count)]
    with groups.limited(limit) as group, running(kind, around=group.entered) as server:
        loading = crowd.load(server, folders, say)
        names = tuple(folder.name for folder in folders[: len(loading.times)])
        subject = trained.subject
        plan = LoadPlan(
            Destination.of_url(f"http://127.0.0.1:{server.port}"),
            Payload(subject.load, subject.content_type),
            names,
            distribution="zipf",
            connections=64,
            rate=_RATE,
            poisson=True,
            outstanding=_OUTSTANDING,
            duration=60 * minutes,
        )
        say(f"{TITLES[kind]}: {_RATE:g} requests a second for {minutes:g} minutes")
        found = put_load(plan)
        recording = found.recording
        awake = crowd.awake(server, folders)
        return Container(
            server=kind,
            limit=limit,
            models=count,
            loaded=len(loading.times),
            failure=loading.failure,
            load_s=loading.seconds,
            rate=_RATE,
            seconds=recording.seconds,
            answered=recording.answered,
            errors=recording.failed,
            dropped=recording.dropped,
            p50_ms=recording.later.percentile(50),
            p95_ms=recording.later.percentile(95),
            p99_ms=recording.later.percentile(99),
            asked=sum(one.answered > 0 for one in recording.targets),
            awake=awake,
            used=group.used,
            kills=group.kills,
        )
