"""The README's table of plain engine and worker slots, from what worker_slots.json holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from publishing import IncompleteRunError
from tables import milliseconds, table

from slot_runs.servers import TITLES
from slot_runs.subjects import MODES, NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Run = Mapping[str, Any]
    Value = Callable[[Run], float]

_LOADS = (("ridge", 8), ("catboost", 32), ("setfit", 8))
"""The models and numbers of connections whose throughput has a target."""


def summary(content: Mapping[str, Any]) -> str:
    """Return a row for each figure, plain engine → worker slots, and a column for each server.

    Raises
    ------
    IncompleteRunError
        A server, a model or a number of connections is missing.
    """
    runs = {(run["server"], run["subject"], run["mode"]): run for run in content["runs"]}
    titles = {one["name"]: one["title"] for one in content["subjects"]}
    _check(runs)

    def row(what: str, subject: str, value: Value, text: Callable[[float], str]) -> list[str]:
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
        per_second = _under_load("requests_per_second", connections)
        rows.append(row(f"{what}, requests/s", name, per_second, "{:,.0f}".format))
        rows.append(row(f"{what}, p99", name, _under_load("p99_ms", connections), milliseconds))
    return table(("",), list(TITLES.values()), rows)


def _check(runs: Mapping[tuple[str, str, str], Run]) -> None:
    for server, title in TITLES.items():
        for name in NAMES:
            if any((server, name, mode) not in runs for mode in MODES):
                raise IncompleteRunError(f"{name} on {title}")
        for name, connections in _LOADS:
            loads = [runs[server, name, mode]["load"] for mode in MODES]
            if any(connections not in [one["connections"] for one in load] for load in loads):
                raise IncompleteRunError(f"{name} at {connections} connections on {title}")


def _marginal_mib(run: Run) -> float:
    return float(run["memory"]["marginal_private"] / (1 << 20))


def _under_load(figure: str, connections: int) -> Value:
    def value(run: Run) -> float:
        return float(next(one[figure] for one in run["load"] if one["connections"] == connections))

    return value
