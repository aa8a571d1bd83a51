"""The same model on the embedded server and on DJL Serving, in the same mode and in turn."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slot_runs import subjects
from slot_runs.servers import running

from mmekit_bench import Target, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slot_runs.servers import ServerKind
    from slot_runs.subjects import Mode, Trained

    from mmekit_bench import Load, Tool

_MODEL = "m"


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    connections
        Numbers of connections.
    rounds
        How often each server is asked at each of them, in turn; the median counts.
    seconds
        Of each measurement.
    warm_up_s
        Seconds of load on each server before the first measurement at a number of connections.
        Java compiles what is hot while it runs.
    tool
        The load generator; None takes wrk when it is installed.
    """

    connections: tuple[int, ...]
    rounds: int
    seconds: int
    warm_up_s: int
    tool: Tool | None = None


@dataclass(frozen=True)
class Bout:
    """A server at a number of connections: every round of it."""

    server: ServerKind
    mode: Mode
    connections: int
    rounds: tuple[Load, ...]

    @property
    def typical(self) -> Load:
        """The round with the median of the requests a second (the lower of two)."""
        ranked = sorted(self.rounds, key=lambda one: one.requests_per_second)
        return ranked[(len(ranked) - 1) // 2]

    @property
    def p99_ms(self) -> float:
        """The median of all rounds' p99."""
        return statistics.median(one.p99_ms for one in self.rounds)

    @property
    def errors(self) -> int:
        """Requests without a successful answer, in all rounds."""
        return sum(one.errors for one in self.rounds)


def fight(
    servers: Sequence[ServerKind],
    mode: Mode,
    trained: Trained,
    effort: Effort,
    work: Path,
    say: Callable[[str], None],
) -> list[Bout]:
    """Measure all servers, which run at the same time and are asked in turn.

    Parameters
    ----------
    work
        A folder for the models; it is this call's.
    """
    subject = trained.subject
    with contextlib.ExitStack() as stack:
        targets = {}
        for kind in servers:
            server = stack.enter_context(running(kind))
            server.load(_MODEL, subjects.copy(trained.unpacked(mode), work / f"{kind}-{mode}"))
            targets[kind] = Target(server.url(_MODEL), subject.load, subject.content_type)
        bouts = []
        for connections in effort.connections:
            found: dict[ServerKind, list[Load]] = {kind: [] for kind in servers}
            for kind in servers:
                say(f"{mode}, {connections} connections: warming up")
                measure(targets[kind], connections, effort.warm_up_s, effort.tool)
            for number in range(effort.rounds):
                say(f"{mode}, {connections} connections: round {number + 1} of {effort.rounds}")
                # Whoever comes second in one round comes first in the next.
                for kind in (*servers,) if number % 2 == 0 else (*reversed(servers),):
                    found[kind].append(
                        measure(targets[kind], connections, effort.seconds, effort.tool)
                    )
            bouts += [Bout(kind, mode, connections, tuple(found[kind])) for kind in servers]
    return bouts
