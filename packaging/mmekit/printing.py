"""What commands print for people: tables and paragraphs that fit a terminal and bear a pipe.

In a terminal nothing is wider than it, colours included. In a pipe there are no colours, a row of a
table is one line, however long, and its columns stand where the others' do; paragraphs end at 80
columns, or at ``COLUMNS``. Nothing is ever cut off, and no word or number broken: a word that is
wider than the terminal is the terminal's to fold.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    from rich.console import Console

    from mmekit.findings import Finding

    Cell: TypeAlias = str | Text

__all__ = ["TextTable", "print_findings", "show", "wrapped", "written"]

_WIDTH = 80
_GAP = "  "
_EMPTY = "-"
_NARROW = 24
"""A column of sentences is no narrower; where there is less room, each row is a list instead."""

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True)
class TextTable:
    r"""A table without lines between its cells.

    Where it is too wide for a terminal, the last column's words go on below, then names of the
    first column get a line of their own, and where that is not enough each row is a list.

    Attributes
    ----------
    heads
        What stands above each column; all empty for none.
    rows
        Of as many cells.
    numbers
        The heads of columns that are aligned to the right.
    title
        Stands above it.

    Examples
    --------
    >>> table = TextTable(("target model", "errors"), (("ridge.tar.gz", "3"),), ("errors",))
    >>> print(*(line.plain for line in table.lines(None)), sep="\n")
    target model  errors
    ridge.tar.gz       3
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbers: tuple[str, ...] = ()
    title: str = ""

    def lines(self, width: int | None) -> Iterator[Text]:
        """Yield its lines.

        Parameters
        ----------
        width
            The columns of the terminal; None where a row has to be one line.
        """
        rows = [[_one_line(cell) for cell in row] for row in self.rows]
        natural = [
            max(cell_len(cell.plain) for cell in column)
            for column in zip(*([Text(head) for head in self.heads], *rows), strict=True)
        ]
        if self.title:
            yield from wrapped(Text(self.title, style="bold"), width or _WIDTH)
        taken = self._taken(natural, width)
        if taken is None:
            yield from self._lists(rows, width or _WIDTH)
            return
        if any(self.heads):
            heads = [Text(head, style="bold") for head in self.heads]
            yield from self._row(heads, taken, folds=width is not None)
        for row in rows:
            yield from self._row(row, taken, folds=width is not None)

    def _taken(self, natural: list[int], width: int | None) -> list[int] | None:
        """Return how wide each column is to be; None where they do not fit beside each other."""
        gaps = len(_GAP) * (len(natural) - 1)
        taken = list(natural)
        if width is None or sum(taken) + gaps <= width:
            return taken
        if self.heads[-1] not in self.numbers and len(taken) > 1:
            room = width - gaps - sum(taken[:-1])
            taken[-1] = max(room, min(taken[-1], _NARROW))
        if sum(taken) + gaps > width:
            # Names that are longer than this get a line of their own.
            taken[0] = width - gaps - sum(taken[1:])
            if taken[0] < cell_len(self.heads[0]):
                return None
        return taken

    def _row(self, row: list[Text], taken: list[int], *, folds: bool) -> Iterator[Text]:
        first, *others = row
        rests = wrapped(row[-1], taken[-1]) if folds and len(row) > 1 else [row[-1]]
        line = Text()
        if cell_len(first.plain) > taken[0]:
            yield first
            first = Text()
        for number, cell in enumerate([first, *others]):
            shown = rests[0] if number == len(row) - 1 and others else cell
            blank = " " * (taken[number] - cell_len(shown.plain))
            line.append(_GAP if number else "")
            is_number = self.heads[number] in self.numbers
            for part in (blank, shown) if is_number else (shown, blank):
                line.append(part)
        line.rstrip()
        yield line
        indent = " " * (sum(taken[:-1]) + len(_GAP) * len(taken[:-1]))
        for rest in rests[1:]:
            yield Text(indent).append(rest)

    def _lists(self, rows: list[list[Text]], width: int) -> Iterator[Text]:
        label = max(map(cell_len, self.heads[1:])) + len(_GAP)
        for row in rows:
            yield row[0]
            for head, cell in zip(self.heads[1:], row[1:], strict=True):
                if cell.plain == _EMPTY:
                    continue
                first, *rests = wrapped(cell, max(width - label - len(_GAP), _NARROW))
                yield Text(_GAP).append(f"{head:<{label}}", style="bold").append(first)
                yield from (Text(" " * (label + len(_GAP))).append(rest) for rest in rests)


def show(*parts: TextTable | Cell, stderr: bool = False, console: Console | None = None) -> None:
    """Print tables and paragraphs.

    Parameters
    ----------
    console
        Where to; standard output, or standard error, unless it is given.
    """
    from rich.console import Console

    console = console or Console(stderr=stderr)
    width = console.width if console.is_terminal else None
    for part in parts:
        if isinstance(part, TextTable):
            lines = part.lines(width)
        else:
            text = Text(part) if isinstance(part, str) else part
            lines = iter(wrapped(text, width or _piped_width(), hangs=True))
        _print(console, lines)


def print_findings(findings: Sequence[Finding], *, stderr: bool = False) -> None:
    """Print findings: a line each of what, where and which rule, and below it what to do."""
    for finding in findings:
        head = Text(f"{finding.severity:<7}", style=_COLOURS[finding.severity])
        head.append(f"{_GAP}{finding.where}{_GAP}{finding.rule}", style="default not bold")
        # A table of one cell: a line that `grep` finds whole.
        first = TextTable(("",), ((head,),))
        show(first, f"  {finding.message}\n  Remedy: {finding.remedy}", stderr=stderr)


def wrapped(text: Text, width: int, *, hangs: bool = False) -> list[Text]:
    """Return a text in lines of at most so many columns; words are never broken.

    Parameters
    ----------
    hangs
        Whether what goes on below is indented as its paragraph is.

    Examples
    --------
    >>> [line.plain for line in wrapped(Text("12,345.67 requests a second"), 12)]
    ['12,345.67', 'requests a', 'second']
    """
    found: list[Text] = []
    for paragraph in text.split("\n", allow_blank=True):
        plain = paragraph.plain
        indent = plain[: len(plain) - len(plain.lstrip())]
        breaks: list[int] = []
        used = start = 0
        for word in re.finditer(r"\s*\S+", plain):
            size = cell_len(word[0])
            if used and used + size > width:
                start = word.start() + len(word[0]) - len(word[0].lstrip())
                breaks.append(start)
                size = cell_len(word[0].lstrip()) + (cell_len(indent) if hangs else 0)
                used = 0
            used += size
        for number, line in enumerate(paragraph.divide(breaks)):
            line.rstrip()
            found.append(Text(indent).append(line) if hangs and number else line)
    return found


def written(number: float) -> str:
    """Return a number with about three digits that say something.

    Examples
    --------
    >>> [written(number) for number in (12345.6, 42, 12.34, 0.1234)]
    ['12,346', '42', '12.3', '0.12']
    """
    if number == int(number) or number >= 100:  # noqa: PLR2004
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"  # noqa: PLR2004


def _one_line(cell: Cell) -> Text:
    """Return a cell without line breaks and what would steer a terminal."""
    text = Text(cell) if isinstance(cell, str) else cell
    if not text.plain:
        return Text(_EMPTY, style="dim")
    if text.plain.isprintable():
        return text
    spaced = re.sub(r"\s", " ", text.plain)
    plain = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in spaced)
    return Text(plain, style=text.style)


def _piped_width() -> int:
    text = os.environ.get("COLUMNS", "")
    return int(text) if text.isdecimal() and int(text) else _WIDTH


def _print(console: Console, lines: Iterator[Text]) -> None:
    for line in lines:
        # The terminal folds what is too long; rich would break it, and pad it.
        console.print(line, soft_wrap=True, highlight=False)
