"""Pictures: a load over time and by percentile, and what many clients at once got."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from mmekit.errors import MmekitError
from mmekit.extras import optional_libraries
from mmekit_bench.clients import PERCENTILES
from mmekit_bench.report import described

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mmekit_bench.clients import ExecutionSummary
    from mmekit_bench.result import LoadResult

__all__ = ["draw_executions", "draw_load", "figure_written_to"]

_BLUE, _GREY, _RED, _ORANGE = "#0969da", "#9a9fa6", "#cf222e", "#bc4c00"
_BINS = 80
_CURVE = (0, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9, 99.95, 99.99, 99.999)
_STYLES = {50: "-", 90: "--", 99: ":", 100: ""}


@contextlib.contextmanager
def figure_written_to(path: Path, size: tuple[float, float], font_size: int = 9) -> Iterator[Any]:
    """Yield a figure of matplotlib, which is written when the block ends.

    The same figures give the same file: no date, and names in an SVG that are not drawn by lot.

    Parameters
    ----------
    path
        Its suffix names the format: .svg, .png.
    size
        Width and height in inches.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    MmekitError
        The file cannot be written.
    """
    with optional_libraries("The picture"):
        import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": font_size, "svg.hashsalt": "mmekit"}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False, fontsize=font_size - 1)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        try:
            figure.savefig(path, facecolor="white", metadata=metadata)
        except OSError as error:
            what = f"The picture cannot be written: {error.strerror}."
            raise MmekitError(what, where=str(path)) from error


def draw_load(result: LoadResult, path: Path) -> None:
    """Draw a load: over time, its distribution, its percentile curve; see `figure_written_to`."""
    with figure_written_to(path, (12, 7)) as figure:
        axes = figure.subplots(2, 2)
        _throughput(axes[0][0], result)
        _over_time(axes[0][1], result)
        _distribution(axes[1][0], result)
        _curve(axes[1][1], result)
        figure.suptitle(f"{result.plan.destination.url}\n{described(result.plan)}", fontsize=10)


def draw_executions(summaries: Sequence[ExecutionSummary], title: str, path: Path) -> None:
    """Draw what clients got, over the number of them; see `figure_written_to`.

    Parameters
    ----------
    summaries
        One at least.
    title
        What was asked, and how.
    """
    with figure_written_to(path, (12, 4)) as figure:
        axes = figure.subplots(1, 3)
        _outcomes(axes[0], summaries)
        _times(axes[1], summaries)
        _retries(axes[2], summaries)
        for one in axes:
            one.set_xticks(range(len(summaries)), [str(found.clients) for found in summaries])
            one.set_xlabel("clients at once")
            one.set_ylim(bottom=0)
        figure.suptitle(title, fontsize=10)


def _throughput(axes: Any, result: LoadResult) -> None:
    series = result.recording.series
    seconds = [one.second + 0.5 for one in series]
    axes.step(seconds, [one.answered for one in series], _BLUE, where="mid", label="answered")
    for name, colour in (("errors", _RED), ("dropped", _ORANGE)):
        counts = [getattr(one, name) for one in series]
        if any(counts):
            axes.step(seconds, counts, colour, where="mid", label=name)
    if result.plan.is_open:
        levels = [one.level for one in series]
        axes.step(seconds, levels, _GREY, where="mid", linestyle="--", label="due")
    axes.set_title("requests in a second")
    axes.set_xlabel("s")
    axes.set_ylim(bottom=0)


def _over_time(axes: Any, result: LoadResult) -> None:
    series = [one for one in result.recording.series if one.most_ms]
    seconds = [one.second + 0.5 for one in series]
    for name, label, style in (
        ("p50_ms", "50 %", "-"),
        ("p90_ms", "90 %", "--"),
        ("p99_ms", "99 %", ":"),
    ):
        axes.plot(seconds, [getattr(one, name) for one in series], style, color=_BLUE, label=label)
    axes.plot(seconds, [one.most_ms for one in series], ".", color=_GREY, ms=4, label="longest")
    if series:
        _logarithmic(axes.yaxis)
    axes.set_title("latency over time, ms")
    axes.set_xlabel("s")


def _distribution(axes: Any, result: LoadResult) -> None:
    import numpy as np

    counted = {
        "later calls": (result.recording.later, _BLUE),
        "first calls": (result.recording.first, _ORANGE),
    }
    counted = {name: (one, colour) for name, (one, colour) in counted.items() if one.count}
    if counted:
        least = min(one.least_ms for one, _ in counted.values())
        most = max(one.most_ms for one, _ in counted.values())
        edges = np.geomspace(least * 0.98, most * 1.02, _BINS)
        for name, (one, colour) in counted.items():
            times, counts = zip(*one.curve(), strict=True)
            heights, _ = np.histogram(times, edges, weights=counts)
            axes.stairs(heights, edges, color=colour, fill=True, alpha=0.6, label=name)
        axes.set_yscale("symlog", linthresh=1)
        _logarithmic(axes.xaxis)
    axes.set_title("distribution of the latency, ms")
    axes.set_ylabel("calls")
    axes.set_ylim(bottom=0)


def _curve(axes: Any, result: LoadResult) -> None:
    later = result.recording.later
    # A percentile that less than one call lies beyond is nothing but the longest.
    seen = [percent for percent in _CURVE if later.count * (1 - percent / 100) >= 1]
    # Each further nine is as far as the one before.
    axes.plot(
        [1 / (1 - percent / 100) for percent in seen],
        [later.percentile(percent) for percent in seen],
        color=_BLUE,
        marker="o",
        markersize=3,
    )
    axes.set_xscale("log")
    shown = [percent for percent in seen if percent in (0, 50, 90, 99, 99.9, 99.99, 99.999)]
    axes.set_xticks(
        [1 / (1 - percent / 100) for percent in shown], [f"{percent:g} %" for percent in shown]
    )
    axes.xaxis.minorticks_off()
    if later.count:
        _logarithmic(axes.yaxis)
    axes.set_title("percentiles of the latency of later calls, ms")


def _logarithmic(axis: Any) -> None:
    """Let an axis grow by factors, and write 0.1, 1, 10 on it."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _outcomes(axes: Any, summaries: Sequence[ExecutionSummary]) -> None:
    below = [0] * len(summaries)
    for name, colour in (("answered", _BLUE), ("throttled", _ORANGE), ("failed", _RED)):
        counts = [getattr(one, name) for one in summaries]
        if any(counts):
            bars = axes.bar(range(len(summaries)), counts, 0.6, below, color=colour, label=name)
            texts = [str(count or "") for count in counts]
            axes.bar_label(bars, texts, label_type="center", color="white")
        below = [sum(pair) for pair in zip(below, counts, strict=True)]
    axes.set_title("what clients got")


def _times(axes: Any, summaries: Sequence[ExecutionSummary]) -> None:
    for place, percent in enumerate(PERCENTILES):
        if percent in _STYLES:
            seconds = [one.seconds[place] if one.seconds else float("nan") for one in summaries]
            label = "longest" if percent == 100 else f"{percent} %"  # noqa: PLR2004 - percent
            colour = _GREY if not _STYLES[percent] else _BLUE
            axes.plot(seconds, _STYLES[percent], color=colour, marker="o", ms=4, label=label)
    axes.set_title("seconds until an answer, percentiles")


def _retries(axes: Any, summaries: Sequence[ExecutionSummary]) -> None:
    if all(one.retries is None for one in summaries):
        axes.text(0.5, 0.5, "not told", ha="center", transform=axes.transAxes)
    else:
        counts = [one.retries or 0 for one in summaries]
        bars = axes.bar(range(len(summaries)), counts, 0.6, color=_GREY, label="all clients")
        axes.bar_label(bars, [str(count) for count in counts])
        most = [one.most_retries or 0 for one in summaries]
        axes.plot(most, "o", color=_ORANGE, ms=4, label="the most of one client")
    axes.set_title("retries")
