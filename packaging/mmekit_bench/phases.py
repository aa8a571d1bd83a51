"""Where a call's time goes inside a container: the phases that a handler prints, as a table.

The handlers of CatBoost print a line for every call when MMEKIT_PHASES=true is among the
container's environment variables::

    mmekit phases: size=569368 call=1 handle_out=0.0019 preprocess=0.0052 inference=20.76 …

``call=0`` is loading. Whatever stands before it on the line, a date or a worker's name, is passed
over. As a program it reads standard input: ``python -m mmekit_bench.phases < container.log``.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from mmekit.printing import TextTable, show

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PHASES", "PhaseRow", "TimedCall", "drawn", "read_calls", "summarise"]

PHASES = (
    "init",
    "initialize",
    "handle_out",
    "preprocess",
    "inference",
    "postprocess",
    "handle_in",
)
"""In the order of the table; the first two happen once, when a model is loaded."""

_LINE = re.compile(r"mmekit phases: size=(\d+) call=(\d+)((?: \w+=\d+(?:\.\d+)?)+)")
_ANSWERED = "inference"


@dataclass(frozen=True)
class TimedCall:
    """One line.

    Attributes
    ----------
    size
        Bytes of the model's file.
    number
        0 for loading, 1 for a model's first call in its worker process.
    phases
        Each phase's name and milliseconds.
    """

    size: int
    number: int
    phases: tuple[tuple[str, float], ...]

    @property
    def counts(self) -> bool:
        """Whether it is a load or was answered; a call refused before inference is neither."""
        return self.number == 0 or any(name == _ANSWERED for name, _ in self.phases)


@dataclass(frozen=True)
class PhaseRow:
    """One phase.

    Attributes
    ----------
    function
        Its name.
    initial_ms
        The median over loads, or over models' first calls; None when there was none.
    subsequent_ms
        The median over all later calls; None for a phase that happens once.
    """

    function: str
    initial_ms: float | None
    subsequent_ms: float | None


def read_calls(lines: Iterable[str]) -> tuple[TimedCall, ...]:
    """Return the calls that a log tells of; all other lines of it are passed over.

    Examples
    --------
    >>> read_calls(["12:30 [INFO] mmekit phases: size=9 call=2 inference=0.3", "ready"])
    (TimedCall(size=9, number=2, phases=(('inference', 0.3),)),)
    """
    found = (_LINE.search(line) for line in lines)
    return tuple(
        TimedCall(int(match[1]), int(match[2]), _figures(match[3])) for match in found if match
    )


def summarise(calls: Iterable[TimedCall]) -> tuple[PhaseRow, ...]:
    """Return a row for each phase, first calls and later ones apart."""
    counted = [call for call in calls if call.counts]
    first = [call for call in counted if call.number <= 1]
    later = [call for call in counted if call.number > 1]
    return tuple(PhaseRow(name, _median(name, first), _median(name, later)) for name in PHASES)


def drawn(rows: Iterable[PhaseRow], title: str = "") -> TextTable:
    """Return rows as a table for people."""
    heads = ("function", "initial run, ms", "subsequent run, ms")
    cells = ((row.function, _shown(row.initial_ms), _shown(row.subsequent_ms)) for row in rows)
    return TextTable(heads, tuple(cells), numbers=heads[1:], title=title)


def _figures(text: str) -> tuple[tuple[str, float], ...]:
    pairs = (pair.partition("=") for pair in text.split())
    return tuple((name, float(value)) for name, _, value in pairs)


def _median(name: str, calls: Iterable[TimedCall]) -> float | None:
    values = [ms for call in calls for phase, ms in call.phases if phase == name]
    return median(values) if values else None


def _shown(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:,.4f}"


def _main() -> None:
    calls = read_calls(sys.stdin)
    for size in sorted({call.size for call in calls}):
        own = [call for call in calls if call.size == size]
        show(drawn(summarise(own), f"model file of {size / 1e6:,.2f} MB"))


if __name__ == "__main__":
    _main()
