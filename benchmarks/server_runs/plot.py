"""Both servers' throughput and p99 as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from publishing import pyplot, save
from slot_runs.servers import TITLES
from slot_runs.subjects import MODES

from server_runs.report import NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slot_runs.servers import ServerKind
    from slot_runs.subjects import Mode

    from server_runs.duel import Bout
    from server_runs.report import Results

_COLOURS: dict[ServerKind, str] = {"embedded": "#0969da", "djl": "#9a9fa6"}
_WIDTH = 0.38


def draw(results: Results, folder: Path) -> None:
    """Write server.svg, a row of panels for each mode.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    plt = pyplot(NAME, font_size=9)
    figure, axes = plt.subplots(len(MODES), 2, figsize=(9, 6.4), layout="constrained")
    for row, mode in zip(axes, MODES, strict=True):
        _bars(row[0], results, mode, lambda one: one.typical.requests_per_second, "{:,.0f}")
        row[0].set_title(f"{mode}: requests/s (more is better)")
        _bars(row[1], results, mode, lambda one: one.p99_ms, "{:,.2g}")
        row[1].set_yscale("log")
        row[1].set_title(f"{mode}: p99, ms (less is better)")
    axes[0][0].legend(frameon=False, fontsize=8)
    save(figure, folder, NAME)


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
    axes.spines[["top", "right"]].set_visible(False)
