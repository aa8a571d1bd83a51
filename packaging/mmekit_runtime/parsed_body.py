"""What a request's body says once it is taken to pieces: cells, and the names that they come with.

What a cell means is for others to say (`mmekit_runtime.decoding`, `mmekit_runtime.tables`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.messages import Parameters, RequestError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

UNPACKED_VARIABLE = "MMEKIT_MAX_UNPACKED_BYTES"
MAX_UNPACKED = 256 << 20
"""Bytes that a body may unpack to, where the variable names no other number."""

# What a message says of names that somebody has sent, and how deep it looks into lists.
_SAID = 20
_DEPTH = 3
_RECORD_MEMBERS = ("instances", "inputs", "features", "text", "data")


@dataclass(frozen=True)
class ParsedBody:
    """What a body says.

    Attributes
    ----------
    rows
        A list or array with an entry a row, or one row alone; None when there are ``columns``.
    columns
        Lists or arrays of cells by the column's name; None when there are ``rows``.
    names
        What the cells of a row are called, in their order; None when nobody says.
    is_text
        Whether cells are still texts, as in CSV.
    parameters
        What is asked for beside the rows.
    """

    rows: Any = None
    columns: Mapping[str, Any] | None = None
    names: tuple[str, ...] | None = None
    is_text: bool = False
    parameters: Parameters = field(default_factory=Parameters)

    @property
    def has_names(self) -> bool:
        """Whether it says which cell is of which column."""
        if self.names is not None or self.columns is not None:
            return True
        return isinstance(self.rows, list) and bool(self.rows) and isinstance(self.rows[0], dict)


def rows_by_name(
    content: ParsedBody, names: Sequence[str], optional: Collection[str] = ()
) -> ParsedBody:
    """Return the content with its columns in the order of ``names``, whatever order it came in.

    ParsedBody without names is returned as it is.

    Raises
    ------
    RequestError
        400 when columns are missing, unknown or named twice; the message names them.
    """
    if content.columns is not None:
        given = content.columns
        _check_names(list(given), names, optional)
        count = len(next(iter(given.values()), ()))
        columns = {name: given[name] if name in given else [None] * count for name in names}
        return ParsedBody(columns=columns, names=tuple(names), parameters=content.parameters)
    if content.names is not None:
        # Blanks around a name in a CSV are none of it, unless the training had them.
        called = tuple(name if name in names else name.strip() for name in content.names)
        _check_names(called, names, optional)
        if called == tuple(names):
            return content
        places = [called.index(name) if name in called else None for name in names]
        rows = [[None if place is None else row[place] for place in places] for row in content.rows]
        return ParsedBody(rows, None, tuple(names), content.is_text, content.parameters)
    if content.has_names:
        if _are_wrapped(content.rows, names):
            return replace(content, rows=[record(row) for row in content.rows])
        rows = _of_records(content.rows, names, optional)
        return ParsedBody(rows, None, tuple(names), parameters=content.parameters)
    return content


def record(line: Any) -> Any:
    """Return what an object with one known member holds, and anything else as it is."""
    if isinstance(line, dict):
        if len(line) == 1:
            for name in _RECORD_MEMBERS:
                if name in line:
                    return line[name]
        received = f"an object with {listed(list(line), 5)}"
        raise RequestError(400, 'a list or {"features": [...]} a record', received)
    return line


def described(value: Any, depth: int = _DEPTH) -> str:
    """Say for a person what came."""
    if isinstance(value, (list, np.ndarray)):
        if not depth or (isinstance(value, np.ndarray) and not value.ndim):
            return "a list"
        inner = described(value[0], depth - 1) if len(value) else ""
        return f"a list that holds {inner}" if inner else "an empty list"
    if isinstance(value, dict):
        return "a JSON object"
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return f"{type(value).__name__} {value!r}"[:60]


def columns_of(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return cells by column, of equal numbers; a single cell is a column of one row."""
    cells: dict[str, Any] = {}
    for name, given in columns.items():
        is_column = isinstance(given, list) or (isinstance(given, np.ndarray) and given.ndim)
        column = given if is_column else [given]
        if isinstance(column, np.ndarray) and column.ndim != 1:
            shape = " x ".join(map(str, column.shape))
            raise RequestError(400, "an array of one dimension a column", f"{name} of {shape}")
        cells[name] = column
    counts = {name: len(column) for name, column in cells.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} of {count}" for name, count in list(counts.items())[:5])
        raise RequestError(400, "columns of equal length", said)
    return cells


def _are_wrapped(rows: list[Any], names: Collection[str]) -> bool:
    """Whether records are objects with one member that holds the row, such as ``features``."""
    members = list(rows[0])
    return len(members) == 1 and members[0] in _RECORD_MEMBERS and members[0] not in names


def _check_names(given: Sequence[str], names: Sequence[str], optional: Collection[str]) -> None:
    if list(given) == list(names):
        return
    known, there = set(names), Counter(given)
    unknown = [name for name in there if name not in known]
    missing = [name for name in names if name not in there and name not in optional]
    twice = [name for name, count in there.items() if count > 1]
    if unknown or missing or twice:
        said = _misfit(unknown, missing, twice)
        raise RequestError(400, f"the columns {', '.join(names)}", said, tuple(missing))


def _misfit(unknown: list[str], missing: list[str], twice: list[str]) -> str:
    said = [
        missing and f"none called {listed(missing)}",
        unknown and f"also {listed(unknown)}",
        twice and f"{listed(twice)} twice",
    ]
    return "; ".join(part for part in said if part)


def listed(names: list[str], most: int = _SAID) -> str:
    """Say names that somebody has sent, of which there may be many."""
    said = [repr(name[: _SAID * 2])[1:-1] or "one without a name" for name in names[:most]]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join(said + more) or "no members"


def _of_records(records: list[Any], names: Sequence[str], optional: Collection[str]) -> list[Any]:
    known = set(names)
    get = itemgetter(*names)
    rows = []
    for number, one in enumerate(records):
        if not isinstance(one, dict):
            received = f"record {number} that is {described(one)}"
            raise RequestError(400, "objects with the columns' names, every record", received)
        if one.keys() == known:
            rows.append(list(get(one)) if len(names) > 1 else [get(one)])
            continue
        try:
            _check_names(list(one), names, optional)
        except RequestError as error:
            received = f"in record {number} {error.received}"
            raise RequestError(400, error.expected, received, error.columns) from None
        rows.append([one.get(name) for name in names])
    return rows


def refuse_size(size: int, kind: str) -> None:
    """Raise RequestError 400 for a body that unpacks to more than there is room for."""
    most = most_unpacked()
    if size > most:
        received = f"one that unpacks to {size} bytes"
        raise RequestError(400, f"{kind} that unpacks to at most {most} bytes", received)


def most_unpacked() -> int:
    """Return how many bytes a body may unpack to; ValueError for a setting that is no number."""
    text = os.environ.get(UNPACKED_VARIABLE, "").strip()
    if text and not re.fullmatch(r"[1-9][0-9]{0,14}", text):
        raise ValueError(f"{UNPACKED_VARIABLE} is {text[:40]!r}, and not a number of bytes")
    return int(text) if text else MAX_UNPACKED
