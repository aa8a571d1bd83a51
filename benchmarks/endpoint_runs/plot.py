"""The results as a picture: throughput, what the endpoint adds, and a crowd's response times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from publishing import pyplot, save

from endpoint_runs.overhead import MODES
from endpoint_runs.report import NAME

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from endpoint_runs.crowd import Crowd
    from endpoint_runs.overhead import Overhead
    from endpoint_runs.report import Results

_CONTAINER, _ENDPOINT = "#9a9fa6", "#0969da"
_WIDTH = 0.38


def draw(results: Results, folder: Path) -> None:
    """Write endpoint.svg.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    plt = pyplot(NAME, font_size=9)
    panels = (1 if results.overheads else 0) + len(results.crowds)
    figure, axes = plt.subplots(
        1, panels, figsize=(4.5 * panels, 3.6), squeeze=False, layout="constrained"
    )
    row = list(axes[0])
    if results.overheads:
        _throughput(row.pop(0), results.overheads)
    for panel, crowd in zip(row, results.crowds, strict=True):
        _response_times(panel, crowd)
    save(figure, folder, NAME)


def _throughput(axes: Any, overheads: Sequence[Overhead]) -> None:
    places = range(len(overheads))
    for offset, colour, name in (
        (-_WIDTH / 2, _CONTAINER, "container"),
        (_WIDTH / 2, _ENDPOINT, "endpoint"),
    ):
        heights = [getattr(one, name).requests_per_second for one in overheads]
        axes.bar([place + offset for place in places], heights, _WIDTH, color=colour, label=name)
    labels = [f"{MODES[one.mode].split(',')[0]}\n{one.connections}" for one in overheads]
    axes.set_xticks(list(places), labels, fontsize=7)
    axes.set_title("requests/s by connections (more is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _response_times(axes: Any, crowd: Crowd) -> None:
    seconds = [start for start, _, _ in crowd.slices]
    for values, colour, label in (
        ([p50 for _, p50, _ in crowd.slices], _CONTAINER, "p50"),
        ([p99 for _, _, p99 in crowd.slices], _ENDPOINT, "p99"),
    ):
        axes.plot(seconds, values, color=colour, label=label, linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("seconds")
    axes.set_title(f"{crowd.models:,} models, {crowd.traffic}, {crowd.rate:g}/s: ms")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
