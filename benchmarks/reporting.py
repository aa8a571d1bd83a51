"""What benchmarks report: under which conditions, tables, how far they are, what is published."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mmekit_bench.result import this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.console import Console

    from mmekit_bench import Load

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "docs" / "benchmarks"
FIGURES = ROOT / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- figures:", "<!-- end of figures -->"
_QUIET_PERCENT = 15

LOAD_COLUMNS = ("requests/s", "p50", "p95", "p99", "p99.9", "errors")


@dataclass(frozen=True)
class Conditions:
    """What figures were measured on, without naming it.

    Attributes
    ----------
    busy_percent
        How busy others kept the cores, in the second before the first measurement.
    """

    cores: int
    memory_gib: int
    system: str
    python: str
    busy_percent: float

    @classmethod
    def this(cls) -> Conditions:
        """Describe this machine."""
        machine = this_machine()
        return cls(
            cores=machine.cores,
            memory_gib=round(machine.memory_gib),
            system=machine.system.partition("-")[0],
            python=platform.python_version(),
            busy_percent=psutil.cpu_percent(interval=1.0),
        )

    def __str__(self) -> str:
        """Return what matters to a reader, as one line."""
        system, python = self.system.split()[0], self.python.rpartition(".")[0]
        return f"{self.cores} cores, {self.memory_gib} GiB, {system}, Python {python}"

    def warn_if_busy(self) -> None:
        """Say so on standard error when others kept the cores from what is to be measured."""
        if self.busy_percent > _QUIET_PERCENT:
            print(
                f"Something else keeps the cores {self.busy_percent:.0f} % busy.", file=sys.stderr
            )


def table(texts: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table, and an empty line after it.

    Parameters
    ----------
    texts, numbers
        The headings of the columns that are read from the left, and of those on their right.
    """
    marks = ["---"] * len(texts) + ["---:"] * len(numbers)
    lines = [[*texts, *numbers], marks, *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def under_load(load: Load) -> tuple[str, ...]:
    """Return the cells of `LOAD_COLUMNS`."""
    times = (load.p50_ms, load.p95_ms, load.p99_ms, load.p999_ms)
    found = (f"{one:,.2f} ms" for one in times)
    return f"{load.requests_per_second:,.0f}", *found, str(load.errors)


def milliseconds(value: float) -> str:
    """Return a time as people read it: 7.0 ms, 1,238 ms.

    >>> milliseconds(6.97), milliseconds(1238.3)
    ('7.0 ms', '1,238 ms')
    """
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"  # noqa: PLR2004


def steps_of(console: Console) -> Progress:
    """Return a bar with the steps that are done, the time so far, and what is being done."""
    return Progress(
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
    )


def try_to_draw(draw: Callable[[], None], console: Console) -> None:
    """Draw a picture, or say why there is none: tables are worth having without one."""
    try:
        draw()
    except ImportError as error:
        console.print(f"no picture: {error}")


class IncompleteRunError(Exception):
    """A run lacks something that docs/benchmarks.md shows; the text says what."""


def publish(
    output: Path,
    name: str,
    console: Console,
    summary: Callable[[Mapping[str, Any]], str] | None = None,
) -> bool:
    """Copy a benchmark's JSON, tables and picture; False when they are not worth publishing.

    Parameters
    ----------
    summary
        Makes the table in docs/benchmarks.md of what the JSON holds, or raises
        IncompleteRunError; None for a benchmark without one.
    """
    if summary is not None:
        try:
            text = summary(json.loads((output / f"{name}.json").read_text()))
        except IncompleteRunError as error:
            console.print(f"Not published: docs/benchmarks.md shows {error}, which this run lacks.")
            return False
        put_into_figures(name, text)
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    for suffix in ("json", "md", "svg"):
        file = output / f"{name}.{suffix}"
        if file.exists():
            shutil.copyfile(file, PUBLISHED / file.name)
    return True


def published_content(name: str) -> dict[str, Any] | None:
    """Return what the last published report of a benchmark holds; None when there is none."""
    try:
        content: dict[str, Any] = json.loads((PUBLISHED / f"{name}.json").read_text())
    except FileNotFoundError:
        return None
    return content


def put_into_figures(name: str, text: str) -> None:
    """Put a benchmark's table between its marks in docs/benchmarks.md."""
    begin = f"{_BEGIN} written by benchmarks/{name}.py --publish -->"
    before, found, rest = FIGURES.read_text().partition(begin)
    _, end, after = rest.partition(_END)
    if not (found and end) or _BEGIN in rest.partition(_END)[0]:
        raise RuntimeError(f"{FIGURES} lacks {begin} or the {_END} that belongs to it")
    FIGURES.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")
