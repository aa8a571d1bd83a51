"""One model on one peer: what it costs to load, to keep and to ask."""

from __future__ import annotations

import http.client
import shutil
import statistics
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from slot_runs.servers import ServerFailure

from mmekit.errors import MmekitError
from mmekit_bench import measure
from peer_runs.cells import ASKED, CONNECTIONS, COUNTS, Cell, Cold, Memory
from peer_runs.processes import CEILING, Ceiling, PeerFailure, TooLarge, descendants, proportional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mmekit_bench import Tool
    from peer_runs.peer import Peer, Server
    from peer_runs.subjects import Subject

FAILURES = (
    PeerFailure,
    ServerFailure,
    MmekitError,
    OSError,
    http.client.HTTPException,
    RuntimeError,
)

_COUNTED_LOADS = 10
_LONGER_S = 10
_PAUSE_S = 1.0
_REASON_BEGIN, _REASON_END = 80, 220


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes
    ----------
    counts
        Numbers of models for which memory is measured.
    connections
        Numbers of connections under load.
    seconds
        Of each measurement under load.
    tool
        The load generator; None takes wrk when it is installed.
    """

    counts: tuple[int, ...] = COUNTS
    connections: tuple[int, ...] = CONNECTIONS
    seconds: int = 3
    tool: Tool | None = None


def unavailable(peer: Peer, subject: Subject, why: str) -> Cell:
    """Return the cell of a peer that could not be had."""
    reason = _shortened(why)
    missing = {"cold": reason, "memory": reason, "load": reason}
    return Cell(peer.name, "", subject.name, _now(), missing=missing)


def measure_cell(
    peer: Peer,
    subject: Subject,
    plan: Plan,
    budget_s: float,
    work: Path,
    say: Callable[[str], None],
) -> Cell:
    """Measure one model on one peer.

    Parameters
    ----------
    budget_s
        Seconds that all of it should take. Loads end when theirs are over: what is then missing
        of memory is extrapolated.
    work
        A new folder.
    say
        Is told what is being done.
    """
    began = time.monotonic()
    under_load = len(plan.connections) * (plan.seconds + peer.warm_up_s)
    run = _Run(peer, subject, plan, began + max(budget_s - under_load, 0.0), work, say)
    cell = Cell(peer.name, peer.version, subject.name, _now())
    parts = (run.loads, run.load) if peer.dynamic else (run.starts, run.more_starts)
    for part in parts:
        try:
            cell = part(cell)
        except FAILURES as failure:
            name = "load" if part == run.load else "memory" if cell.cold else "cold"
            cell = replace(cell, missing={**cell.missing, name: _shortened(str(failure))})
    return replace(_explained(cell, plan), seconds=time.monotonic() - began)


class _Run:
    """One model on one peer."""

    def __init__(
        self,
        peer: Peer,
        subject: Subject,
        plan: Plan,
        deadline: float,
        work: Path,
        say: Callable[[str], None],
    ) -> None:
        self._peer = peer
        self._subject = subject
        self._plan = plan
        self._deadline = deadline
        self._work = work
        self._say = say
        self._servers = 0

    # Peers that load models while they run.

    def loads(self, cell: Cell) -> Cell:
        """Load one model after the other, and look at the memory on the way."""
        most = max(self._plan.counts)
        before = descendants()
        ceiling = Ceiling()
        times: list[float] = []
        sizes: dict[int, int] = {}
        why = ""
        answer: object = None
        with self._peer.running(self._subject, (), self._folder()) as server:
            while len(times) < most:
                self._say(f"cold load {len(times) + 1} of {most}")
                took, answer = self._load(server, len(times))
                times.append(took)
                if len(times) in self._plan.counts:
                    sizes[len(times)] = proportional(before)
                why = self._why_no_more(ceiling, times, sizes)
                if why:
                    break
            if times and len(times) not in sizes:
                sizes[len(times)] = proportional(before)
            idle = self._size_of_idle(server, before) if not why else None
        memory, missing = extrapolated(sizes, self._plan.counts, why)
        counted = times[1 : _COUNTED_LOADS + 1] or times
        cold = Cold("load", times[0], statistics.median(counted), len(counted))
        return replace(
            cell,
            cold=cold,
            memory=memory,
            idle=idle or memory[-1],
            answer=str(answer),
            missing={**cell.missing, **missing},
        )

    def _size_of_idle(self, server: Server, before: Sequence[int]) -> Memory | None:
        """Ask a few models until the others are idle for long enough; None without parking."""
        if not self._peer.parks_after_s:
            return None
        most = max(self._plan.counts)
        deadline = time.monotonic() + self._peer.parks_after_s + _LONGER_S
        while time.monotonic() < deadline:
            self._say(f"{most - ASKED} of {most} models are idle")
            for number in range(ASKED):
                self._peer.ask(self._subject, server.port, f"m{number}")
            time.sleep(_PAUSE_S)
        return Memory(most, proportional(before), most)

    def _load(self, server: Server, number: int) -> tuple[float, object]:
        folder = self._place(number)
        assert server.load is not None  # noqa: S101  as the peer is dynamic
        began = time.perf_counter()
        server.load(folder)
        answer = self._peer.ask(self._subject, server.port, folder.name)
        return (time.perf_counter() - began) * 1000, answer

    def _why_no_more(self, ceiling: Ceiling, times: list[float], sizes: dict[int, int]) -> str:
        try:
            ceiling.check()
        except TooLarge as error:
            return f"{len(times)} models took {error}"
        # Two loads are the least from which the rest can be extrapolated.
        if len(times) > 1 and sizes and time.monotonic() > self._deadline:
            return f"{len(times)} loads took all the time that there was"
        return ""

    def load(self, cell: Cell) -> Cell:
        """Put load on a model that is alone on its server."""
        folder = self._place(0)
        with self._peer.running(self._subject, (), self._folder()) as server:
            assert server.load is not None  # noqa: S101  as the peer is dynamic
            server.load(folder)
            self._peer.ask(self._subject, server.port, folder.name)
            return self._under_load(cell, server, folder.name)

    # Peers that know their models when they start.

    def starts(self, cell: Cell) -> Cell:
        """Start with one model, look at its memory, and put load on it."""
        folder = self._place(0)
        before = descendants()
        self._say("start with 1 model")
        began = time.perf_counter()
        with self._peer.running(self._subject, (folder,), self._folder()) as server:
            took = (time.perf_counter() - began) * 1000
            answer = self._peer.ask(self._subject, server.port, folder.name)
            memory = Memory(1, proportional(before), 1)
            cell = replace(
                cell,
                cold=Cold("start", took, took, 1),
                memory=(memory,),
                answer=str(answer),
            )
            try:
                return self._under_load(cell, server, folder.name)
            except FAILURES as failure:
                return replace(cell, missing={**cell.missing, "load": _shortened(str(failure))})

    def more_starts(self, cell: Cell) -> Cell:
        """Start with more models at once, as long as there is time and memory for it."""
        if cell.cold is None:
            return cell
        sizes = {1: cell.memory[0].proportional}
        took_s, before = cell.cold.first_ms / 1000, 1
        why = ""
        for count in self._plan.counts[1:]:
            # Nothing is known yet of what one more model takes, but that a start takes.
            expected = took_s if before == 1 else took_s * count / before
            if time.monotonic() + expected > self._deadline + took_s:
                why = f"a start with {count} models takes longer than there was time"
                break
            if before > 1 and _line(sizes, count) > CEILING:
                why = f"{count} models would take more than {CEILING >> 30} GiB"
                break
            self._say(f"start with {count} models")
            began = time.perf_counter()
            try:
                sizes[count] = self._size(count)
            except TooLarge as error:
                why = f"{count} models took {error}"
                break
            took_s, before = time.perf_counter() - began, count
        memory, missing = extrapolated(sizes, self._plan.counts, why)
        # A model that is idle stays what it was.
        return replace(cell, memory=memory, idle=memory[-1], missing={**cell.missing, **missing})

    def _size(self, count: int) -> int:
        folders = [self._place(number) for number in range(count)]
        before = descendants()
        ceiling = Ceiling()
        with self._peer.running(self._subject, folders, self._folder()) as server:
            for folder in folders:
                self._peer.ask(self._subject, server.port, folder.name)
                ceiling.check()
            return proportional(before)

    # Both.

    def _under_load(self, cell: Cell, server: Server, model: str) -> Cell:
        target = self._peer.target(self._subject, server.port, model)
        plan = self._plan
        for connections in plan.connections:
            self._say(f"{connections} connections")
            measure(target, connections, self._peer.warm_up_s, plan.tool)
            found = measure(target, connections, plan.seconds, plan.tool)
            if found.requests > found.errors:
                cell = replace(cell, loads=(*cell.loads, found))
            else:
                why = f"none of {found.requests} requests was answered with success"
                cell = replace(cell, missing={**cell.missing, f"{connections} connections": why})
        return cell

    def _place(self, number: int) -> Path:
        folder = self._work / f"models-{self._servers}" / f"m{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        self._peer.place(self._subject, folder)
        return folder

    def _folder(self) -> Path:
        self._servers += 1
        folder = self._work / f"s{self._servers}"
        folder.mkdir()
        return folder


def extrapolated(
    sizes: dict[int, int], counts: Sequence[int], why: str
) -> tuple[tuple[Memory, ...], dict[str, str]]:
    """Return the memory for each number of models, and why some were never there.

    Parameters
    ----------
    sizes
        Bytes by number of models.
    why
        There were no more than these.

    Examples
    --------
    >>> memory, missing = extrapolated({1: 100, 11: 200}, (1, 11, 51), "it was late")
    >>> [one.proportional for one in memory], memory[2].extrapolated
    ([100, 200, 600], True)
    >>> missing
    {'memory 51': 'it was late'}
    """
    most = max(sizes)
    memory, missing = [], {}
    for count in counts:
        if count in sizes:
            memory.append(Memory(count, sizes[count], count))
            continue
        missing[f"memory {count}"] = why
        if len(sizes) > 1:
            memory.append(Memory(count, int(_line(sizes, count)), most))
    return tuple(memory), missing


def _line(sizes: dict[int, int], count: int) -> float:
    least, most = min(sizes), max(sizes)
    each = (sizes[most] - sizes[least]) / (most - least)
    return sizes[most] + each * (count - most)


def _explained(cell: Cell, plan: Plan) -> Cell:
    """Say why there are no figures where what comes before them failed."""
    missing = dict(cell.missing)
    failed = missing.get("cold", "")
    if cell.cold is None and not cell.memory:
        missing.setdefault("memory", failed)
    told = any(f"{one} connections" in missing for one in plan.connections)
    if not (cell.loads or told):
        missing.setdefault("load", failed)
    return replace(cell, missing={name: why for name, why in missing.items() if why})


def _shortened(text: str) -> str:
    """Make one line of it that fits into a table."""
    line = " ".join(text.split())
    if len(line) <= _REASON_BEGIN + _REASON_END:
        return line
    return f"{line[:_REASON_BEGIN]} … {line[-_REASON_END:]}"  # what failed, and its last words


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
