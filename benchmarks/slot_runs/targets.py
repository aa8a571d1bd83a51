"""What is to be reached, as ratios within one run, and what was."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reporting import table

from slot_runs.servers import TITLES
from slot_runs.subjects import MODES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slot_runs.answers import Comparison
    from slot_runs.runs import Run, Turns
    from slot_runs.servers import ServerKind

MIB = 1 << 20
GIB = 1 << 30
_MET = {True: "yes", False: "**no**", None: ""}


@dataclass(frozen=True)
class Outcome:
    """One line of the table.

    Attributes
    ----------
    met
        None where there is nothing to be met.
    """

    what: str
    target: str
    server: ServerKind
    reached: str
    met: bool | None


def to_reach(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the section of a report with what was to be reached, and what was."""
    rows = [
        (one.what, one.target, TITLES[one.server], one.reached, _MET[one.met]) for one in outcomes
    ]
    return ["## To reach", "", table(("", "target", "server", "reached", "met"), (), rows)]


SCIKIT_LEARN = ("ridge", "forest")


@dataclass(frozen=True)
class Pair:
    """The same model on the same server, plain and with worker slots.

    Attributes
    ----------
    turns
        Both on one server, in turn, on one connection.
    """

    plain: Run
    slots: Run
    turns: Turns
    comparison: Comparison

    @property
    def subject(self) -> str:
        """The model's name."""
        return self.plain.subject

    @property
    def server(self) -> ServerKind:
        """The server."""
        return self.plain.server

    @property
    def cold(self) -> float:
        """Cold load, plain / slots."""
        return self.plain.cold.median_ms / self.slots.cold.median_ms

    def throughput(self, connections: int) -> float | None:
        """Return requests a second, slots / plain."""
        plain, slots = self.plain.load(connections), self.slots.load(connections)
        if plain is None or slots is None or not plain.requests:
            return None
        return slots.requests_per_second / plain.requests_per_second


def judge(pairs: Sequence[Pair], previous: Mapping[str, Any] | None) -> list[Outcome]:
    """Return the lines for whatever was measured.

    Parameters
    ----------
    previous
        The content of the last published report.
    """
    outcomes = [
        outcome
        for server in dict.fromkeys(pair.server for pair in pairs)
        for outcome in _of_server(
            server, [pair for pair in pairs if pair.server == server], previous
        )
    ]
    # The lines of one target stand together.
    order = {what: number for number, what in enumerate(dict.fromkeys(o.what for o in outcomes))}
    return sorted(outcomes, key=lambda outcome: order[outcome.what])


def _of_server(
    server: ServerKind, pairs: Sequence[Pair], previous: Mapping[str, Any] | None
) -> list[Outcome]:
    by_name = {pair.subject: pair for pair in pairs}
    scikit_learn = [by_name[name] for name in SCIKIT_LEARN if name in by_name]
    found: list[Outcome | None] = [
        _cold(server, "scikit-learn", 20, scikit_learn),
        _cold_ms(by_name.get("ridge")),
        _cold(server, "SetFit", 15, [by_name[name] for name in ("setfit",) if name in by_name]),
        _marginal(server, scikit_learn),
        _throughput(by_name.get("ridge"), "ridge", 8, 2.0, worst_p99_ms=5.0),
        _throughput(by_name.get("catboost"), "CatBoost", 32, 1.8),
        _throughput(by_name.get("setfit"), "SetFit", 8, 2.2),
        _median(server, pairs),
        None if previous is None else _since(server, pairs, previous),
        *(_answers(pair) for pair in pairs),
    ]
    return [outcome for outcome in found if outcome is not None]


def _cold(server: ServerKind, what: str, target: float, pairs: Sequence[Pair]) -> Outcome | None:
    if not pairs:
        return None
    return Outcome(
        what=f"{what} cold load, plain / slots",
        target=f"at least {target:.0f}",
        server=server,
        reached="; ".join(
            f"{pair.subject} {pair.cold:.1f} ({pair.plain.cold.median_ms:,.0f} / "
            f"{pair.slots.cold.median_ms:,.1f} ms)"
            for pair in pairs
        ),
        met=min(pair.cold for pair in pairs) >= target,
    )


def _cold_ms(pair: Pair | None) -> Outcome | None:
    if pair is None or pair.server != "embedded":
        return None
    limit = 8
    return Outcome(
        what="cold load of ridge, worker slots",
        target=f"at most {limit} ms",
        server=pair.server,
        reached=f"{pair.slots.cold.median_ms:.1f} ms",
        met=pair.slots.cold.median_ms <= limit,
    )


def _since(
    server: ServerKind, pairs: Sequence[Pair], previous: Mapping[str, Any]
) -> Outcome | None:
    """Compare throughput with the last report; the plain engine's tells the machine's part."""
    runs = {(run["server"], run["subject"], run["mode"]): run for run in previous["runs"]}
    ratios: dict[str, dict[str, float]] = {"plain": {}, "slots": {}}
    for pair in pairs:
        for run in (pair.plain, pair.slots):
            before = runs.get((server, pair.subject, run.mode), {"load": []})
            by_connections = {one["connections"]: one for one in before["load"]}
            for one in run.measured:
                former = by_connections.get(one.load.connections)
                if former is not None:
                    ratios[run.mode][f"{pair.subject} at {one.load.connections}"] = (
                        one.load.requests_per_second / former["requests_per_second"]
                    )
    if not ratios["slots"] or not ratios["plain"]:
        return None
    mean, machine = (statistics.geometric_mean(ratios[mode].values()) for mode in MODES[::-1])
    lowest = min(ratios["slots"], key=lambda name: ratios["slots"][name])
    return Outcome(
        what="requests a second of all models, now / in the last published run",
        target="at least the plain engine's, which tells how fast the machine is",
        server=server,
        reached=(
            f"{mean:.2f} (plain: {machine:.2f}); lowest {ratios['slots'][lowest]:.2f}, {lowest} "
            f"(plain there: {ratios['plain'].get(lowest, float('nan')):.2f})"
        ),
        met=mean >= machine,
    )


def _marginal(server: ServerKind, pairs: Sequence[Pair]) -> Outcome | None:
    if not pairs:
        return None
    limit = 8
    # A forest itself is larger than that. Where there is no model to speak of, this is the process.
    judged = min(pairs, key=lambda pair: pair.plain.memory.marginal_private)
    return Outcome(
        what="marginal private memory of a scikit-learn model",
        target=f"at most {limit} MiB besides what the model itself takes",
        server=server,
        reached="; ".join(
            f"{pair.subject} {pair.slots.memory.marginal_private / MIB:.1f} MiB "
            f"(plain: {pair.plain.memory.marginal_private / MIB:.0f})"
            for pair in pairs
        ),
        met=judged.slots.memory.marginal_private <= limit * MIB,
    )


def _throughput(
    pair: Pair | None,
    title: str,
    connections: int,
    target: float,
    worst_p99_ms: float | None = None,
) -> Outcome | None:
    ratio = pair.throughput(connections) if pair else None
    if pair is None or ratio is None:
        return None
    plain = next(one for one in pair.plain.measured if one.load.connections == connections)
    slots = pair.slots.load(connections)
    assert slots is not None  # noqa: S101  as there is a ratio
    against = f" with {plain.workers} workers" if plain.workers > 1 else ""
    text = f"at least {target:g}"
    reached = (
        f"{ratio:.2f} ({slots.requests_per_second:,.0f} / "
        f"{plain.load.requests_per_second:,.0f} a second)"
    )
    met = ratio >= target
    if worst_p99_ms is not None:
        text += f", p99 at most {worst_p99_ms:g} ms"
        reached += f", p99 {slots.p99_ms:.1f} ms (plain: {plain.load.p99_ms:,.1f})"
        met = met and slots.p99_ms <= worst_p99_ms
    what = f"{title} throughput at {connections} connections, slots / plain{against}"
    return Outcome(what, text, pair.server, reached, met)


def _median(server: ServerKind, pairs: Sequence[Pair]) -> Outcome | None:
    if not pairs:
        return None
    limit = 1.05
    return Outcome(
        what="1 connection, slots / plain latency at p50, both in turn",
        target=f"at most {limit}",
        server=server,
        reached="; ".join(f"{pair.subject} {pair.turns.ratio:.2f}" for pair in pairs),
        met=max(pair.turns.ratio for pair in pairs) <= limit,
    )


def _answers(pair: Pair) -> Outcome:
    # Where a library itself depends on the size of a batch, there is nothing to reach.
    met = True if pair.comparison.equal else None
    if pair.comparison.labels_differing:
        met = False
    return Outcome(
        what=f"answers of {pair.subject}, slots against plain",
        target="equal, bit for bit, where the library is deterministic across batch sizes",
        server=pair.server,
        reached=str(pair.comparison),
        met=met,
    )
