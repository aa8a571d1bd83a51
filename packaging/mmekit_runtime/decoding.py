"""Request bodies to rows of numbers, or texts."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.media_types import CSV, JSON, JSON_LINES, NPY, NPZ, TEXT, media_type
from mmekit_runtime.messages import Parameters, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_MAX_UNPACKED = 256 << 20
# One cell may be as long as a request: a text is one.
csv.field_size_limit(1 << 30)

_CONTAINERS = ("instances", "inputs")
_RECORD_MEMBERS = ("instances", "inputs", "features", "text", "data")
_TEXT_HEADERS = frozenset({"text", "sentence", "sentences", "inputs", "instances"})


def decode_numbers(
    body: bytes, content_type: str, features: int | None, largest: float | None = None
) -> tuple[NDArray[np.float64], Parameters]:
    """Read rows of numbers, whose absolute value is at most ``largest``.

    Returns
    -------
    rows, parameters
        Rows as float64 of shape (n, features), n at least 1.

    Raises
    ------
    RequestError
        400 for content that is empty, malformed, ragged, not numeric, not finite or of the wrong
        width; 415 for a content type that is not among JSON, JSON lines, CSV, npy and npz.
    """
    kind, rest = _kind(content_type, body, (JSON, CSV, NPY, NPZ, JSON_LINES))
    parameters = Parameters()
    if kind == JSON:
        content, parameters = _json_content(body)
        array = _numbers(content)
    elif kind == CSV:
        array = _csv_numbers(_text(body), rest)
    elif kind == JSON_LINES:
        array = _numbers([_record(line) for line in _json_lines(body)])
    else:
        array = _array(body, kind)
    return _shaped(array, features, largest), parameters


def decode_texts(body: bytes, content_type: str) -> tuple[list[str], Parameters]:
    """Read one text a row.

    Raises
    ------
    RequestError
        400 for content that is empty, malformed or not text; 415 for a content type that is not
        among JSON, JSON lines, CSV, npy, npz and plain text (a text a line).
    """
    kind, rest = _kind(content_type, body, (JSON, TEXT, CSV, NPY, NPZ, JSON_LINES))
    parameters = Parameters()
    content: Any
    if kind == JSON:
        content, parameters = _json_content(body)
    elif kind == TEXT:
        content = [line.strip() for line in _lines(_text(body)) if line.strip()]
    elif kind == CSV:
        content = _csv_texts(_text(body), rest)
    elif kind == JSON_LINES:
        content = [_record(line) for line in _json_lines(body)]
    else:
        content = _array(body, kind).ravel().tolist()
    texts = [content] if isinstance(content, str) else content
    expected = "one or more texts"
    if not isinstance(texts, list) or not texts:
        raise RequestError(400, expected, _describe(texts))
    for index, text in enumerate(texts):
        if isinstance(text, list) and len(text) == 1 and isinstance(text[0], str):
            texts[index] = text[0]
        elif not isinstance(text, str):
            raise RequestError(400, expected, f"record {index} is {_describe(text)}")
        elif any("\ud800" <= character <= "\udfff" for character in text):
            raise RequestError(400, "texts of Unicode characters", f"half of one in record {index}")
    return texts, parameters


def _kind(content_type: str, body: bytes, known: tuple[str, ...]) -> tuple[str, str]:
    kind, rest = media_type(content_type)
    if not kind:
        kind = JSON
    if kind not in known:
        raise RequestError(415, f"a content type among {', '.join(known)}", content_type)
    if not body:
        raise RequestError(400, f"a body of {kind}", "an empty body")
    return kind, rest


def _text(body: bytes) -> str:
    try:
        return bytes(body).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(400, "text in UTF-8", f"bytes that are not ({error.reason})") from error


def _json_content(body: bytes) -> tuple[Any, Parameters]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "JSON", f"text that is not JSON ({error})") from error
    if not isinstance(content, dict):
        return content, Parameters()
    for name in _CONTAINERS:
        if name in content:
            parameters = content.get("parameters") or {}
            if not isinstance(parameters, dict):
                raise RequestError(400, "parameters to be a JSON object", _describe(parameters))
            return content[name], Parameters.read(parameters)
    members = ", ".join(list(content)[:5]) or "no members"
    expected = '{"instances": [...]}, {"inputs": [...]} or a list'
    raise RequestError(400, expected, f"a JSON object with {members}")


def _json_lines(body: bytes) -> Iterable[Any]:
    for number, line in enumerate(_lines(_text(body)), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                received = f"line {number} that is not JSON ({error})"
                raise RequestError(400, "JSON on every line", received) from error


def _record(line: Any) -> Any:
    if isinstance(line, dict):
        for name in _RECORD_MEMBERS:
            if name in line:
                return line[name]
        members = ", ".join(list(line)[:5]) or "no members"
        raise RequestError(400, 'a list or {"features": [...]} a line', f"an object with {members}")
    return line


def _numbers(content: Any) -> NDArray[Any]:
    try:
        array = np.asarray(content)
    except ValueError as error:
        raise RequestError(400, "rows of equal length", "ragged rows") from error
    if array.dtype.kind not in "iufb":
        raise RequestError(400, "rows of numbers", _describe(_offender(content)))
    return array


def _offender(content: Any) -> Any:
    """Return the first thing in nested lists that is no number that fits."""
    if not isinstance(content, list):
        return content
    for item in content:
        if isinstance(item, list):
            found = _offender(item)
            if found is not None or None in item:
                return found
        elif not isinstance(item, (int, float)) or abs(item) >= 1 << 63:
            return item
    return None


def _lines(text: str) -> list[str]:
    # Not splitlines, which splits at form feeds and at U+2028 within a sentence too.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _csv_rows(text: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=None)) if row]
    except csv.Error as error:
        raise RequestError(400, "CSV", f"text that is not CSV ({error})") from error


def _csv_numbers(text: str, rest: str) -> NDArray[Any]:
    lines = _csv_rows(text)
    guess = bool(lines) and all(_is_name(cell) for cell in lines[0])
    if lines and ("header=present" in rest or (guess and "header=absent" not in rest)):
        del lines[0]
    if not lines:
        raise RequestError(400, "rows of numbers as CSV", "no row of numbers")
    width = len(lines[0])
    for number, line in enumerate(lines, start=1):
        if len(line) != width:
            received = f"ragged rows: row 1 has {width} cells and row {number} has {len(line)}"
            raise RequestError(400, "rows of equal length", received)
    try:
        return np.array(lines, dtype=np.float64)
    except ValueError as error:
        cell = next(cell for line in lines for cell in line if not _is_number(cell))
        raise RequestError(400, "rows of numbers as CSV", f"the cell {cell[:40]!r}") from error


def _csv_texts(text: str, rest: str) -> list[str]:
    lines = _csv_rows(text)
    guess = bool(lines) and lines[0][0].strip().lower() in _TEXT_HEADERS
    if lines and ("header=present" in rest or (guess and "header=absent" not in rest)):
        del lines[0]
    for number, line in enumerate(lines, start=1):
        if len(line) != 1:
            received = f"row {number} with {len(line)} cells"
            raise RequestError(400, "one text a row (quoted when it holds commas)", received)
    return [line[0] for line in lines]


def _is_name(cell: str) -> bool:
    """Whether a cell may be a column's name: a mistyped number is none."""
    start = cell.strip()[:1]
    return (start.isalpha() or start in ("_", "")) and not _is_number(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _array(body: bytes, kind: str) -> NDArray[Any]:
    try:
        if kind == NPZ:
            _check_size(body)
        loaded = np.load(io.BytesIO(body), allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files} if kind == NPZ else {"": loaded}
    except RequestError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        received = f"bytes that numpy cannot load ({type(error).__name__}: {error})"
        raise RequestError(400, f"one array as {kind}", received) from error
    if len(arrays) != 1:
        received = f"{len(arrays)} arrays: {', '.join(list(arrays)[:5])}"
        raise RequestError(400, "an npz with one array", received)
    (array,) = arrays.values()
    if not isinstance(array, np.ndarray):
        raise RequestError(400, f"one array as {kind}", "a zip archive of arrays")
    return array


def _check_size(body: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > _MAX_UNPACKED:
        received = f"one that unpacks to {size} bytes"
        raise RequestError(400, f"an npz that unpacks to at most {_MAX_UNPACKED} bytes", received)


def _shaped(
    array: NDArray[Any], features: int | None, largest: float | None
) -> NDArray[np.float64]:
    width = "n" if features is None else str(features)
    bound = "" if largest is None else f" of at most {largest:g}"
    expected = f"one or more rows of {width} finite numbers{bound}"
    if array.dtype.kind not in "iufb":
        raise RequestError(400, expected, f"an array of {array.dtype}")
    if array.size == 0:
        raise RequestError(400, expected, "no record")
    if array.ndim == 0:
        array = array.reshape(1, 1)
    elif array.ndim == 1:
        # With one feature a flat list is many records; otherwise it is one.
        array = array.reshape(-1, 1) if features == 1 else array.reshape(1, -1)
    if array.ndim != 2:  # noqa: PLR2004
        shape = " x ".join(map(str, array.shape))
        raise RequestError(400, expected, f"an array of {shape}")
    if features is not None and array.shape[1] != features:
        raise RequestError(400, expected, f"rows of {array.shape[1]}")
    rows = array.astype(np.float64, copy=False)
    fits = np.isfinite(rows)
    if largest is not None:
        fits &= np.abs(rows) <= largest
    if not fits.all():
        row, column = np.argwhere(~fits)[0]
        raise RequestError(400, expected, f"{rows[row, column]} in row {row}, column {column}")
    return rows


def _describe(value: Any) -> str:
    if isinstance(value, (list, np.ndarray)):
        if len(value) == 0:
            return "an empty list"
        return f"a list that holds {_describe(value[0])}"
    if isinstance(value, dict):
        return "a JSON object"
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return f"{type(value).__name__} {value!r}"[:60]
