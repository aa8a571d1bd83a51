"""The README's table of one model on all servers, from what peers.json holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from publishing import IncompleteRunError
from tables import milliseconds, table

from peer_runs.cells import ASKED
from peer_runs.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Cell = Mapping[str, Any]

MODEL = "catboost_classifier"
_MODELS = 50
_CONNECTIONS = 8
_MIB = 1 << 20


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

    def place(cell: Cell) -> tuple[bool, float]:
        load = _load(cell)
        return not PEERS[cell["peer"]].isolated, -_per_second(load) if load else 0.0

    rows = [
        [
            PEERS[cell["peer"]].title,
            _cold(cell),
            _memory(cell["memory"]),
            _memory([cell["idle"] or {"models": 0}]),
            *_under_load(cell),
            "yes" if PEERS[cell["peer"]].isolated else "no",
        ]
        for cell in sorted(cells, key=place)
    ]
    memory = (f"memory, {_MODELS} models", f"{_MODELS - ASKED} of them idle")
    numbers = ("cold load", *memory, f"requests/s at {_CONNECTIONS}", "p99")
    return table(("",), (*numbers, "each model apart"), rows)


def _cold(cell: Cell) -> str:
    cold = cell["cold"]
    if cold is None:
        return "-"
    return f"{'start, ' if cold['kind'] == 'start' else ''}{milliseconds(cold['median_ms'])}"


def _memory(measured: Sequence[Mapping[str, Any]]) -> str:
    found = [one for one in measured if one["models"] == _MODELS]
    if not found:
        return "-"
    about = "" if found[0]["measured_with"] == _MODELS else "≈ "
    return f"{about}{found[0]['proportional'] / _MIB:,.0f} MiB"


def _under_load(cell: Cell) -> tuple[str, str]:
    load = _load(cell)
    if load is None:
        return "-", "-"
    return f"{_per_second(load):,.0f}", milliseconds(load["p99_ms"])


def _load(cell: Cell) -> Mapping[str, Any] | None:
    return next((one for one in cell["loads"] if one["connections"] == _CONNECTIONS), None)


def _per_second(load: Mapping[str, Any]) -> float:
    return float(load["requests"] / load["seconds"])
