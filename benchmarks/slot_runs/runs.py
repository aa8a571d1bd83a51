"""One model on one server in one mode, both modes in turn, and our load generator against wrk."""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_bench import Load, Target, Tool, measure
from slot_runs import answers, servers, subjects
from slot_runs.servers import ServerKind, running
from slot_runs.subjects import MODES

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
"""The model that stays loaded, for what follows the loads."""
_APART_S = 0.25
"""Between loads that are timed: each is that of a model that somebody asks for just then."""


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
            after_first = servers.available()
            (first,) = servers.of_models(server, folders)
            room = int(after_first * _SHARE_OF_MEMORY) // max(first.private, _MIB)
            wanted = min(wanted, 1 + max(1, room))
    each = (after_first - servers.available()) // (len(folders) - 1)
    say("memory")
    found = servers.of_models(server, folders)
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


_TURN_S = 1


@dataclass(frozen=True)
class Turns:
    """What each turn of a second gave.

    Attributes
    ----------
    plain_ms, slots_ms
        The response times at p50, in milliseconds, turn by turn.
    """

    plain_ms: tuple[float, ...]
    slots_ms: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Slots / plain, of the medians of the turns."""
        return statistics.median(self.slots_ms) / statistics.median(self.plain_ms)


def take_turns(
    kind: ServerKind, trained: Trained, plan: Plan, work: Path, say: Callable[[str], None]
) -> Turns:
    """Measure a model in both modes on a server of its own.

    Parameters
    ----------
    work
        A folder for the models; it is this measurement's.
    """
    targets: dict[Mode, Target] = {}
    found: dict[Mode, list[float]] = {mode: [] for mode in MODES}
    subject = trained.subject
    with running(kind) as server:
        for mode in MODES:
            folder = subjects.copy(trained.unpacked(mode), work / f"turns-{mode}")
            server.load(folder.name, folder)
            target = Target(server.url(folder.name), subject.load, subject.content_type)
            targets[mode] = target
            if warm_up := plan.warm_up_s.get(kind):
                say(f"{mode}: warming up")
                measure(target, 1, warm_up, plan.tool)
        for turn in range(plan.turns):
            say(f"1 connection, turn {turn + 1} of {plan.turns}")
            for mode, times in found.items():
                times.append(measure(targets[mode], 1, _TURN_S, plan.tool).p50_ms)
    return Turns(tuple(found["plain"]), tuple(found["slots"]))


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
