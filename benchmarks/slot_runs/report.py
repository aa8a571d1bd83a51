"""The results as tables, as JSON and as a picture, and the table in docs/benchmarks.md."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from reporting import (
    LOAD_COLUMNS,
    IncompleteRunError,
    milliseconds,
    table,
    under_load,
)

from mmekit_bench.plot import figure_written_to
from slot_runs import targets
from slot_runs.servers import TITLES
from slot_runs.subjects import MODES, NAMES
from slot_runs.targets import MIB, to_reach

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from reporting import Conditions

    from mmekit_bench import Load
    from slot_runs.runs import Generators, Plan, Run
    from slot_runs.subjects import Mode, Subject
    from slot_runs.targets import Outcome, Pair

    _RunContent = Mapping[str, Any]
    _Reading = Callable[[_RunContent], float]

NAME = "worker_slots"
_ABOUT_LOADS = (
    "`POST /models`. The very first load of a new server brings in the libraries, and starts the "
    "fork server; those after it are other folders with the same files."
)
_ABOUT_MEMORY = (
    "Of all processes that belong to a model, each model having answered a request; stubs "
    "included. The marginal model is the mean of the second to the last."
)
_HEAD = ("server", "model", "mode")
_SIZES = ("models", "private", "proportional", "marginal, private", "marginal, MemAvailable")
_TOOLS = {"wrk": "wrk", "python": "`mme bench`"}


@dataclass(frozen=True)
class Results:
    """All that one run of the benchmark found.

    Attributes
    ----------
    previous
        The content of the last published report, to compare with.
    left_out
        What was not measured, and why.
    seconds
        How long it took.
    """

    machine: Conditions
    plan: Plan
    subjects: tuple[Subject, ...]
    pairs: tuple[Pair, ...]
    generators: Generators | None
    previous: Mapping[str, Any] | None
    left_out: Mapping[str, str]
    seconds: float

    @property
    def outcomes(self) -> list[Outcome]:
        """What is to be reached, and what was."""
        return targets.judge(self.pairs, self.previous)

    @property
    def runs(self) -> list[Run]:
        """All runs: a model's plain one and that with slots beside each other."""
        return [run for pair in self.pairs for run in (pair.plain, pair.slots)]


def write(results: Results, folder: Path) -> None:
    """Write worker_slots.json and worker_slots.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(_content(results), indent=1) + "\n")
    (folder / f"{NAME}.md").write_text(markdown(results))


def markdown(results: Results) -> str:
    """Return all tables."""
    titles = {subject.name: subject.title for subject in results.subjects}
    lines = [
        "# Worker slots against the plain engine",
        "",
        _circumstances(results),
        "",
    ]
    if results.pairs:
        sizes = ", ".join(
            f"{one.title} ({one.artifact_bytes / 1024:,.0f} KiB)" for one in results.subjects
        )
        lines += [f"Models: {sizes}.", "", f"![What the tables say]({NAME}.svg)", ""]
    lines += to_reach(results.outcomes)
    if results.runs:
        lines += _loads(results.runs, titles)
        lines += _memory(results.runs, titles)
        lines += _under_load(results.runs, titles)
        lines += _load_generator(results)
    if results.left_out:
        lines += ["## Not measured", ""]
        lines += [f"- {what}: {why}" for what, why in results.left_out.items()]
        lines += [""]
    return "\n".join(lines)


def _circumstances(results: Results) -> str:
    machine = results.machine
    return (
        f"One run of `benchmarks/worker_slots.py` on {machine}, {machine.busy_percent:.0f} % busy "
        f"with other things when it began. It took {results.seconds / 60:.1f} minutes."
    )


def _loads(runs: Sequence[Run], titles: Mapping[str, str]) -> list[str]:
    rows = []
    for run in runs:
        loads = run.cold.loads_ms
        first = f"{run.cold.first_ms:,.0f} ms"
        times = (f"{one:,.1f} ms" for one in (run.cold.median_ms, min(loads), max(loads)))
        rows.append((*_head(run, titles), first, *times, len(loads)))
    figures = ("very first", "median", "fastest", "slowest", "of")
    return ["## Cold load", "", _ABOUT_LOADS, "", table(_HEAD, figures, rows)]


def _memory(runs: Sequence[Run], titles: Mapping[str, str]) -> list[str]:
    rows = []
    for run in runs:
        memory = run.memory
        each = (memory.private, memory.proportional)
        marginal = (memory.marginal_private, memory.marginal_available)
        sizes = (f"{one / MIB:,.1f} MiB" for one in (*each, *marginal))
        rows.append((*_head(run, titles), memory.models, *sizes))
    return ["## Memory", "", _ABOUT_MEMORY, "", table(_HEAD, _SIZES, rows)]


def _under_load(runs: Sequence[Run], titles: Mapping[str, str]) -> list[str]:
    rows = []
    for run in runs:
        for one in run.measured:
            workers = f"1 to {one.workers}" if run.mode == "slots" else one.workers
            load = one.load
            head = (*_head(run, titles), load.connections, workers)
            rows.append((*head, *under_load(load)))
    figures = ("connections", "workers", *LOAD_COLUMNS)
    about = "Requests of one instance each. Load generator, server and models share the cores."
    return ["## Under load", "", about, "", table(_HEAD, figures, rows)]


def _head(run: Run, titles: Mapping[str, str]) -> tuple[str, str, str]:
    return TITLES[run.server], titles[run.subject], run.mode


def _load_generator(results: Results) -> list[str]:
    tools = {one.load.tool for run in results.runs for one in run.measured}
    text = f"All load is from {_TOOLS[next(iter(tools))]}. "
    generators = results.generators
    if generators is None:
        text += "`mme bench` was not compared with wrk in this run."
        return ["## The load generator", "", text, ""]
    ours, wrk = generators.ours, generators.wrk
    text += (
        f"On the same endpoint ({generators.subject}, slots, {ours.connections} connections), "
        f"`mme bench` asked {ours.requests_per_second:,.0f} times a second and wrk "
        f"{wrk.requests_per_second:,.0f} times: {generators.ratio:.2f}. p99: "
        f"{ours.p99_ms:.1f} and {wrk.p99_ms:.1f} ms."
    )
    if generators.ours_was_the_limit:
        text += " Our generator was the limit there: take wrk for such models."
    return ["## The load generator", "", text, ""]


def _content(results: Results) -> dict[str, Any]:
    generators = results.generators
    return {
        "machine": asdict(results.machine),
        "seconds": results.seconds,
        "under_load_s": results.plan.seconds,
        "subjects": [
            {"name": one.name, "title": one.title, "artifact_bytes": one.artifact_bytes}
            for one in results.subjects
        ],
        "outcomes": [asdict(one) for one in results.outcomes],
        "runs": [_of_run(run) for run in results.runs],
        "answers": [
            {"server": pair.server, "subject": pair.subject, **asdict(pair.comparison)}
            for pair in results.pairs
        ],
        "generators": generators and {**asdict(generators), "ratio": generators.ratio},
        "left_out": dict(results.left_out),
    }


def _of_run(run: Run) -> dict[str, Any]:
    return {
        "server": run.server,
        "subject": run.subject,
        "mode": run.mode,
        "cold": {**asdict(run.cold), "median_ms": run.cold.median_ms},
        "memory": asdict(run.memory),
        "load": [
            {
                "workers": one.workers,
                **asdict(one.load),
                "requests_per_second": one.load.requests_per_second,
            }
            for one in run.measured
        ],
    }


_LOADS = (("ridge", 8), ("catboost", 32), ("setfit", 8))
"""The models and numbers of connections whose throughput has a target."""


def summary(content: Mapping[str, Any]) -> str:
    """Return docs/benchmarks.md's table: plain engine → worker slots for each figure, by server.

    Raises
    ------
    IncompleteRunError
        A server, a model or a number of connections is missing.
    """
    runs = {(run["server"], run["subject"], run["mode"]): run for run in content["runs"]}
    titles = {one["name"]: one["title"] for one in content["subjects"]}
    _check(runs)

    def row(what: str, subject: str, value: _Reading, text: Callable[[float], str]) -> list[str]:
        found = [[text(value(runs[server, subject, mode])) for mode in MODES] for server in TITLES]
        return [what, *map(" → ".join, found)]

    rows = [
        row(f"cold load, {titles[name]}", name, lambda run: run["cold"]["median_ms"], milliseconds)
        for name in NAMES
    ]
    rows += [
        row(f"memory of one more, {titles[name]}", name, _marginal_mib, "{:,.1f} MiB".format)
        for name in NAMES
    ]
    for name, connections in _LOADS:
        what = f"{titles[name]}, {connections} connections"
        per_second = _reading_under_load("requests_per_second", connections)
        rows.append(row(f"{what}, requests/s", name, per_second, "{:,.0f}".format))
        rows.append(
            row(f"{what}, p99", name, _reading_under_load("p99_ms", connections), milliseconds)
        )
    return table(("",), list(TITLES.values()), rows)


def _check(runs: Mapping[tuple[str, str, str], _RunContent]) -> None:
    for server, title in TITLES.items():
        for name in NAMES:
            if any((server, name, mode) not in runs for mode in MODES):
                raise IncompleteRunError(f"{name} on {title}")
        for name, connections in _LOADS:
            loads = [runs[server, name, mode]["load"] for mode in MODES]
            if any(connections not in [one["connections"] for one in load] for load in loads):
                raise IncompleteRunError(f"{name} at {connections} connections on {title}")


def _marginal_mib(run: _RunContent) -> float:
    return float(run["memory"]["marginal_private"] / (1 << 20))


def _reading_under_load(figure: str, connections: int) -> _Reading:
    def value(run: _RunContent) -> float:
        return float(next(one[figure] for one in run["load"] if one["connections"] == connections))

    return value


CONNECTIONS = 8

_COLOURS: dict[Mode, str] = {"plain": "#9a9fa6", "slots": "#0969da"}
_LABELS: dict[Mode, str] = {"plain": "plain engine", "slots": "worker slots"}
_WIDTH = 0.38
_PERCENTILES = ("p50", "p95", "p99", "p99.9")
_MARKERS = "osD^v"


def draw(results: Results, folder: Path) -> None:
    """Write worker_slots.svg, a row of panels for each server.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    servers = list(dict.fromkeys(pair.server for pair in results.pairs))
    with figure_written_to(folder / f"{NAME}.svg", (12, 3.6 * len(servers))) as figure:
        axes = figure.subplots(len(servers), 3, squeeze=False)
        for row, server in zip(axes, servers, strict=True):
            pairs = [pair for pair in results.pairs if pair.server == server]
            _bars(row[0], pairs, "cold_ms")
            row[0].set_title(f"{TITLES[server]}: cold load, ms (less is better)")
            _bars(row[1], pairs, "requests")
            row[1].set_title(f"requests/s, {CONNECTIONS} connections (more is better)")
            _latencies(row[2], pairs)
            row[2].set_title(f"latency, ms, {CONNECTIONS} connections (less is better)")


def _bars(axes: Any, pairs: Sequence[Pair], figure: str) -> None:
    for offset, mode in ((-_WIDTH / 2, "plain"), (_WIDTH / 2, "slots")):
        heights = [_figure(pair, mode, figure) for pair in pairs]  # type: ignore[arg-type]
        bars = axes.bar(
            [number + offset for number in range(len(pairs))],
            heights,
            _WIDTH,
            color=_COLOURS[mode],  # type: ignore[index]
            label=_LABELS[mode],  # type: ignore[index]
        )
        axes.bar_label(bars, [f"{height:,.0f}" for height in heights], padding=2, fontsize=8)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xticks(range(len(pairs)), [pair.subject for pair in pairs])


def _figure(pair: Pair, mode: Mode, figure: str) -> float:
    run = pair.plain if mode == "plain" else pair.slots
    if figure == "cold_ms":
        return run.cold.median_ms
    load = run.load(CONNECTIONS)
    return load.requests_per_second if load else 0.0


def _latencies(axes: Any, pairs: Sequence[Pair]) -> None:
    for marker, pair in zip(_MARKERS, pairs, strict=False):
        for run in (pair.plain, pair.slots):
            load = run.load(CONNECTIONS)
            if load is None:
                continue
            axes.plot(
                _PERCENTILES,
                _percentiles(load),
                color=_COLOURS[run.mode],
                marker=marker,
                markersize=4,
                linestyle="--" if run.mode == "plain" else "-",
                label=pair.subject if run.mode == "slots" else None,
            )
    axes.set_yscale("log")


def _percentiles(load: Load) -> list[float]:
    return [load.p50_ms, load.p95_ms, load.p99_ms, load.p999_ms]
