"""Crowds as a picture: who was answered, how long it took, how often it was tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit.errors import MmekitError
from mmekit.extras import optional_libraries
from mmekit_bench.clients.summary import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmekit_bench.clients.summary import Summary

__all__ = ["draw"]

_BLUE, _RED, _ORANGE, _GREY = "#0969da", "#cf222e", "#bc4c00", "#9a9fa6"
_STYLES = {50: "-", 90: "--", 99: ":", 100: ""}


def draw(summaries: Sequence[Summary], title: str, path: Path) -> None:
    """Write a picture over the number of clients, in the format that the suffix names.

    Parameters
    ----------
    summaries
        One at least.
    title
        What was asked, and how.
    path
        Such as ``report.svg`` or ``report.png``.

    Raises
    ------
    MmekitError
        matplotlib is not installed, or the file cannot be written.
    """
    with optional_libraries("The picture"):
        import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "mmekit"}):
        figure = Figure(figsize=(12, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 3)
        _outcomes(axes[0], summaries)
        _times(axes[1], summaries)
        _retries(axes[2], summaries)
        for one in axes:
            one.set_xticks(range(len(summaries)), [str(found.clients) for found in summaries])
            one.set_xlabel("clients at once")
            one.set_ylim(bottom=0)
            one.spines[["top", "right"]].set_visible(False)
            if one.get_legend_handles_labels()[0]:
                one.legend(frameon=False, fontsize=8)
        figure.suptitle(title, fontsize=10)
        metadata = {"Date": None} if path.suffix == ".svg" else None  # same figures, same file
        try:
            figure.savefig(path, facecolor="white", metadata=metadata)
        except OSError as error:
            what = f"The picture cannot be written: {error.strerror}."
            raise MmekitError(what, where=str(path)) from error


def _outcomes(axes: Any, summaries: Sequence[Summary]) -> None:
    below = [0] * len(summaries)
    for name, colour in (("answered", _BLUE), ("throttled", _ORANGE), ("failed", _RED)):
        counts = [getattr(one, name) for one in summaries]
        if any(counts):
            bars = axes.bar(range(len(summaries)), counts, 0.6, below, color=colour, label=name)
            texts = [str(count or "") for count in counts]
            axes.bar_label(bars, texts, label_type="center", color="white")
        below = [sum(pair) for pair in zip(below, counts, strict=True)]
    axes.set_title("what clients got")


def _times(axes: Any, summaries: Sequence[Summary]) -> None:
    for place, percent in enumerate(PERCENTILES):
        if percent in _STYLES:
            seconds = [one.seconds[place] if one.seconds else float("nan") for one in summaries]
            label = "longest" if percent == 100 else f"{percent} %"  # noqa: PLR2004 - percent
            colour = _GREY if not _STYLES[percent] else _BLUE
            axes.plot(seconds, _STYLES[percent], color=colour, marker="o", ms=4, label=label)
    axes.set_title("seconds until an answer, percentiles")


def _retries(axes: Any, summaries: Sequence[Summary]) -> None:
    if all(one.retries is None for one in summaries):
        axes.text(0.5, 0.5, "not told", ha="center", transform=axes.transAxes)
    else:
        counts = [one.retries or 0 for one in summaries]
        bars = axes.bar(range(len(summaries)), counts, 0.6, color=_GREY, label="all clients")
        axes.bar_label(bars, [str(count) for count in counts])
        most = [one.most_retries or 0 for one in summaries]
        axes.plot(most, "o", color=_ORANGE, ms=4, label="the most of one client")
    axes.set_title("retries")
