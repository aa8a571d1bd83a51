"""Very many small models at once, on a server with worker slots."""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_local.server.limits import ServerLimits
from slot_runs import servers, subjects
from slot_runs.servers import ServerFailure, ServerKind, family, running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slot_runs.servers import Server
    from slot_runs.subjects import Trained

_AT_ONCE = 4
_SHELL = 1 << 20
"""More than what stands for the workers of a parked model, and less than any process of Python."""
_SLICE = 100
# Idle models park long before; where they do not, the system would kill something next.
_LEAST_AVAILABLE = 128 << 20


@dataclass(frozen=True)
class Crowd:
    """What became of the models.

    Attributes
    ----------
    server
        Which.
    wanted, loaded, answered
        Models; those that answered gave the right answer.
    failure
        The first thing that went wrong; None when nothing did.
    load_s, answer_s
        For all of them, four at a time, the answers one after the other.
    unload_ms
        The median of up to a hundred models, one after the other.
    load_ms
        The median load of each hundred models, in their order: whether loads get slower.
    answer_p50_ms, answer_p99_ms
        Of each model's first request.
    proportional
        Bytes of all processes of the server together (PSS).
    available
        Bytes by which the machine's MemAvailable has shrunk.
    processes
        How many there are, shells that stand for workers among them.
    awake
        How many of the models have a process of their own, the others being parked.
    descriptors
        The most that one process of the server has open.
    """

    server: ServerKind
    wanted: int
    loaded: int
    answered: int
    failure: str | None
    load_s: float
    answer_s: float
    unload_ms: float
    load_ms: tuple[float, ...]
    answer_p50_ms: float
    answer_p99_ms: float
    proportional: int
    available: int
    processes: int
    awake: int
    descriptors: int

    @property
    def complete(self) -> bool:
        """Whether every model was loaded and answered."""
        return self.answered == self.wanted


def load_many(
    kind: ServerKind, work: Path, say: Callable[[str], None], *, trained: Trained, most: int
) -> Crowd:
    """Load that many models, or as many as the server takes, ask each, and unload some."""
    count = min(most, ServerLimits().models) if kind == "embedded" else most
    allow_descriptors()
    say("copying the model's folder")
    source = trained.unpacked("slots")
    folders = [subjects.copy(source, work / f"m{number}") for number in range(count)]
    with running(kind) as server:
        before = servers.available()
        loading = load(server, folders, say)
        times = loading.times
        loaded = [folder.name for folder in folders[: len(times)]]
        say("asking each model")
        began = time.monotonic()
        answer_ms, wrong = _ask(server, trained, loaded)
        answer_s = time.monotonic() - began
        shrunk = before - servers.available()
        say("measuring memory")
        footprint = servers.of_server(server)
        descriptors = max(_descriptors(process.pid) for process in family(server))
        alive = awake(server, folders)
        say("unloading")
        unload_ms = _unload(server, loaded[:: max(1, len(loaded) // _SLICE)])
    answer_ms.sort()
    return Crowd(
        server=kind,
        wanted=count,
        loaded=len(loaded),
        answered=len(answer_ms),
        failure=loading.failure or wrong,
        load_s=loading.seconds,
        answer_s=answer_s,
        unload_ms=statistics.median(unload_ms) if unload_ms else float("nan"),
        load_ms=tuple(
            statistics.median(times[start : start + _SLICE])
            for start in range(0, len(times), _SLICE)
        ),
        answer_p50_ms=answer_ms[len(answer_ms) // 2] if answer_ms else float("nan"),
        answer_p99_ms=answer_ms[int(0.99 * len(answer_ms))] if answer_ms else float("nan"),
        proportional=footprint.proportional,
        available=shrunk,
        processes=footprint.processes,
        awake=alive,
        descriptors=descriptors,
    )


def allow_descriptors() -> None:
    """Allow this process, and the servers it starts, as many descriptors as the system does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(frozen=True)
class Loading:
    """How models were loaded.

    Attributes
    ----------
    times
        Milliseconds of each load.
    failure
        What stopped it before the last; None when nothing did.
    seconds
        Of all of them.
    """

    times: list[float]
    failure: str | None
    seconds: float


def awake(server: Server, folders: Sequence[Path]) -> int:
    """Return how many models have a process of their own."""
    return sum(one.proportional > _SHELL for one in servers.of_models(server, folders))


def load(server: Server, folders: Sequence[Path], say: Callable[[str], None]) -> Loading:
    """Load models until one cannot be loaded."""
    began = time.monotonic()
    times: list[float] = []
    failure = _load(server, folders, times, say)
    return Loading(times, failure, time.monotonic() - began)


def _load(
    server: Server, folders: Sequence[Path], times: list[float], say: Callable[[str], None]
) -> str | None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # The first alone: it brings in the libraries.
        rest = iter(folders)
        batch = [next(rest)]
        while batch:
            try:
                times += pool.map(lambda folder: server.load(folder.name, folder), batch)
            except (ServerFailure, OSError) as error:
                return f"model {len(times)} and following: {error}"
            if servers.available() < _LEAST_AVAILABLE:
                return f"only {servers.available() >> 20} MiB were left on this machine"
            say(f"{len(times)} of {len(folders)} models loaded")
            batch = [folder for _, folder in zip(range(_AT_ONCE * 5), rest, strict=False)]
    return None


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


def _unload(server: Server, names: Sequence[str]) -> list[float]:
    """Return the milliseconds of each; a whole crowd would take minutes."""
    times = []
    # One at a time: DJL Serving answers some of several at once with
    # ConcurrentModificationException.
    for name in names:
        began = time.perf_counter()
        server.unload(name)
        times.append((time.perf_counter() - began) * 1000)
    return times


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    except OSError:
        return 0
