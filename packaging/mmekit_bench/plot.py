"""A result as a picture: over time, distribution, percentile curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit.extras import optional_libraries
from mmekit_bench.report import described

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit_bench.result import Result

__all__ = ["draw"]

_BLUE, _GREY, _RED, _ORANGE = "#0969da", "#9a9fa6", "#cf222e", "#bc4c00"
_BINS = 80
_CURVE = (0, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9, 99.95, 99.99, 99.999)


def draw(result: Result, path: Path) -> None:
    """Write a picture, in the format that the suffix names (.svg, .png).

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    with optional_libraries("The picture"):
        import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "mmekit"}):
        figure = Figure(figsize=(12, 7), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        _throughput(axes[0][0], result)
        _over_time(axes[0][1], result)
        _distribution(axes[1][0], result)
        _curve(axes[1][1], result)
        for one in axes.flat:
            one.spines[["top", "right"]].set_visible(False)
            if one.get_legend_handles_labels()[0]:
                one.legend(frameon=False, fontsize=8)
        figure.suptitle(f"{result.plan.destination.url}\n{described(result.plan)}", fontsize=10)
        metadata = {"Date": None} if path.suffix == ".svg" else None  # same figures, same file
        figure.savefig(path, facecolor="white", metadata=metadata)


def _throughput(axes: Any, result: Result) -> None:
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


def _over_time(axes: Any, result: Result) -> None:
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


def _distribution(axes: Any, result: Result) -> None:
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


def _curve(axes: Any, result: Result) -> None:
    later = result.recording.later
    # Each further nine is as far as the one before.
    seen = [percent for percent in _CURVE if later.count * (1 - percent / 100) >= 1]
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
