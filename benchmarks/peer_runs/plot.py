"""The results as a picture: cold load, memory and throughput, model by model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_bench.plot import figure_written_to
from peer_runs import subjects
from peer_runs.peers import OURS, PEERS
from peer_runs.report import NAME
from peer_runs.targets import FIGURES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from peer_runs.cells import Cell
    from peer_runs.report import Results
    from peer_runs.targets import Figure

_OURS = "#0969da"
_ALSO_OURS = "#7db3f0"
_THEIRS = "#9a9fa6"
_HATCH = "////"


def draw(results: Results, folder: Path) -> None:
    """Write peers.svg: a row of panels for each model.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    models = list(dict.fromkeys(cell.model for cell in results.cells))
    size = (3.6 * len(FIGURES), 2.3 * len(models))
    with figure_written_to(folder / f"{NAME}.svg", size, font_size=8) as figure:
        axes = figure.subplots(len(models), len(FIGURES), squeeze=False, sharey="row")
        for row, model in zip(axes, models, strict=True):
            cells = [cell for cell in results.cells if cell.model == model]
            for one, panel in zip(FIGURES, row, strict=True):
                _panel(panel, one, cells)
            row[0].invert_yaxis()
            row[0].set_ylabel(subjects.TITLES[model])


def _panel(panel: Any, figure: Figure, cells: Sequence[Cell]) -> None:
    values = [figure.of(cell) for cell in cells]
    bars = panel.barh(
        [PEERS[cell.peer].title for cell in cells],
        [value or 0 for value in values],
        color=[_colour(cell) for cell in cells],
    )
    for bar, cell in zip(bars, cells, strict=True):
        if _is_of_another_kind(figure, cell):
            bar.set_hatch(_HATCH)
    panel.bar_label(
        bars,
        ["-" if value is None else f"{value:,.0f}" for value in values],
        padding=2,
        fontsize=7,
    )
    if any(values):
        panel.set_xscale("log")
    panel.margins(x=0.25)
    better = "less" if figure.least else "more"
    what = figure.what.removeprefix("first in ")
    panel.set_title(f"{what}, {figure.unit} ({better} is better)", fontsize=7)


def _colour(cell: Cell) -> str:
    if cell.peer == OURS:
        return _OURS
    return _ALSO_OURS if cell.peer == "djl-slots" else _THEIRS


def _is_of_another_kind(figure: Figure, cell: Cell) -> bool:
    """Say whether a bar is hatched: a start in the place of a load, or an extrapolation."""
    if "cold" in figure.what:
        return cell.cold is not None and cell.cold.kind == "start"
    if "memory" in figure.what:
        return bool(cell.memory) and cell.memory[-1].extrapolated
    return False
