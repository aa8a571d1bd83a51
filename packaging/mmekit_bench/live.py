"""What is seen of a load while it lasts."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mmekit_bench.report import described

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from mmekit_bench.messages import Progress
    from mmekit_bench.plan import Plan

__all__ = ["Display"]

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60


class Display:
    """A few lines of a terminal that follow the load; nothing where there is no terminal.

    It is a context manager; a progress is shown by calling it.
    """

    def __init__(self, plan: Plan) -> None:
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

    def __call__(self, progress: Progress) -> None:
        """Show how far it is."""
        latest = progress.latest
        if latest is not None and latest.second > self._seen:
            self._seen = latest.second
            self._answered.append(latest.answered)
            self._medians.append(latest.p50_ms)
        if self._shows:
            self._live.update(self._drawn(progress), refresh=True)

    def _drawn(self, progress: Progress) -> Group:
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

    def _clock(self, progress: Progress) -> Text:
        if progress.elapsed < 0:
            return Text(f"warm-up, {-progress.elapsed:.0f} s to go", style="yellow")
        whole = "" if self._plan.duration is None else f" of {self._plan.duration:g}"
        return Text(
            f"{progress.elapsed:.0f}{whole} s, {progress.under_way} under way (Ctrl-C ends)"
        )


def _bars(values: deque[float]) -> str:
    highest = max(values, default=0) or 1
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] for value in values)
