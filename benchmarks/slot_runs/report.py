"""The results as tables and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tables import LOAD_COLUMNS, table, under_load

from slot_runs import targets
from slot_runs.outcome import MIB, to_reach
from slot_runs.servers import TITLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from machine import Machine

    from slot_runs.generators import Generators
    from slot_runs.outcome import Outcome
    from slot_runs.runs import Plan, Run
    from slot_runs.subjects import Subject
    from slot_runs.targets import Pair

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

    machine: Machine
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
