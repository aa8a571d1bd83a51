"""The results as a picture: cold load, throughput and latencies side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from publishing import pyplot, save

from slot_runs.report import NAME
from slot_runs.servers import TITLES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmekit_bench import Load
    from slot_runs.report import Results
    from slot_runs.subjects import Mode
    from slot_runs.targets import Pair

CONNECTIONS = 8

_COLOURS: dict[Mode, str] = {"plain": "#9a9fa6", "slots": "#0969da"}
_LABELS: dict[Mode, str] = {"plain": "plain engine", "slots": "worker slots"}
_WIDTH = 0.38
_PERCENTILES = ("p50", "p95", "p99", "p99.9")
_MARKERS = "osD^v"


def draw(results: Results, folder: Path) -> None:
    """Write worker_slots.svg, a row of panels for each server.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    plt = pyplot(NAME, font_size=9)
    servers = list(dict.fromkeys(pair.server for pair in results.pairs))
    figure, axes = plt.subplots(
        len(servers),
        3,
        figsize=(12, 3.6 * len(servers)),
        squeeze=False,
        layout="constrained",
    )
    for row, server in zip(axes, servers, strict=True):
        pairs = [pair for pair in results.pairs if pair.server == server]
        _bars(row[0], pairs, "cold_ms")
        row[0].set_title(f"{TITLES[server]}: cold load, ms (less is better)")
        _bars(row[1], pairs, "requests")
        row[1].set_title(f"requests/s, {CONNECTIONS} connections (more is better)")
        _latencies(row[2], pairs)
        row[2].set_title(f"latency, ms, {CONNECTIONS} connections (less is better)")
    save(figure, folder, NAME)


def _bars(axes: Any, pairs: Sequence[Pair], figure: str) -> None:
    for offset, mode in ((-_WIDTH / 2, "plain"), (_WIDTH / 2, "slots")):
        heights = [_figure(pair, mode, figure) for pair in pairs]  # type: ignore[arg-type]
        bars = axes.bar(
            [number + offset for number in range(len(pairs))],
            heights,
            _WIDTH,
            color=_COLOURS[mode],  # type: ignore[index]
            label=_LABELS[mode],  # type: ignore[index]
        )
        axes.bar_label(bars, [f"{height:,.0f}" for height in heights], padding=2, fontsize=8)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xticks(range(len(pairs)), [pair.subject for pair in pairs])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _figure(pair: Pair, mode: Mode, figure: str) -> float:
    run = pair.plain if mode == "plain" else pair.slots
    if figure == "cold_ms":
        return run.cold.median_ms
    load = run.load(CONNECTIONS)
    return load.requests_per_second if load else 0.0


def _latencies(axes: Any, pairs: Sequence[Pair]) -> None:
    for marker, pair in zip(_MARKERS, pairs, strict=False):
        for run in (pair.plain, pair.slots):
            load = run.load(CONNECTIONS)
            if load is None:
                continue
            axes.plot(
                _PERCENTILES,
                _percentiles(load),
                color=_COLOURS[run.mode],
                marker=marker,
                markersize=4,
                linestyle="--" if run.mode == "plain" else "-",
                label=pair.subject if run.mode == "slots" else None,
            )
    axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _percentiles(load: Load) -> list[float]:
    return [load.p50_ms, load.p95_ms, load.p99_ms, load.p999_ms]
