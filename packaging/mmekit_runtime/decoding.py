"""Request bodies to rows of numbers, or texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.bodies import MISSING_CELLS, READERS, as_text, lines_of, media_type_of, read_csv
from mmekit_runtime.media_types import CSV, JSON, JSON_LINES, NPY, NPZ, TEXT
from mmekit_runtime.messages import Parameters, RequestError
from mmekit_runtime.parsed_body import ParsedBody, described, record, rows_by_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_TRUTHS = frozenset({"true", "false"})
_TEXT_HEADERS = frozenset({"text", "sentence", "sentences", "inputs", "instances"})


def decode_numbers(
    body: bytes,
    content_type: str,
    features: int | None,
    largest: float | None = None,
    *,
    names: Sequence[str] | None = None,
    missing: bool = False,
) -> tuple[NDArray[np.float64], Parameters]:
    """Read rows of numbers.

    Parameters
    ----------
    features
        The number of columns; None for any.
    largest
        The largest absolute value that a number may have.
    names
        What the columns are called, in the order of training, where that is known. A body that
        names its columns is put into that order.
    missing
        Whether null, NaN and, in CSV, empty cells and ``NA`` are taken, as NaN.

    Returns
    -------
    rows, parameters
        Rows as float64 of shape (n, features), n at least 1.

    Raises
    ------
    RequestError
        400 for content that is empty, malformed, ragged, not numeric, not finite or of the wrong
        width, and for names that are not the columns'; 415 for a content type that is not among
        JSON, JSON lines, CSV, npy and npz.
    """
    kind, rest = media_type_of(content_type, body, (JSON, CSV, NPY, NPZ, JSON_LINES))
    if kind == CSV:
        content = read_csv(body, rest, lambda line: _is_header(line, names))
    else:
        content = READERS[kind](body, kind)
    rows = _arranged(content, names)
    if content.is_text:
        array = _parsed(rows, missing=missing, names=names)
    else:
        array = _numbers(rows, missing=missing, names=names)
    limits = _RowLimits(features, largest, missing=missing, names=names)
    return _shaped(array, limits), content.parameters


def decode_texts(body: bytes, content_type: str) -> tuple[list[str], Parameters]:
    """Read one text a row.

    Raises
    ------
    RequestError
        400 for content that is empty, malformed or not text; 415 for a content type that is not
        among JSON, JSON lines, CSV, npy, npz and plain text (a text a line).
    """
    kind, rest = media_type_of(content_type, body, (JSON, TEXT, CSV, NPY, NPZ, JSON_LINES))
    parameters = Parameters()
    content: Any
    if kind == TEXT:
        content = [line.strip() for line in lines_of(as_text(body)) if line.strip()]
    elif kind == CSV:
        content = _csv_texts(read_csv(body, rest, _is_text_header).rows)
    else:
        read = READERS[kind](body, kind)
        parameters = read.parameters
        content = _column_of_texts(read)
    texts = [content] if isinstance(content, str) else content
    expected = "one or more texts"
    if not isinstance(texts, list) or not texts:
        raise RequestError(400, expected, described(texts))
    texts = [record(text) for text in texts]
    for index, text in enumerate(texts):
        if isinstance(text, list) and len(text) == 1 and isinstance(text[0], str):
            texts[index] = text[0]
        elif not isinstance(text, str):
            raise RequestError(400, expected, f"record {index} is {described(text)}")
        elif any("\ud800" <= character <= "\udfff" for character in text):
            raise RequestError(400, "texts of Unicode characters", f"half of one in record {index}")
    return texts, parameters


def is_name(cell: str) -> bool:
    """Whether a cell may be a column's name: a number, mistyped or not, or a missing value is none.

    >>> [is_name(cell) for cell in ("age", "41", "0.O5", "NA", "True", "")]
    [True, False, False, False, False, False]
    """
    text = cell.strip()
    return not _may_be_value(text) and (text[0].isalpha() or text[0] == "_")


def names_columns(line: list[str], names: Sequence[str]) -> bool | None:
    """Whether a line of CSV is a header, because it says names of columns; None if it says none.

    Raises
    ------
    RequestError
        400 for a line that is as well a header as a row, as columns are called by numbers.
    """
    cells = [cell if cell in names else cell.strip() for cell in line]
    known = [cell for cell in cells if cell in names]
    if any(not _may_be_value(cell) for cell in known):
        return True
    if not known or len(known) < len(cells):
        return None
    if len(set(cells)) < len(cells):
        return False
    if len(cells) == len(names):
        expected = "text/csv; header=present or text/csv; header=absent"
        raise RequestError(400, expected, "a first line that may be names as well as values")
    return True


def parse_number(cell: str) -> float | None:
    """Return the number that a cell of text is; None if it is none."""
    try:
        # float() reads 1_000 as well, which is a number in Python's own notation alone.
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _is_header(line: list[str], names: Sequence[str] | None) -> bool:
    found = None if names is None else names_columns(line, names)
    return all(map(is_name, line)) if found is None else found


def _may_be_value(cell: str) -> bool:
    """Whether a text may be a number, a truth value, or a missing value."""
    is_word = cell in MISSING_CELLS or cell.lower() in _TRUTHS
    return is_word or parse_number(cell) is not None


def _is_text_header(line: list[str]) -> bool:
    return line[0].strip().lower() in _TEXT_HEADERS


def _arranged(content: ParsedBody, names: Sequence[str] | None) -> Any:
    """Return rows of cells in the order of training."""
    if content.has_names:
        if names is not None:
            content = rows_by_name(content, names)
        elif content.columns is not None:
            said = f"{len(content.columns)} arrays: {', '.join(list(content.columns)[:5])}"
            expected = "rows: this model does not know what its columns are called"
            raise RequestError(400, expected, said)
    if content.columns is not None:
        return np.column_stack([_column(*column) for column in content.columns.items()])
    rows = content.rows
    if isinstance(rows, list) and any(isinstance(row, dict) for row in rows):
        return [record(row) for row in rows]
    return rows


def _column(name: str, cells: Any) -> NDArray[Any]:
    numbers = _numbers(cells, missing=True)
    if numbers.ndim != 1:
        raise RequestError(400, f"a number a row in the column {name}", described(cells))
    return numbers


def _column_of_texts(content: ParsedBody) -> Any:
    if content.columns is not None:
        if len(content.columns) != 1:
            said = f"{len(content.columns)} columns: {', '.join(list(content.columns)[:5])}"
            raise RequestError(400, "one column of texts", said)
        (rows,) = content.columns.values()
    else:
        rows = content.rows
    return rows.ravel().tolist() if isinstance(rows, np.ndarray) else rows


def _numbers(content: Any, *, missing: bool, names: Sequence[str] | None = None) -> NDArray[Any]:
    try:
        array = np.asarray(content)
        if missing and array.dtype.kind == "O" and _offender(content, missing=True) is None:
            array = array.astype(np.float64)  # None becomes NaN
    except (ValueError, TypeError) as error:
        raise RequestError(400, "rows of equal length", "ragged rows") from error
    if array.dtype.kind not in "iufb":
        if isinstance(content, np.ndarray) and array.dtype.kind != "O":
            raise RequestError(400, "rows of numbers", f"an array of {array.dtype}")
        offender = _offender(content, missing=missing) or ((), content)
        raise RequestError(
            400, "rows of numbers", described(offender[1]) + _said(offender[0], names)
        )
    return array


def _offender(
    content: Any, *, missing: bool, place: tuple[int, ...] = ()
) -> tuple[tuple[int, ...], Any] | None:
    """Return the place and value of the first thing in nested lists that is no number that fits."""
    if isinstance(content, (list, np.ndarray)):
        for index, item in enumerate(content):
            found = _offender(item, missing=missing, place=(*place, index))
            if found is not None:
                return found
        return None
    if content is None:
        return None if missing else (place, None)
    if isinstance(content, int):
        fits = abs(content) < 1 << 63
    else:
        fits = isinstance(content, (float, np.integer, np.floating))
    return None if fits else (place, content)


def _said(place: tuple[int, ...], names: Sequence[str] | None) -> str:
    """Say where, if it is a cell of a table."""
    if len(place) != 2:  # noqa: PLR2004
        return ""
    row, column = place
    name = names[column] if names is not None and column < len(names) else str(column)
    return f" in row {row}, column {name}"


def _parsed(lines: list[list[Any]], *, missing: bool, names: Sequence[str] | None) -> NDArray[Any]:
    if not lines:
        raise RequestError(400, "rows of numbers as CSV", "no row of numbers")
    try:
        if not any("_" in cell for line in lines for cell in line):
            return np.array(lines, dtype=np.float64)
    except ValueError:
        pass
    rows = []
    for number, line in enumerate(lines):
        cells: list[float] = []
        for cell in line:
            text = cell.strip()
            value = float("nan") if missing and text in MISSING_CELLS else parse_number(text)
            if value is None:
                received = f"the cell {cell[:40]!r}{_said((number, len(cells)), names)}"
                raise RequestError(400, "rows of numbers as CSV", received)
            cells.append(value)
        rows.append(cells)
    return np.array(rows, dtype=np.float64)


def _csv_texts(lines: list[list[str]]) -> list[str]:
    for number, line in enumerate(lines, start=1):
        if len(line) != 1:
            received = f"row {number} with {len(line)} cells"
            raise RequestError(400, "one text a row (quoted when it holds commas)", received)
    return [line[0] for line in lines]


@dataclass(frozen=True)
class _RowLimits:
    features: int | None
    largest: float | None
    missing: bool
    names: Sequence[str] | None

    @property
    def expected(self) -> str:
        width = "n" if self.features is None else str(self.features)
        bound = "" if self.largest is None else f" of at most {self.largest:g}"
        gaps = ", null where one is missing" if self.missing else ""
        return f"one or more rows of {width} finite numbers{bound}{gaps}"


def _shaped(array: NDArray[Any], limits: _RowLimits) -> NDArray[np.float64]:
    expected, features, largest = limits.expected, limits.features, limits.largest
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
    if limits.missing and not fits.all():
        fits |= np.isnan(rows)
    if not fits.all():
        row, column = (int(place) for place in np.argwhere(~fits)[0])
        received = f"{rows[row, column]}{_said((row, column), limits.names)}"
        raise RequestError(400, expected, received)
    return rows
