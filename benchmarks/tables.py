"""Tables in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mmekit_bench.result import Load

LOAD_COLUMNS = ("requests/s", "p50", "p95", "p99", "p99.9", "errors")


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
