"""Readers of request bodies: JSON, JSON lines, CSV, arrays of numpy, Parquet and Arrow."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections import Counter
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
from mmekit_runtime.parsed_body import ParsedBody, columns_of, described, listed, refuse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray


_CHARSET = re.compile(r"\bcharset\s*=\s*\"?([^\s;\"]*)")
_CHARSETS = ("", "utf-8", "utf8", "us-ascii", "ascii")
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
_CELL_BYTES = 8
"""That a cell of a column takes at least, where equal ones are kept once."""
_ROWS_MEMBERS = ("instances", "inputs", "dataframe_records")
_PARAMETERS = ("parameters", "params")


class Zoned(np.ndarray[Any, Any]):
    """Moments in UTC of a column that has a zone."""


def media_type_of(content_type: str, body: bytes, known: Collection[str]) -> tuple[str, str]:
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


def read_json(body: bytes) -> ParsedBody:
    """Read JSON: a list, or an object whose members say what kind of table it is.

    The objects are those of TensorFlow Serving (``instances``, ``inputs``) and of MLflow's scoring
    server (``dataframe_split``, ``dataframe_records``, ``inputs`` with a list for each column).
    """
    try:
        content = json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "JSON", f"text that is not JSON ({error})") from error
    if not isinstance(content, dict):
        return ParsedBody(content)
    found = [name for name in (*_ROWS_MEMBERS, "dataframe_split") if name in content]
    if not found:
        raise RequestError(400, FORMS, f"a JSON object with {listed(list(content), 5)}")
    if len(found) > 1:
        raise RequestError(400, f"one of {', '.join(found)}", "several of them")
    rows, parameters = content[found[0]], _parameters(content)
    if found[0] == "dataframe_split":
        return _split(rows, parameters)
    if isinstance(rows, dict) and found[0] == "inputs":
        return ParsedBody(columns=columns_of(rows), parameters=parameters)
    return ParsedBody(rows, parameters=parameters)


def read_json_lines(body: bytes) -> ParsedBody:
    """Read JSON lines: an object or a list a line."""
    rows = []
    for number, line in enumerate(lines_of(as_text(body)), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line, object_pairs_hook=_object))
            except (ValueError, RecursionError) as error:
                received = f"line {number} that is not JSON ({error})"
                raise RequestError(400, "JSON on every line", received) from error
    return ParsedBody(rows)


def read_csv(body: bytes, rest: str, is_header: Callable[[list[str]], bool]) -> ParsedBody:
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
    return ParsedBody(lines, names=names, is_text=True)


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


def read_arrays(body: bytes, kind: str) -> ParsedBody:
    """Read npy or npz: an array of rows, one with named fields, or an array for each column."""
    arrays = load_arrays(body, kind)
    if len(arrays) != 1:
        if not arrays:
            raise RequestError(400, "an npz with an array", "none")
        return ParsedBody(columns=columns_of(arrays))
    (array,) = arrays.values()
    if array.dtype.names:
        return ParsedBody(columns=columns_of({name: array[name] for name in array.dtype.names}))
    return ParsedBody(array)


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


def _split(split: Any, parameters: Parameters) -> ParsedBody:
    if not isinstance(split, dict) or not isinstance(split.get("data"), list):
        expected = '{"dataframe_split": {"columns": [...], "data": [[...]]}}'
        raise RequestError(400, expected, described(split))
    rows, names = split["data"], split.get("columns")
    if names is None:
        return ParsedBody(rows, parameters=parameters)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(400, "columns to be a list of names", described(names))
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            received = f"row {number} that is {described(row)}"
            raise RequestError(400, f"rows of {len(names)} cells, as many as columns", received)
    return ParsedBody(rows, names=tuple(names), parameters=parameters)


def _check_size(body: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        size = sum(member.file_size for member in archive.infolist())
    refuse_size(size, NPZ)


def read_arrow(body: bytes, kind: str) -> ParsedBody:
    """Read Parquet or Arrow (a stream or a file) with pyarrow; 415 where there is none."""
    try:
        import pyarrow as pa
        from pyarrow import ipc, parquet, types
    except ImportError as error:
        raise RequestError(
            415,
            "a content type other than Parquet and Arrow, for which this model has no pyarrow",
            kind,
        ) from error
    try:
        if kind == PARQUET:
            file = parquet.ParquetFile(pa.BufferReader(body))
            kinds = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
            # Equal texts are kept once, as in the file, until it is known how much they are.
            texts = [
                column.name
                for column in file.schema_arrow
                if any(is_kind(column.type) for is_kind in kinds)
            ]
            file = parquet.ParquetFile(pa.BufferReader(body), read_dictionary=texts)
            groups = range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
            # Equal values take next to no bytes, however many they are.
            cells = file.metadata.num_rows * file.metadata.num_columns
            refuse_size(max(size, cells * _CELL_BYTES), kind)
            table = file.read()
        elif bytes(body[:6]) == b"ARROW1":
            table = ipc.open_file(pa.BufferReader(body)).read_all()
        else:
            table = ipc.open_stream(pa.BufferReader(body)).read_all()
    except RequestError:
        raise
    except Exception as error:  # whatever pyarrow says of bytes that somebody has sent
        received = f"bytes that pyarrow cannot read ({type(error).__name__}: {error})"[:300]
        raise RequestError(400, f"a table as {kind}", received) from error
    refuse_size(max(table.nbytes, table.num_rows * table.num_columns * _CELL_BYTES), kind)
    index = _index_columns(table.schema)
    names = [name for name in table.column_names if name not in index]
    if len(set(names)) != len(names):
        raise RequestError(400, "columns of different names", listed(names))
    cells = {name: _cells(table.column(name), kind) for name in names}
    return ParsedBody(columns=columns_of(cells))


def _index_columns(schema: Any) -> set[str]:
    """Return the columns that pandas wrote for a frame's index, which is none of its columns."""
    try:
        said = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, ValueError, TypeError):
        return set()
    return {name for name in said if isinstance(name, str) and name.startswith("__index_level_")}


def _cells(column: Any, kind: str) -> Any:
    from pyarrow import types

    if types.is_dictionary(column.type):
        return _of_dictionary(column, kind)
    numeric = types.is_integer(column.type) or types.is_floating(column.type)
    if types.is_timestamp(column.type):
        moments = column.to_numpy()
        return moments if column.type.tz is None else moments.view(Zoned)
    return column.to_numpy() if numeric and not column.null_count else column.to_pylist()


def _of_dictionary(column: Any, kind: str) -> list[Any]:
    """Return values that are kept once, each as one object."""
    cells: list[Any] = []
    size = 0
    for chunk in column.chunks:
        values = chunk.dictionary.to_pylist()
        sizes = [len(value) if isinstance(value, (str, bytes)) else 0 for value in values]
        places = chunk.indices.to_pylist()
        size += sum(sizes[place] for place in places if place is not None)
        refuse_size(size, kind)
        cells += [None if place is None else values[place] for place in places]
    return cells


READERS: Mapping[str, Callable[[bytes, str], ParsedBody]] = {
    JSON: lambda body, _: read_json(body),
    JSON_LINES: lambda body, _: read_json_lines(body),
    NPY: read_arrays,
    NPZ: read_arrays,
    PARQUET: read_arrow,
    ARROW: read_arrow,
}
