"""The README's table of plain engine and worker slots, from what worker_slots.json holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tables import milliseconds, table

from slot_runs.servers import TITLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Run = Mapping[str, Any]
    Value = Callable[[Run], float]

_MIB = 1 << 20
_LOADS = (("ridge", 8), ("catboost", 32), ("setfit", 8))
"""The models and numbers of connections whose throughput has a target."""


def summary(content: Mapping[str, Any]) -> str:
    """Return a row for each figure, plain engine → worker slots, and a column for each server."""
    runs = {(run["server"], run["subject"], run["mode"]): run for run in content["runs"]}
    servers = [one for one in TITLES if any(server == one for server, *_ in runs)]
    titles = {one["name"]: one["title"] for one in content["subjects"]}

    def row(what: str, subject: str, value: Value, text: Callable[[float], str]) -> list[str]:
        cells = []
        for server in servers:
            modes = [runs.get((server, subject, mode)) for mode in ("plain", "slots")]
            found = [text(value(run)) for run in modes if run is not None]
            cells.append(" → ".join(found) if len(found) == len(modes) else "-")
        return [what, *cells]

    rows = [
        row(f"cold load, {title}", name, lambda run: run["cold"]["median_ms"], milliseconds)
        for name, title in titles.items()
    ]
    rows += [
        row(f"memory of one more, {title}", name, _marginal_mib, "{:,.1f} MiB".format)
        for name, title in titles.items()
    ]
    for name, connections in _LOADS:
        if name not in titles:
            continue
        what = f"{titles[name]}, {connections} connections"
        rows.append(
            row(f"{what}, requests/s", name, _load("requests_per_second", connections), _number)
        )
        rows.append(row(f"{what}, p99", name, _load("p99_ms", connections), milliseconds))
    text = table(("",), [TITLES[server] for server in servers], rows)
    return text + _of_the_crowd(content["crowd"])


def _of_the_crowd(crowd: Mapping[str, Any] | None) -> str:
    if crowd is None:
        return ""
    gib = crowd["proportional"] / (1 << 30)
    return (
        f"\n{crowd['wanted']:,} ridge models at once on the embedded server: loaded in "
        f"{crowd['load_s']:.0f} s, {crowd['answered']:,} of them answer, {gib:.1f} GiB in all.\n"
    )


def _marginal_mib(run: Run) -> float:
    return float(run["memory"]["marginal_private"] / _MIB)


def _load(name: str, connections: int) -> Value:
    def value(run: Run) -> float:
        return float(next(one[name] for one in run["load"] if one["connections"] == connections))

    return value


def _number(value: float) -> str:
    return f"{value:,.0f}"
