"""One model on one server in one mode: loads, memory, answers and load, in this order."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_bench import Load, Target, Tool, measure
from slot_runs import answers, processes, subjects
from slot_runs.servers import ServerKind, running

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from slot_runs.answers import Answers
    from slot_runs.servers import Server
    from slot_runs.subjects import Mode, Trained

# Of the memory that there is; the rest is the machine's.
_SHARE_OF_MEMORY = 0.7
_MIB = 1 << 20
_KEPT = "cold-first"
_APART_S = 0.25
"""Between loads that are timed: each is that of a model that somebody asks for just then."""
"""The model that stays loaded, for what follows the loads."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes
    ----------
    cold_loads
        Loads that count, after a first one.
    models
        Models loaded at once, by (server, subject, mode), for their marginal memory, where the
        memory allows it; ``cold_loads`` + 1 for what is not named.
    connections
        Numbers of connections under load.
    seconds
        Of each measurement under load.
    warm_up_s
        Seconds of load before each measurement, by server; none for what is not named.
    turns
        How often both modes are measured in turn on one connection.
    checks_generator
        Whether our load generator is compared with wrk.
    tool
        The load generator; None takes wrk when it is installed.
    """

    cold_loads: int
    models: Mapping[tuple[ServerKind, str, Mode], int]
    connections: tuple[int, ...]
    seconds: int
    warm_up_s: Mapping[ServerKind, int]
    turns: int
    checks_generator: bool = True
    tool: Tool | None = None


@dataclass(frozen=True)
class Cold:
    """Milliseconds of POST /models.

    Attributes
    ----------
    first_ms
        The first load of a new server: it brings in the libraries, and starts the fork server.
    loads_ms
        Those after it, each a new folder.
    """

    first_ms: float
    loads_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The median of the loads after the first."""
        return statistics.median(self.loads_ms)


@dataclass(frozen=True)
class Memory:
    """Bytes that models take, each having answered one request.

    Attributes
    ----------
    models
        How many were loaded at once.
    private, proportional
        Of one model's processes; the median over the models.
    marginal_private
        What each model after the first adds: private memory of their processes.
    marginal_available
        The same by the machine's MemAvailable: it counts what the server needs for them too, and
        whatever else happened on the machine meanwhile.
    """

    models: int
    private: int
    proportional: int
    marginal_private: int
    marginal_available: int


@dataclass(frozen=True)
class Measured:
    """Load on a model.

    Attributes
    ----------
    workers
        The largest number of workers that the model might have.
    """

    workers: int
    load: Load


@dataclass(frozen=True)
class Run:
    """What was found."""

    server: ServerKind
    subject: str
    mode: Mode
    cold: Cold
    memory: Memory
    measured: tuple[Measured, ...]
    answers: Answers
    seconds: float

    def load(self, connections: int) -> Load | None:
        """Return the measurement with a number of connections."""
        for one in self.measured:
            if one.load.connections == connections:
                return one.load
        return None


def run(
    kind: ServerKind,
    trained: Trained,
    mode: Mode,
    plan: Plan,
    work: Path,
    say: Callable[[str], None],
) -> Run:
    """Measure one model on a server of its own.

    Parameters
    ----------
    work
        A folder for the models; it is this run's.
    say
        Is told what is being done.
    """
    began = time.monotonic()
    subject = trained.subject
    say("packing")
    trained.unpacked(mode)
    with running(kind) as server:
        cold, memory = _loads(server, trained, mode, plan, work, say)
        say("answers")
        found = answers.collect(server, _KEPT, subject)
        measured = _under_load(server, trained, mode, plan, work, say)
    return Run(
        server=kind,
        subject=subject.name,
        mode=mode,
        cold=cold,
        memory=memory,
        measured=tuple(measured),
        answers=found,
        seconds=time.monotonic() - began,
    )


def _loads(
    server: Server,
    trained: Trained,
    mode: Mode,
    plan: Plan,
    work: Path,
    say: Callable[[str], None],
) -> tuple[Cold, Memory]:
    subject = trained.subject
    wanted = max(plan.models.get((server.kind, subject.name, mode), 0), plan.cold_loads + 1)
    folders: list[Path] = []
    times = []
    after_first = 0
    while len(folders) < wanted:
        number = len(folders)
        say(f"cold load {number + 1} of {wanted}")
        target = subjects.copy(
            trained.unpacked(mode), work / (f"cold-{number}" if number else _KEPT)
        )
        if 0 < number <= plan.cold_loads:
            time.sleep(_APART_S)
        times.append(server.load(target.name, target))
        server.invoke(target.name, subject.load, subject.content_type)
        folders.append(target)
        if number == 0:
            after_first = processes.available()
            (first,) = processes.of_models(server, folders)
            room = int(after_first * _SHARE_OF_MEMORY) // max(first.private, _MIB)
            wanted = min(wanted, 1 + max(1, room))
    each = (after_first - processes.available()) // (len(folders) - 1)
    say("memory")
    found = processes.of_models(server, folders)
    memory = Memory(
        models=len(folders),
        private=int(statistics.median(one.private for one in found)),
        proportional=int(statistics.median(one.proportional for one in found)),
        marginal_private=sum(one.private for one in found[1:]) // (len(folders) - 1),
        marginal_available=each,
    )
    say("unloading")
    for one in folders[1:]:
        server.unload(one.name)
    return Cold(times[0], tuple(times[1 : plan.cold_loads + 1])), memory


def _under_load(
    server: Server,
    trained: Trained,
    mode: Mode,
    plan: Plan,
    work: Path,
    say: Callable[[str], None],
) -> list[Measured]:
    subject = trained.subject
    found: list[Measured] = []
    loaded = _KEPT
    for connections in plan.connections:
        workers = subject.plain_workers.get(connections, 1) if mode == "plain" else subjects.SLOTS
        name = f"workers-{workers}" if mode == "plain" and workers > 1 else _KEPT
        if name != loaded:
            server.unload(loaded)
            server.load(name, subjects.copy(trained.unpacked(mode, workers), work / name))
            loaded = name
        target = Target(server.url(name), subject.load, subject.content_type)
        if warm_up := plan.warm_up_s.get(server.kind):
            say(f"{connections} connections: warming up")
            measure(target, connections, warm_up, plan.tool)
        say(f"{connections} connections")
        found.append(Measured(workers, measure(target, connections, plan.seconds, plan.tool)))
    return found
