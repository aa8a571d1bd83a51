"""A load as people see it in a terminal: while it lasts, its result, a comparison of two."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mmekit_bench.comparison import compare, differences
from mmekit_bench.result import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rich.console import RenderableType
    from typing_extensions import Self

    from mmekit_bench.comparison import Verdict
    from mmekit_bench.histogram import Histogram
    from mmekit_bench.plan import LoadPlan
    from mmekit_bench.recording import LoadProgress
    from mmekit_bench.result import LoadResult

__all__ = ["Display", "compared", "described", "reported"]

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60
_SHOWN_TARGETS = 10
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
    targets = f"{len(plan.targets)} targets, {plan.distribution}"
    return f"{load}{spike}; {targets if len(plan.targets) > 1 else plan.targets[0] or 'one model'}"


def reported(result: LoadResult) -> RenderableType:
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
    parts: list[RenderableType] = [summary, _percentiles(result)]
    if len(recording.targets) > 1:
        parts.append(_targets(result))
    if recording.errors:
        parts.append(_errors(recording.errors))
    parts.append(_own_time(result))
    return Group(*parts)


def compared(first: LoadResult, second: LoadResult, names: Sequence[str]) -> RenderableType:
    """Return two results side by side.

    Parameters
    ----------
    names
        What to call each.
    """
    table = Table("", *names, "ratio", "", title="Two loads, side by side")
    for column in table.columns[1:4]:
        column.justify = "right"
    for row in compare(first, second):
        table.add_row(
            f"{row.name}, {row.unit}" if row.unit else row.name,
            _figure(row.first),
            _figure(row.second),
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            Text("" if row.verdict == "unknown" else row.verdict, style=_COLOURS[row.verdict]),
        )
    notes = Text()
    for difference in differences(first, second):
        notes.append(f"\nnot the same: {difference}", style="yellow")
    for name, result in zip(names, (first, second), strict=True):
        for limit in result.limits:
            notes.append(f"\n{name}: {limit}", style="bold yellow")
    return Group(table, notes) if notes else table


def _percentiles(result: LoadResult) -> Table:
    recording = result.recording
    table = Table("ms", "calls", "mean", *(f"{percent:g}%" for percent in PERCENTILES))
    for column in table.columns[1:]:
        column.justify = "right"
    rows: dict[str, Histogram] = {"first calls": recording.first, "later calls": recording.later}
    if result.plan.is_open:
        rows["  of which waited"] = recording.waited
    for name, histogram in rows.items():
        if histogram.count:
            figures = (_figure(histogram.percentile(percent)) for percent in PERCENTILES)
            table.add_row(name, f"{histogram.count:,}", _figure(histogram.mean_ms), *figures)
    return table


def _targets(result: LoadResult) -> Table:
    table = Table("target model", "answered", "failed", "first, ms", "later, mean ms", "most, ms")
    for column in table.columns[1:]:
        column.justify = "right"
    ranked = sorted(result.recording.targets, key=lambda one: -(one.answered + one.errors))
    for one in ranked[:_SHOWN_TARGETS]:
        first = "-" if one.first_ms is None else _figure(one.first_ms)
        later = (_figure(one.mean_ms), _figure(one.most_ms)) if one.most_ms else ("-", "-")
        table.add_row(Text(one.target), f"{one.answered:,}", f"{one.errors:,}", first, *later)
    if len(ranked) > _SHOWN_TARGETS:
        table.caption = f"and {len(ranked) - _SHOWN_TARGETS} others"
    return table


def _errors(errors: dict[str, int]) -> Table:
    table = Table("error", "requests")
    table.columns[1].justify = "right"
    for kind, count in errors.items():
        table.add_row(Text(kind, style="red"), f"{count:,}")
    return table


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
            f"{_figure(check.p50_ms)} ms, p99 {_figure(check.p99_ms)} ms, {check.errors} failed. "
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


def _figure(value: float) -> str:
    """Write a number with about three digits that say something."""
    if value == int(value) or value >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004


class Display:
    """A few lines of a terminal that follow the load; nothing where there is no terminal.

    It is a context manager; a progress is shown by calling it.
    """

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._answered: deque[float] = deque(maxlen=_WIDTH)
        self._medians: deque[float] = deque(maxlen=_WIDTH)
        self._seen = -1
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._shows = console.is_terminal

    def __enter__(self) -> Self:
        """Begin to show it."""
        if self._shows:
            self._live.start()
            self._live.update(Text("connecting …"), refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Clear the lines."""
        if self._shows:
            self._live.stop()

    def __call__(self, progress: LoadProgress) -> None:
        """Show how far it is."""
        latest = progress.latest
        if latest is not None and latest.second > self._seen:
            self._seen = latest.second
            self._answered.append(latest.answered)
            self._medians.append(latest.p50_ms)
        if self._shows:
            self._live.update(self._drawn(progress), refresh=True)

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
