"""The latency on one connection, both modes in turn on one server.

A request takes some 0.3 ms, and by which core its processes wake on, a fifth more or less for
seconds at a time: two servers measured one after the other say little about each other.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_bench import Target, measure
from slot_runs import subjects
from slot_runs.servers import running
from slot_runs.subjects import MODES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slot_runs.runs import Plan
    from slot_runs.servers import ServerKind
    from slot_runs.subjects import Mode, Trained

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


def take(
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
