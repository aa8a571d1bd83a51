"""What is to be reached, and what was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peer_runs.cells import ASKED
from peer_runs.peers import OURS, PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from peer_runs.cells import Cell

MIB = 1 << 20

_CROWD = 50
_CONNECTIONS = (8, 32)
_MMS = "mms"
_RATIO = 2.5


@dataclass(frozen=True)
class Outcome:
    """One line of the table.

    Attributes
    ----------
    met
        None where there was nothing to compare with.
    among_isolated
        The same among the servers that give each model processes of its own.
    """

    what: str
    model: str
    reached: str
    met: bool | None
    among_isolated: bool | None = None


@dataclass(frozen=True)
class Figure:
    """A number by which peers are put in order.

    Attributes
    ----------
    of
        Reads it from a cell; None where it is not there.
    least
        Whether less is better.
    """

    what: str
    unit: str
    of: Callable[[Cell], float | None]
    least: bool

    def best(self, values: Mapping[str, float]) -> str:
        """Return the name of the best."""
        return (min if self.least else max)(values, key=values.__getitem__)

    def is_first(self, ours: float, others: Mapping[str, float]) -> bool:
        """Say whether none of the others is better."""
        best = others[self.best(others)]
        return ours <= best if self.least else ours >= best

    def text(self, value: float) -> str:
        """Return it as people read it."""
        digits = 1 if value < 10 else 0  # noqa: PLR2004
        return f"{value:,.{digits}f} {self.unit}"


def _cold(cell: Cell) -> float | None:
    return cell.cold.median_ms if cell.cold else None


def _memory(cell: Cell) -> float | None:
    found = cell.memory_for(_CROWD)
    return found.proportional / MIB if found else None


def _idle(cell: Cell) -> float | None:
    found = cell.idle_of(_CROWD)
    return found.proportional / MIB if found else None


def _throughput(connections: int) -> Callable[[Cell], float | None]:
    def of(cell: Cell) -> float | None:
        found = cell.load(connections)
        return found.requests_per_second if found else None

    return of


FIGURES = (
    Figure("first in cold load", "ms", _cold, least=True),
    Figure(f"first in memory for {_CROWD} models", "MiB", _memory, least=True),
    Figure(
        f"first in memory for {_CROWD} models, {_CROWD - ASKED} of them idle",
        "MiB",
        _idle,
        least=True,
    ),
    *(
        Figure(
            f"first in throughput at {connections} connections",
            "a second",
            _throughput(connections),
            least=False,
        )
        for connections in _CONNECTIONS
    ),
)


def judge(cells: Sequence[Cell]) -> list[Outcome]:
    """Return the lines for whatever was measured."""
    models = dict.fromkeys(cell.model for cell in cells)
    outcomes = [
        _first(figure, model, [cell for cell in cells if cell.model == model])
        for figure in FIGURES
        for model in models
    ]
    return [*outcomes, *_against_mms(cells)]


def _first(figure: Figure, model: str, cells: Sequence[Cell]) -> Outcome:
    """Compare mmekit's own server with the best of the others.

    DJL Serving with mmekit's archives is no other: it is how the same archive runs on SageMaker.
    """
    values = {cell.peer: value for cell in cells if (value := figure.of(cell)) is not None}
    ours = values.get(OURS)
    others = {peer: value for peer, value in values.items() if not peer.startswith((OURS, "djl-"))}
    if ours is None or not others:
        return Outcome(figure.what, model, "not measured", None)
    best = figure.best(others)
    alike = {peer: value for peer, value in others.items() if PEERS[peer].isolated}
    return Outcome(
        figure.what,
        model,
        f"{figure.text(ours)}; {PEERS[best].title} {figure.text(others[best])}",
        figure.is_first(ours, others),
        figure.is_first(ours, alike) if alike else None,
    )


def _against_mms(cells: Sequence[Cell]) -> list[Outcome]:
    found = {cell.peer: cell.load(8) for cell in cells if cell.model == "catboost_classifier"}
    ours, theirs = found.get(OURS), found.get(_MMS)
    if ours is None or theirs is None:
        return []
    ratio = ours.requests_per_second / theirs.requests_per_second
    what = f"at least {_RATIO} times Multi Model Server's throughput at 8 connections"
    reached = (
        f"{ratio:.2f} ({ours.requests_per_second:,.0f} / {theirs.requests_per_second:,.0f} "
        f"a second)"
    )
    p99 = f"{ours.p99_ms:,.1f} ms; Multi Model Server {theirs.p99_ms:,.1f} ms"
    return [
        Outcome(what, "catboost_classifier", reached, ratio >= _RATIO),
        Outcome("p99 there no higher", "catboost_classifier", p99, ours.p99_ms <= theirs.p99_ms),
    ]
