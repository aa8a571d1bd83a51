"""Very many small models at once, on the embedded server with worker slots."""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slot_runs import processes, subjects
from slot_runs.servers import ServerFailure, family, running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slot_runs.servers import Server
    from slot_runs.subjects import Trained

_AT_ONCE = 4
_SLICE = 100
# What the system may kill a server for comes long before.
_LEAST_AVAILABLE = 1 << 30


@dataclass(frozen=True)
class Crowd:
    """What became of the models.

    Attributes
    ----------
    wanted, loaded, answered
        Models; those that answered gave the right answer.
    failure
        The first thing that went wrong; None when nothing did.
    load_s, answer_s, unload_s
        For all of them, four at a time, the answers one after the other.
    load_ms
        The median load of each hundred models, in their order: whether loads get slower.
    answer_p50_ms, answer_p99_ms
        Of each model's first request.
    proportional
        Bytes of all processes of the server together (PSS).
    available
        Bytes by which the machine's MemAvailable has shrunk.
    processes
        How many there are.
    descriptors
        The most that one process of the server has open.
    """

    wanted: int
    loaded: int
    answered: int
    failure: str | None
    load_s: float
    answer_s: float
    unload_s: float
    load_ms: tuple[float, ...]
    answer_p50_ms: float
    answer_p99_ms: float
    proportional: int
    available: int
    processes: int
    descriptors: int

    @property
    def complete(self) -> bool:
        """Whether every model was loaded and answered."""
        return self.answered == self.wanted


def load_many(trained: Trained, count: int, work: Path, say: Callable[[str], None]) -> Crowd:
    """Load that many models, ask each, and unload them."""
    allow_descriptors()
    say("copying the model's folder")
    source = trained.unpacked("slots")
    folders = [subjects.copy(source, work / f"m{number}") for number in range(count)]
    with running("embedded") as server:
        before = processes.available()
        began = time.monotonic()
        times, failure = _load(server, folders, before, say)
        load_s = time.monotonic() - began
        loaded = [folder.name for folder in folders[: len(times)]]
        say("asking each model")
        began = time.monotonic()
        answer_ms, wrong = _ask(server, trained, loaded)
        answer_s = time.monotonic() - began
        shrunk = before - processes.available()
        say("measuring memory")
        footprint = processes.of_server(server)
        descriptors = max(_descriptors(process.pid) for process in family(server))
        say("unloading")
        began = time.monotonic()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(server.unload, loaded))
        unload_s = time.monotonic() - began
    answer_ms.sort()
    return Crowd(
        wanted=count,
        loaded=len(loaded),
        answered=len(answer_ms),
        failure=failure or wrong,
        load_s=load_s,
        answer_s=answer_s,
        unload_s=unload_s,
        load_ms=tuple(
            statistics.median(times[start : start + _SLICE])
            for start in range(0, len(times), _SLICE)
        ),
        answer_p50_ms=answer_ms[len(answer_ms) // 2] if answer_ms else float("nan"),
        answer_p99_ms=answer_ms[int(0.99 * len(answer_ms))] if answer_ms else float("nan"),
        proportional=footprint.proportional,
        available=shrunk,
        processes=footprint.processes,
        descriptors=descriptors,
    )


def allow_descriptors() -> None:
    """Allow this process, and the servers it starts, as many descriptors as the system does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _load(
    server: Server, folders: Sequence[Path], before: int, say: Callable[[str], None]
) -> tuple[list[float], str | None]:
    """Return the milliseconds of each load, and what stopped it before the last."""
    times: list[float] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # The first alone: it brings in the libraries.
        rest = iter(folders)
        batch = [next(rest)]
        while batch:
            try:
                times += pool.map(lambda folder: server.load(folder.name, folder), batch)
            except (ServerFailure, OSError) as error:
                return times, f"model {len(times)} and following: {error}"
            if processes.available() < _LEAST_AVAILABLE:
                return times, f"only {processes.available() >> 20} MiB were left of {before >> 20}"
            say(f"{len(times)} of {len(folders)} models loaded")
            batch = [folder for _, folder in zip(range(_AT_ONCE * 5), rest, strict=False)]
    return times, None


def _ask(server: Server, trained: Trained, names: Sequence[str]) -> tuple[list[float], str | None]:
    """Return the milliseconds of each right answer, and the first that was none."""
    subject = trained.subject
    expected = None
    times, wrong = [], None
    for name in names:
        began = time.perf_counter()
        try:
            answer = server.invoke(name, subject.load, subject.content_type)
        except (ServerFailure, OSError) as error:
            wrong = wrong or f"{name}: {error}"
            continue
        times.append((time.perf_counter() - began) * 1000)
        expected = expected or answer
        if answer != expected:
            times.pop()
            wrong = wrong or f"{name} answered {answer.decode(errors='replace')}"
    return times, wrong


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    except OSError:
        return 0
