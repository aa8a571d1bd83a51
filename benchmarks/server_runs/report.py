"""The results as tables, as JSON and as a picture, with what was to be reached."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from reporting import LOAD_COLUMNS, table, under_load
from slot_runs.servers import TITLES
from slot_runs.subjects import MODES

from mmekit_bench.plot import figure_written_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from reporting import Conditions
    from slot_runs.servers import ServerKind
    from slot_runs.subjects import Mode

    from server_runs.crowd import Crowd
    from server_runs.duel import Bout
    from server_runs.overhead import Overhead

NAME = "server"
LEAST_THROUGHPUT: dict[Mode, float] = {"plain": 1.2, "slots": 1.0}
MOST_OVERHEAD_MS = 0.15
MOST_TAIL = 20
_MODES: dict[Mode, str] = {"plain": "plain engine", "slots": "worker slots"}
_ABOUT_DUEL = (
    "`linear_regression` with the same archive on both, which run at the same time and are asked "
    "in turn; the round with the median throughput is shown. The plain engine has one worker, "
    "worker slots have 1 to 16."
)
_ABOUT_OVERHEAD = (
    "An echo handler, one request after the other on one connection, from the same blocking "
    "client: through the server, and straight from a process of the engine over its own socket."
)


@dataclass(frozen=True)
class Results:
    """All that one run of the benchmark found.

    Attributes
    ----------
    left_out
        What was not measured, and why.
    seconds
        How long it took.
    """

    machine: Conditions
    bouts: tuple[Bout, ...]
    overhead: Overhead | None
    crowd: Crowd | None
    left_out: Mapping[str, str]
    seconds: float

    @property
    def outcomes(self) -> list[Outcome]:
        """What is to be reached, and what was."""
        return [*_of_duels(self), *_of_overhead(self), *_of_crowd(self)]

    def pairs(self, mode: Mode) -> Iterator[tuple[Bout, Bout]]:
        """Yield the embedded server's and DJL Serving's at each number of connections."""
        ours = [one for one in self.bouts if (one.mode, one.server) == (mode, "embedded")]
        theirs = [one for one in self.bouts if (one.mode, one.server) == (mode, "djl")]
        return zip(ours, theirs, strict=False)


@dataclass(frozen=True)
class Outcome:
    """One line of the first table."""

    what: str
    target: str
    reached: str
    met: bool


def write(results: Results, folder: Path) -> None:
    """Write server.json and server.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(_content(results), indent=1) + "\n")
    (folder / f"{NAME}.md").write_text(markdown(results))


def markdown(results: Results) -> str:
    """Return all tables."""
    machine = results.machine
    about = (
        f"One run of `benchmarks/server.py` on {machine}, {machine.busy_percent:.0f} % busy with "
        f"other things when it began. It took {results.seconds / 60:.1f} minutes. Load generator, "
        "servers and models share the cores."
    )
    lines = ["# The embedded server's figures", "", about, ""]
    rows = [
        (one.what, one.target, one.reached, "yes" if one.met else "**no**")
        for one in results.outcomes
    ]
    lines += ["## To reach", "", table(("", "target", "reached", "met"), (), rows)]
    if results.bouts:
        lines += ["## Against DJL Serving", "", _ABOUT_DUEL, ""]
        lines += [f"![Requests a second and p99]({NAME}.svg)", "", _duels(results)]
    if results.overhead is not None:
        lines += ["## What the front adds", "", _ABOUT_OVERHEAD, "", _overhead(results.overhead)]
    if results.crowd is not None:
        lines += [f"## {results.crowd.models} models", "", *_crowd(results.crowd)]
    if results.left_out:
        lines += ["## Not measured", ""]
        lines += [*(f"- {what}: {why}" for what, why in results.left_out.items()), ""]
    return "\n".join(lines)


def _of_duels(results: Results) -> Iterator[Outcome]:
    for mode in MODES:
        for ours, theirs in results.pairs(mode):
            where = f"{_MODES[mode]}, {ours.connections} connections"
            our, their = ours.typical.requests_per_second, theirs.typical.requests_per_second
            least = LEAST_THROUGHPUT[mode]
            yield Outcome(
                f"{where}: requests/s, embedded / DJL Serving",
                f"at least {least:.1f}",
                f"{our / their:.2f} ({our:,.0f} / {their:,.0f})",
                our / their >= least,
            )
            yield Outcome(
                f"{where}: p99",
                "no higher than DJL Serving's",
                f"{ours.p99_ms:,.2f} ms ({theirs.p99_ms:,.2f} ms)",
                ours.p99_ms <= theirs.p99_ms,
            )


def _of_overhead(results: Results) -> Iterator[Outcome]:
    if results.overhead is not None:
        found = results.overhead
        yield Outcome(
            "what the front adds at p50",
            f"at most {MOST_OVERHEAD_MS} ms",
            f"{found.front_p50_ms:.3f} ms",
            found.front_p50_ms <= MOST_OVERHEAD_MS,
        )


def _of_crowd(results: Results) -> Iterator[Outcome]:
    if results.crowd is not None:
        crowd = results.crowd
        yield Outcome(
            f"{crowd.models} models, {crowd.connections} connections, Zipf: errors",
            "none",
            f"{crowd.found.errors} of {crowd.found.requests:,}",
            crowd.found.errors == 0,
        )
        yield Outcome(
            f"{crowd.models} models, {crowd.connections} connections, Zipf: p99.9 / p50",
            f"at most {MOST_TAIL}",
            f"{crowd.tail:.1f} ({crowd.found.p999_ms:,.1f} / {crowd.found.p50_ms:,.1f} ms)",
            crowd.tail <= MOST_TAIL,
        )


def _duels(results: Results) -> str:
    rows = []
    for one in results.bouts:
        load = under_load(one.typical)
        rows.append((TITLES[one.server], _MODES[one.mode], one.connections, *load))
    return table(("server", "mode"), ("connections", *LOAD_COLUMNS), rows)


def _overhead(found: Overhead) -> str:
    rows = [
        ("through the server", found.server_p50_ms, found.server_p99_ms),
        ("straight from the engine", found.engine_p50_ms, found.engine_p99_ms),
    ]
    cells = [(name, *(f"{one:.3f} ms" for one in times)) for name, *times in rows]
    cells.append(("the front", f"{found.front_p50_ms:.3f} ms", ""))
    return table(("",), ("p50", "p99"), cells)


def _crowd(crowd: Crowd) -> list[str]:
    found = crowd.found
    about = (
        f"Ridge models with worker slots, {crowd.connections} connections for "
        f"{found.seconds:.0f} s; the n-th model is asked in proportion to 1/n. "
        f"{crowd.asked} of them were asked."
    )
    return [about, "", table((), LOAD_COLUMNS, [under_load(found)])]


def _content(results: Results) -> dict[str, Any]:
    return {
        "machine": asdict(results.machine),
        "seconds": results.seconds,
        "outcomes": [asdict(one) for one in results.outcomes],
        "bouts": [asdict(one) for one in results.bouts],
        "overhead": results.overhead and asdict(results.overhead),
        "crowd": results.crowd and {**asdict(results.crowd), "tail": results.crowd.tail},
        "left_out": dict(results.left_out),
    }


_COLOURS: dict[ServerKind, str] = {"embedded": "#0969da", "djl": "#9a9fa6"}
_WIDTH = 0.38


def draw(results: Results, folder: Path) -> None:
    """Write server.svg, a row of panels for each mode.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    with figure_written_to(folder / f"{NAME}.svg", (9, 6.4)) as figure:
        axes = figure.subplots(len(MODES), 2)
        for row, mode in zip(axes, MODES, strict=True):
            _bars(row[0], results, mode, lambda one: one.typical.requests_per_second, "{:,.0f}")
            row[0].set_title(f"{mode}: requests/s (more is better)")
            _bars(row[1], results, mode, lambda one: one.p99_ms, "{:,.2g}")
            row[1].set_yscale("log")
            row[1].set_title(f"{mode}: p99, ms (less is better)")


def _bars(
    axes: Any, results: Results, mode: Mode, figure: Callable[[Bout], float], form: str
) -> None:
    present = [kind for kind in TITLES if any(one.server == kind for one in results.bouts)]
    for place, kind in enumerate(present):
        bouts = [one for one in results.bouts if (one.mode, one.server) == (mode, kind)]
        heights = [figure(one) for one in bouts]
        offset = (place - (len(present) - 1) / 2) * _WIDTH
        bars = axes.bar(
            [number + offset for number in range(len(bouts))],
            heights,
            _WIDTH,
            color=_COLOURS[kind],
            label=TITLES[kind],
        )
        axes.bar_label(bars, [form.format(one) for one in heights], padding=2, fontsize=8)
        axes.set_xticks(range(len(bouts)), [str(one.connections) for one in bouts])
    axes.set_xlabel("connections")
    axes.margins(y=0.15)
