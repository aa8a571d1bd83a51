"""Request bodies, taken to pieces: rows or columns of cells, and the names that they come with.

What a cell means is for others to say (`mmekit_runtime.decoding`, `mmekit_runtime.tables`).
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.media_types import (
    ARROW,
    JSON,
    JSON_LINES,
    NPY,
    NPZ,
    PARQUET,
    media_type,
)
from mmekit_runtime.messages import Parameters, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray


UNPACKED_VARIABLE = "MMEKIT_MAX_UNPACKED_BYTES"
MAX_UNPACKED = 256 << 20
"""Bytes that a body may unpack to, where the variable names no other number."""
_CHARSET = re.compile(r"\bcharset\s*=\s*\"?([^\s;\"]*)")
_CHARSETS = ("", "utf-8", "utf8", "us-ascii", "ascii")
# What a message says of names that somebody has sent, and how deep it looks into lists.
_SAID = 20
_DEPTH = 3
# One cell may be as long as a request: a text is one.
csv.field_size_limit(1 << 30)

# What pandas takes for a missing value when it reads a CSV (pandas.read_csv, na_values).
MISSING_CELLS = frozenset(
    [
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
        "",
    ]
)

FORMS = '{"instances": [...]}, {"inputs": [...]} or a list'
_ROWS_MEMBERS = ("instances", "inputs", "dataframe_records")
_PARAMETERS = ("parameters", "params")
_RECORD_MEMBERS = ("instances", "inputs", "features", "text", "data")


@dataclass(frozen=True)
class Content:
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


def kind_of(content_type: str, body: bytes, known: Collection[str]) -> tuple[str, str]:
    """Return the media type of a body that is not empty, and what follows it in the header.

    Raises
    ------
    RequestError
        415 for one that is not among ``known``, 400 for an empty body.
    """
    kind, rest = media_type(content_type)
    if not kind:
        kind = JSON
    charset = _CHARSET.search(rest)
    if charset and charset[1] not in _CHARSETS:
        raise RequestError(415, "a content type in UTF-8", content_type)
    if kind not in known:
        raise RequestError(415, f"a content type among {', '.join(known)}", content_type)
    if not body:
        raise RequestError(400, f"a body of {kind}", "an empty body")
    return kind, rest


def as_text(body: bytes) -> str:
    """Read UTF-8, with or without a byte order mark; RequestError 400 for anything else."""
    try:
        return bytes(body).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(400, "text in UTF-8", f"bytes that are not ({error.reason})") from error


def lines_of(text: str) -> list[str]:
    """Split at line ends, and not as splitlines does at form feeds and U+2028 within a sentence."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_json(body: bytes) -> Content:
    """Read JSON: a list, or an object whose members say what kind of table it is.

    The objects are those of TensorFlow Serving (``instances``, ``inputs``) and of MLflow's scoring
    server (``dataframe_split``, ``dataframe_records``, ``inputs`` with a list for each column).
    """
    try:
        content = json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "JSON", f"text that is not JSON ({error})") from error
    if not isinstance(content, dict):
        return Content(content)
    found = [name for name in (*_ROWS_MEMBERS, "dataframe_split") if name in content]
    if not found:
        raise RequestError(400, FORMS, f"a JSON object with {listed(list(content), 5)}")
    if len(found) > 1:
        raise RequestError(400, f"one of {', '.join(found)}", "several of them")
    rows, parameters = content[found[0]], _parameters(content)
    if found[0] == "dataframe_split":
        return _split(rows, parameters)
    if isinstance(rows, dict) and found[0] == "inputs":
        return Content(columns=columns_of(rows), parameters=parameters)
    return Content(rows, parameters=parameters)


def read_json_lines(body: bytes) -> Content:
    """Read JSON lines: an object or a list a line."""
    rows = []
    for number, line in enumerate(lines_of(as_text(body)), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line, object_pairs_hook=_object))
            except (ValueError, RecursionError) as error:
                received = f"line {number} that is not JSON ({error})"
                raise RequestError(400, "JSON on every line", received) from error
    return Content(rows)


def read_csv(body: bytes, rest: str, is_header: Callable[[list[str]], bool]) -> Content:
    """Read CSV, whose first line may be a header.

    Parameters
    ----------
    rest
        What follows the media type: ``header=present`` or ``header=absent`` (RFC 4180).
    is_header
        Whether a first line is one, where that is not said.
    """
    try:
        # Line ends are left as they are: those in quotes are a part of the cell.
        stream = io.StringIO(as_text(body), newline="")
        read = list(csv.reader(stream, strict=True))
    except csv.Error as error:
        raise RequestError(400, "CSV", f"text that is not CSV ({error})") from error
    lines = [line for line in read if line]
    if lines and len(lines[0]) == 1 and len(lines) < len(read):
        # Some write a missing value so (polars), and some read over it (pandas).
        expected = 'a line a row, with "" or NA where the value of the one column is missing'
        raise RequestError(400, expected, f"a blank line, line {read.index([]) + 1}")
    said = rest.replace('"', "").replace(" ", "")
    names = None
    if lines and (
        "header=present" in said or ("header=absent" not in said and is_header(lines[0]))
    ):
        names = tuple(lines[0])
        del lines[0]
    width = len(names or (lines and lines[0]) or ())
    for number, line in enumerate(lines, start=1):
        if len(line) != width:
            what = "the header" if names else "row 1"
            received = f"ragged rows: {what} has {width} cells and row {number} has {len(line)}"
            raise RequestError(400, "rows of equal length", received)
    return Content(lines, names=names, is_text=True)


def load_arrays(body: bytes, kind: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz by name, or that of an npy, whose name is empty.

    Raises
    ------
    RequestError
        400 for bytes that are none, that would run code, or unpack to too much.
    """
    try:
        if kind == NPZ:
            _check_size(body)
        loaded = np.load(io.BytesIO(body), allow_pickle=False)
        if kind == NPZ:
            return {name: loaded[name] for name in loaded.files}
    except RequestError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        received = f"bytes that numpy cannot load ({type(error).__name__}: {error})"
        raise RequestError(400, f"an array as {kind}", received) from error
    if not isinstance(loaded, np.ndarray):
        raise RequestError(400, f"an array as {kind}", "a zip archive of arrays")
    return {"": loaded}


def read_arrays(body: bytes, kind: str) -> Content:
    """Read npy or npz: an array of rows, one with named fields, or an array for each column."""
    arrays = load_arrays(body, kind)
    if len(arrays) != 1:
        if not arrays:
            raise RequestError(400, "an npz with an array", "none")
        return Content(columns=columns_of(arrays))
    (array,) = arrays.values()
    if array.dtype.names:
        return Content(columns=columns_of({name: array[name] for name in array.dtype.names}))
    return Content(array)


def rows_by_name(content: Content, names: Sequence[str], optional: Collection[str] = ()) -> Content:
    """Return the content with its columns in the order of ``names``, whatever order it came in.

    Content without names is returned as it is.

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
        return Content(columns=columns, names=tuple(names), parameters=content.parameters)
    if content.names is not None:
        # Blanks around a name in a CSV are none of it, unless the training had them.
        called = tuple(name if name in names else name.strip() for name in content.names)
        _check_names(called, names, optional)
        if called == tuple(names):
            return content
        places = [called.index(name) if name in called else None for name in names]
        rows = [[None if place is None else row[place] for place in places] for row in content.rows]
        return Content(rows, None, tuple(names), content.is_text, content.parameters)
    if content.has_names:
        if _are_wrapped(content.rows, names):
            return replace(content, rows=[record(row) for row in content.rows])
        rows = _of_records(content.rows, names, optional)
        return Content(rows, None, tuple(names), parameters=content.parameters)
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; of two members of one name Python would keep the last."""
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        received = f"an object with {listed(twice)} twice"
        raise RequestError(400, "objects whose members differ in name", received)
    return members


def _parameters(content: Mapping[str, Any]) -> Parameters:
    found = [name for name in _PARAMETERS if content.get(name) is not None]
    if len(found) > 1:
        raise RequestError(400, f"one of {', '.join(found)}", "both of them")
    if not found:
        return Parameters()
    given = content[found[0]]
    if not isinstance(given, dict):
        raise RequestError(400, f"{found[0]} to be a JSON object", described(given))
    return Parameters.read(given)


def _split(split: Any, parameters: Parameters) -> Content:
    if not isinstance(split, dict) or not isinstance(split.get("data"), list):
        expected = '{"dataframe_split": {"columns": [...], "data": [[...]]}}'
        raise RequestError(400, expected, described(split))
    rows, names = split["data"], split.get("columns")
    if names is None:
        return Content(rows, parameters=parameters)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(400, "columns to be a list of names", described(names))
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            received = f"row {number} that is {described(row)}"
            raise RequestError(400, f"rows of {len(names)} cells, as many as columns", received)
    return Content(rows, names=tuple(names), parameters=parameters)


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
        raise RequestError(400, f"the columns {', '.join(names)}", _misfit(unknown, missing, twice))


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
            raise RequestError(400, error.expected, received) from None
        rows.append([one.get(name) for name in names])
    return rows


def _check_size(body: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        size = sum(member.file_size for member in archive.infolist())
    refuse_size(size, NPZ)


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


def _read_arrow(body: bytes, kind: str) -> Content:
    from mmekit_runtime.arrow import read_arrow

    return read_arrow(body, kind)


READERS: Mapping[str, Callable[[bytes, str], Content]] = {
    JSON: lambda body, _: read_json(body),
    JSON_LINES: lambda body, _: read_json_lines(body),
    NPY: read_arrays,
    NPZ: read_arrays,
    PARQUET: _read_arrow,
    ARROW: _read_arrow,
}
