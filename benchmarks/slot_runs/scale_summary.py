"""The README's table of worker slots at scale, from what at_scale.json holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from publishing import IncompleteRunError
from tables import milliseconds, table

from slot_runs.servers import TITLES
from slot_runs.subjects import MODES
from slot_runs.waiting import CONNECTIONS, WAIT_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slot_runs.servers import ServerKind


def summary(content: Mapping[str, Any]) -> str:
    """Return a row for each figure and a column for each server, and a line for very many models.

    Raises
    ------
    IncompleteRunError
        Handlers that wait, or parked models, are missing on a server.
    """
    for server, title in TITLES.items():
        for part in ("waiting", "parked"):
            if server not in [one["server"] for one in content[part]]:
                raise IncompleteRunError(f"{part} on {title}")
    return table(("",), list(TITLES.values()), _rows(content)) + _of_many(content)


def _rows(scale: Mapping[str, Any]) -> list[list[str]]:
    waiting, parked = (
        {one["server"]: one for one in scale[part]} for part in ("waiting", "parked")
    )

    def row(what: str, text: Callable[[ServerKind], str]) -> list[str]:
        return [what, *(text(server) for server in TITLES)]

    def per_second(server: ServerKind) -> str:
        loads = [waiting[server][mode] for mode in MODES]
        return " → ".join(f"{one['requests'] / one['seconds']:,.0f}" for one in loads)

    return [
        row(
            f"a handler that waits {WAIT_MS} ms, {CONNECTIONS} connections, requests/s", per_second
        ),
        row(
            "a parked model, private memory",
            lambda server: f"{parked[server]['private'] / (1 << 20):.2f} MiB",
        ),
        row(
            "its first answer, p50",
            lambda server: milliseconds(parked[server]["wake_p50_ms"]),
        ),
    ]


def _of_many(scale: Mapping[str, Any]) -> str:
    lines = []
    for crowd in scale["crowds"]:
        gib = crowd["proportional"] / (1 << 30)
        lines.append(
            f"{crowd['wanted']:,} ridge models at once on {_where(crowd)}: loaded in "
            f"{crowd['load_s']:.0f} s, {crowd['answered']:,} of them answer, {gib:.1f} GiB in all."
        )
    container = scale["container"]
    if container is None:
        return "".join(f"\n{line}\n" for line in lines)
    bad = container["errors"] + container["kills"]
    unsent = f", {container['dropped']:,} not sent in time" if container["dropped"] else ""
    lines.append(
        f"{container['loaded']:,} in {container['limit'] / (1 << 30):g} GiB on "
        f"{_where(container)}, asked {container['rate']:g} times a second for "
        f"{container['seconds'] / 60:.0f} minutes (Zipf): "
        f"{container['answered']:,} answers, {bad} errors{unsent}."
    )
    return "".join(f"\n{line}\n" for line in lines)


def _where(found: Mapping[str, Any]) -> str:
    kind: ServerKind = found["server"]
    return TITLES[kind] if kind == "djl" else f"the {TITLES[kind]}"
