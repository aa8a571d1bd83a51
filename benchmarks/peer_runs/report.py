"""The results as tables and as JSON, and the table in docs/benchmarks.md."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from reporting import IncompleteRunError, milliseconds, table

from peer_runs import subjects, targets
from peer_runs.cells import ASKED, CONNECTIONS, COUNTS
from peer_runs.peers import PEERS
from peer_runs.targets import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from reporting import Conditions

    from peer_runs.cells import Cell, Memory
    from peer_runs.targets import Outcome

    _CellContent = Mapping[str, Any]

NAME = "peers"
_MET = {True: "yes", False: "**no**", None: ""}
_ABOUT = (
    "Each peer is started alone, in an environment of its own with the same versions of the "
    "models' libraries, and set up as its documentation recommends. Load generator, server and "
    "models share the cores."
)
_ABOUT_OUTCOMES = (
    "Isolated are the servers that give each model processes of its own: one that crashes, leaks "
    "or changes its interpreter harms no other. The others load all models into the same "
    "processes: one more costs a file to read and what the model itself takes."
)
_ABOUT_COLD = (
    "Until the first answer of a model that the running server had not loaded (the very first one "
    "brings in the libraries; the median is that of those after it). A peer that cannot load a "
    "model later is marked with *start*: its time runs from the start of its process."
)
_ABOUT_MEMORY = (
    "Of all processes of a server (PSS), each model having answered a request. ≈: extrapolated in "
    "a straight line, as so many models were never there; the reasons are below."
)
_ABOUT_LOAD = "Requests of one instance each, in a closed loop, on one model."


@dataclass(frozen=True)
class Results:
    """What was found so far.

    Attributes
    ----------
    cells
        In the order of the peers, model after model.
    seconds
        Of each measurement under load, in the last run.
    """

    machine: Conditions
    cells: tuple[Cell, ...]
    seconds: int

    @property
    def outcomes(self) -> list[Outcome]:
        """What is to be reached, and what was."""
        return targets.judge(self.cells)


def write(results: Results, folder: Path) -> None:
    """Write peers.json and peers.md."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": asdict(results.machine),
        "under_load_s": results.seconds,
        "outcomes": [asdict(one) for one in results.outcomes],
        "cells": [asdict(one) for one in results.cells],
    }
    (folder / f"{NAME}.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / f"{NAME}.md").write_text(markdown(results))


def markdown(results: Results) -> str:
    """Return all tables."""
    cells = results.cells
    lines = [
        "# mmekit beside other servers",
        "",
        _circumstances(results),
        "",
        f"![What the tables say]({NAME}.svg)",
        "",
        *("## To reach", "", _ABOUT_OUTCOMES, ""),
        _outcomes(results.outcomes),
        *("## Cold load", "", _ABOUT_COLD, ""),
        _by_model(cells, [_cold_cell(cell) for cell in cells]),
        *("## Memory", "", _ABOUT_MEMORY, ""),
    ]
    for model in _models(cells):
        here = [cell for cell in cells if cell.model == model]
        lines += [f"### {_title(model)}", "", _memory(here)]
    lines += ["## Under load", "", _ABOUT_LOAD, ""]
    for model in _models(cells):
        here = [cell for cell in cells if cell.model == model]
        lines += [f"### {_title(model)}", "", _load(here)]
    lines += ["## Answers", "", _answers(cells), ""]
    lines += ["## What is missing, and why", "", *_missing(cells), ""]
    lines += ["## How each is set up", "", *_settings(cells), ""]
    return "\n".join(lines)


def _circumstances(results: Results) -> str:
    machine = results.machine
    taken = sorted(cell.taken for cell in results.cells)
    minutes = sum(cell.seconds for cell in results.cells) / 60
    return (
        f"`benchmarks/peers.py` on {machine}, {machine.busy_percent:.0f} % busy with other things "
        f"when it began; measured from {taken[0]} to {taken[-1]}, {minutes:.0f} minutes in all. "
        f"{_ABOUT}"
    )


def _outcomes(outcomes: Sequence[Outcome]) -> str:
    rows = [
        (one.what, _title(one.model), one.reached, _MET[one.met], _MET[one.among_isolated])
        for one in outcomes
    ]
    columns = ("", "model", "mmekit; the best of the others", "reached", "among the isolated")
    return table(columns, (), rows)


def _by_model(cells: Sequence[Cell], texts: Sequence[str]) -> str:
    """Return a table of a figure: a line for each peer, a column for each model."""
    models = _models(cells)
    found = {(cell.peer, cell.model): text for cell, text in zip(cells, texts, strict=True)}
    rows = [
        (_peer(peer), *(found.get((peer, model), "") for model in models)) for peer in _peers(cells)
    ]
    return table(("server",), [_title(model) for model in models], rows)


def _cold_cell(cell: Cell) -> str:
    if cell.cold is None:
        return "-"
    median = milliseconds(cell.cold.median_ms)
    if cell.cold.kind == "start":
        return f"*start* {median}"
    return f"{median} (first {milliseconds(cell.cold.first_ms)})"


def _memory(cells: Sequence[Cell]) -> str:
    rows = [
        (
            _peer(cell.peer),
            *(_memory_cell(cell.memory_for(count)) for count in COUNTS),
            _memory_cell(cell.idle_of(COUNTS[-1])),
        )
        for cell in cells
    ]
    columns = [f"{count} model{'s' if count > 1 else ''}" for count in COUNTS]
    columns.append(f"{COUNTS[-1]}, {COUNTS[-1] - ASKED} of them idle")
    return table(("server",), columns, rows)


def _memory_cell(memory: Memory | None) -> str:
    if memory is None:
        return "-"
    text = f"{memory.proportional / MIB:,.0f} MiB"
    return f"- (≈ {text} from {memory.measured_with})" if memory.extrapolated else text


def _load(cells: Sequence[Cell]) -> str:
    columns = []
    for connections in CONNECTIONS:
        columns += [f"{connections}: requests/s", "p50", "p95", "p99"]
    rows = []
    for cell in cells:
        row = [_peer(cell.peer)]
        for connections in CONNECTIONS:
            load = cell.load(connections)
            if load is None:
                row += ["-"] * 4
                continue
            errors = f" ({load.errors:,} errors)" if load.errors else ""
            times = (load.p50_ms, load.p95_ms, load.p99_ms)
            row += [f"{load.requests_per_second:,.0f}{errors}", *map(milliseconds, times)]
        rows.append(row)
    return table(("server",), columns, rows)


def _answers(cells: Sequence[Cell]) -> str:
    found: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        if cell.answer is not None:
            by_answer = found.setdefault(cell.model, {})
            by_answer.setdefault(_rounded(cell.answer), []).append(_peer(cell.peer))
    texts = []
    for model, by_answer in found.items():
        if len(by_answer) == 1:
            texts.append(f"{_title(model)}: all the same ({next(iter(by_answer))})")
        else:
            different = "; ".join(f"{one}: {', '.join(by)}" for one, by in by_answer.items())
            texts.append(f"{_title(model)}: **different** ({different})")
    return "\n".join(f"- {text}." for text in texts)


def _rounded(answer: str) -> str:
    """Return a number with as many digits as libraries agree on; 7 and 7.0 are the same."""
    try:
        return f"{float(answer):.6g}"
    except ValueError:
        return answer


def _missing(cells: Sequence[Cell]) -> list[str]:
    """Say each reason once, with all that it is the reason of."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for what, why in cell.missing.items():
            by_reason.setdefault((cell.peer, why), []).append(f"{_title(cell.model)} ({what})")
    lines = [
        f"- {_peer(peer)}: {', '.join(what)}: {why}." for (peer, why), what in by_reason.items()
    ]
    return lines or ["Nothing."]


def _settings(cells: Sequence[Cell]) -> list[str]:
    versions: Mapping[str, str] = {cell.peer: cell.version for cell in cells if cell.version}
    lines = []
    for name in _peers(cells):
        peer = PEERS[name]
        pages = ", ".join(
            f"<{page}>" if page.startswith("http") else f"[{page}](../../{page})"
            for page in peer.pages
        )
        version = f" {versions[name]}" if name in versions else ""
        isolated = "isolated" if peer.isolated else "all models in the same processes"
        lines.append(f"- **{peer.title}**{version} ({isolated}): {peer.setting} {pages}")
    return lines


def _peers(cells: Sequence[Cell]) -> list[str]:
    there = {cell.peer for cell in cells}
    return [name for name in PEERS if name in there]


def _models(cells: Sequence[Cell]) -> list[str]:
    there = {cell.model for cell in cells}
    return [name for name in subjects.NAMES if name in there]


def _peer(name: str) -> str:
    return PEERS[name].title


def _title(model: str) -> str:
    return subjects.TITLES[model]


MODEL = "catboost_classifier"
_MODELS = 50
_CONNECTIONS = 8


def summary(content: Mapping[str, Any]) -> str:
    """Return a row for each server: those first that isolate models, then by throughput.

    Raises
    ------
    IncompleteRunError
        A server is missing.
    """
    cells = [cell for cell in content["cells"] if cell["model"] == MODEL]
    missing = PEERS.keys() - {cell["peer"] for cell in cells}
    if missing:
        raise IncompleteRunError(f"{MODEL} on {', '.join(sorted(missing))}")

    def place(cell: _CellContent) -> tuple[bool, float]:
        load = _published_load(cell)
        return not PEERS[cell["peer"]].isolated, -_per_second(load) if load else 0.0

    rows = [
        [
            PEERS[cell["peer"]].title,
            _page_cold(cell),
            _page_memory(cell["memory"]),
            _page_memory([cell["idle"] or {"models": 0}]),
            *_under_load(cell),
            "yes" if PEERS[cell["peer"]].isolated else "no",
        ]
        for cell in sorted(cells, key=place)
    ]
    memory = (f"memory, {_MODELS} models", f"{_MODELS - ASKED} of them idle")
    numbers = ("cold load", *memory, f"requests/s at {_CONNECTIONS}", "p99")
    return table(("",), (*numbers, "each model apart"), rows)


def _page_cold(cell: _CellContent) -> str:
    cold = cell["cold"]
    if cold is None:
        return "-"
    return f"{'start, ' if cold['kind'] == 'start' else ''}{milliseconds(cold['median_ms'])}"


def _page_memory(measured: Sequence[Mapping[str, Any]]) -> str:
    found = [one for one in measured if one["models"] == _MODELS]
    if not found:
        return "-"
    about = "" if found[0]["measured_with"] == _MODELS else "≈ "
    return f"{about}{found[0]['proportional'] / MIB:,.0f} MiB"


def _under_load(cell: _CellContent) -> tuple[str, str]:
    load = _published_load(cell)
    if load is None:
        return "-", "-"
    return f"{_per_second(load):,.0f}", milliseconds(load["p99_ms"])


def _published_load(cell: _CellContent) -> Mapping[str, Any] | None:
    return next((one for one in cell["loads"] if one["connections"] == _CONNECTIONS), None)


def _per_second(load: Mapping[str, Any]) -> float:
    return float(load["requests"] / load["seconds"])
