"""A load as people see it in a terminal: while it lasts, its result, a comparison of two."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mmekit.plural import counted
from mmekit.printing import TextTable, written
from mmekit.progress import AGAIN_S, under_way
from mmekit_bench.result import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from typing_extensions import Self

    from mmekit_bench.comparison import Comparison, Verdict
    from mmekit_bench.histogram import Histogram
    from mmekit_bench.plan import LoadPlan
    from mmekit_bench.recording import LoadProgress
    from mmekit_bench.result import LoadResult

__all__ = ["Display", "compared", "described", "reported"]

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60
_SHOWN_TARGETS = 10
_LONG_NAME = 16
_CHECK_LIMIT = 0.9
_COLOURS: dict[Verdict, str] = {
    "better": "green",
    "worse": "red",
    "within noise": "dim",
    "unknown": "dim",
}


def described(plan: LoadPlan) -> str:
    """Return a plan as one line."""
    if plan.rate is None:
        load = f"closed loop, {plan.ramp or plan.connections} connections"
    else:
        arrivals = "Poisson arrivals" if plan.poisson else "even arrivals"
        load = f"open loop, {plan.ramp or f'{plan.rate:g}'} requests/s, {arrivals}"
    spike = f", spike {plan.spike}" if plan.spike else ""
    targets = f"{counted(len(plan.targets), 'target')}, {plan.distribution}"
    return f"{load}{spike}; {targets if len(plan.targets) > 1 else plan.targets[0] or 'one model'}"


def reported(result: LoadResult) -> tuple[TextTable | Text, ...]:
    """Return a result as tables and remarks."""
    recording = result.recording
    summary = Text()
    summary.append(f"{result.plan.destination.url}\n{described(result.plan)}\n", style="dim")
    summary.append(f"{recording.requests_per_second:,.1f} requests/s", style="bold")
    summary.append(f", {recording.answered:,} answered in {recording.seconds:,.1f} s")
    failed = recording.failed
    summary.append(f", {failed:,} failed", style="bold red" if failed else "")
    if result.plan.is_open:
        dropped = recording.dropped
        summary.append(f", {dropped:,} dropped", style="bold red" if dropped else "")
    parts: list[TextTable | Text] = [summary, Text(), _percentiles(result), Text()]
    if len(recording.targets) > 1:
        parts += [_targets(result)]
        if len(recording.targets) > _SHOWN_TARGETS:
            others = len(recording.targets) - _SHOWN_TARGETS
            parts += [Text(f"and {others} others: --json and --output have them all", style="dim")]
        parts += [Text()]
    if recording.errors:
        parts += [_errors(recording.errors), Text()]
    parts.append(_own_time(result))
    return tuple(parts)


def compared(
    comparison: Comparison, results: Sequence[LoadResult], names: Sequence[str]
) -> tuple[TextTable | Text, ...]:
    """Return two results side by side.

    Parameters
    ----------
    names
        What to call each.
    """
    heads = ("first", "second") if max(map(len, names)) > _LONG_NAME else tuple(names)
    rows = tuple(
        (
            f"{row.name}, {row.unit}" if row.unit else row.name,
            written(row.first),
            written(row.second),
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            Text("" if row.verdict == "unknown" else row.verdict, style=_COLOURS[row.verdict]),
        )
        for row in comparison.rows
    )
    table = TextTable(("figure", *heads, "ratio", "verdict"), rows, numbers=(*heads, "ratio"))
    parts: list[TextTable | Text] = []
    if heads != tuple(names):
        pairs = zip(heads, names, strict=True)
        parts += [Text(f"{head}: {name}", style="dim") for head, name in pairs]
    parts.append(table)
    parts += [Text(f"not the same: {one}", style="yellow") for one in comparison.differences]
    for name, result in zip(names, results, strict=True):
        parts += [Text(f"{name}: {limit}", style="bold yellow") for limit in result.limits]
    style = {0: "green", 1: "bold red"}.get(comparison.exit_code, "bold yellow")
    return (*parts, Text(comparison.sentence, style=style))


def _percentiles(result: LoadResult) -> TextTable:
    recording = result.recording
    columns: dict[str, Histogram] = {"first calls": recording.first, "later calls": recording.later}
    if result.plan.is_open:
        columns["of which waited"] = recording.waited
    found = {name: histogram for name, histogram in columns.items() if histogram.count}
    heads = ("ms", *found)
    rows = [
        ("calls", *(f"{one.count:,}" for one in found.values())),
        ("mean", *(written(one.mean_ms) for one in found.values())),
    ]
    for percent in PERCENTILES:
        figures = (written(one.percentile(percent)) for one in found.values())
        rows.append((f"{percent:g}%", *figures))
    return TextTable(heads, tuple(rows), numbers=heads[1:])


def _targets(result: LoadResult) -> TextTable:
    heads = ("target model", "answered", "failed", "first ms", "mean ms", "most ms")
    rows = []
    ranked = sorted(result.recording.targets, key=lambda one: -(one.answered + one.errors))
    for one in ranked[:_SHOWN_TARGETS]:
        first = "" if one.first_ms is None else written(one.first_ms)
        later = (written(one.mean_ms), written(one.most_ms)) if one.most_ms else ("", "")
        rows.append((one.target, f"{one.answered:,}", f"{one.errors:,}", first, *later))
    return TextTable(heads, tuple(rows), numbers=heads[1:])


def _errors(errors: dict[str, int]) -> TextTable:
    rows = tuple((f"{count:,}", Text(kind, style="red")) for kind, count in errors.items())
    return TextTable(("requests", "error"), rows, numbers=("requests",))


def _own_time(result: LoadResult) -> Text:
    own = result.recording.own_time
    share = own.share(result.recording.later.percentile(50))
    text = Text()
    text.append(
        f"client: {own.cpu_us:.0f} µs of work a request ({share:.1%} of the median), busy "
        f"{own.busy:.0%} of the time",
        style="dim",
    )
    if own.lag.count:
        late = (own.lag.percentile(percent) for percent in (50, 99))
        text.append(", late by {:.2f} ms at the median, {:.2f} ms at 99 %".format(*late), "dim")
    for limit in result.limits:
        text.append(f"\n{limit}", style="bold yellow")
    check = result.check
    if check is not None and check.requests_per_second:
        ratio = result.recording.requests_per_second / check.requests_per_second
        text.append(
            f"\n{check.tool}: {check.requests_per_second:,.1f} requests/s, p50 "
            f"{written(check.p50_ms)} ms, p99 {written(check.p99_ms)} ms, {check.errors} failed. "
            f"This client reached {ratio:.2f} of its requests/s."
        )
        if ratio < _CHECK_LIMIT:
            text.append(
                f" It was the limit, unless the machine had other work: believe {check.tool}.",
                style="bold yellow",
            )
    if result.interrupted:
        text.append("\nCtrl-C ended the load early.", style="yellow")
    return text


class Display:
    """A few lines of a terminal that follow the load; elsewhere a line every few seconds.

    It is a context manager; a progress is shown by calling it.
    """

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._answered: deque[float] = deque(maxlen=_WIDTH)
        self._medians: deque[float] = deque(maxlen=_WIDTH)
        self._seen = -1
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._shows = self._console.is_terminal
        self._start = contextlib.ExitStack()
        self._due = 0.0

    def __enter__(self) -> Self:
        """Begin to show it."""
        # Until the first progress: a generator takes a second to start, and its models to load.
        self._start.enter_context(under_way(f"connecting to {self._plan.destination.url}"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Clear the lines."""
        self._start.close()
        if self._live.is_started:
            self._live.stop()

    def __call__(self, progress: LoadProgress) -> None:
        """Show how far it is."""
        self._start.close()
        latest = progress.latest
        if latest is not None and latest.second > self._seen:
            self._seen = latest.second
            self._answered.append(latest.answered)
            self._medians.append(latest.p50_ms)
        if self._shows:
            self._live.start()
            self._live.update(self._drawn(progress), refresh=True)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + AGAIN_S
            told = self._clock(progress).plain
            if latest is not None:
                told += f": {latest.answered:,} requests/s, median {latest.p50_ms:.2f} ms"
            self._console.print(told, soft_wrap=True, markup=False, highlight=False)

    def _drawn(self, progress: LoadProgress) -> Group:
        lines = [Text(described(self._plan), style="dim"), self._clock(progress)]
        latest = progress.latest
        if latest is not None:
            lines += [
                Text(f"{latest.answered:>9,} requests/s  {_bars(self._answered)}"),
                Text(f"{latest.p50_ms:>9.2f} ms, median  {_bars(self._medians)}"),
                Text(f"{latest.p99_ms:>9.2f} ms, 99 %"),
            ]
        lines += [
            Text(f"{count:>9,} {kind}", style="red") for kind, count in progress.errors.items()
        ]
        return Group(*lines)

    def _clock(self, progress: LoadProgress) -> Text:
        if progress.elapsed < 0:
            return Text(f"warm-up, {-progress.elapsed:.0f} s to go", style="yellow")
        whole = "" if self._plan.duration is None else f" of {self._plan.duration:g}"
        return Text(
            f"{progress.elapsed:.0f}{whole} s, {progress.in_flight} under way (Ctrl-C ends)"
        )


def _bars(values: deque[float]) -> str:
    highest = max(values, default=0) or 1
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] for value in values)
