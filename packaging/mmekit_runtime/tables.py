"""Models of tables: what a request says becomes columns with names and types, as in training.

A table is either an array of float64, where every column is a number or a boolean, or a dict of
columns, each an array. Both can be joined; a pandas DataFrame is made of them once for a call.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmekit_runtime.bodies import READERS, media_type_of, read_csv
from mmekit_runtime.cells import Conversion, FromText, FromValue, largest_of
from mmekit_runtime.decoding import is_name, names_columns
from mmekit_runtime.estimators import names_of, signature_of, texts_seen, wants_frame
from mmekit_runtime.handler import Handler
from mmekit_runtime.media_types import ARROW, CSV, JSON, JSON_LINES, NPY, NPZ, PARQUET
from mmekit_runtime.messages import Parameters, RequestError
from mmekit_runtime.metering.current import CURRENT
from mmekit_runtime.parsed_body import ParsedBody, described, rows_by_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mmekit_runtime.metering.meter import ModelMeter
    from mmekit_runtime.signature import Column, Signature

_KINDS = (JSON, CSV, JSON_LINES, PARQUET, ARROW, NPY, NPZ)
_EXACT = 1 << 53
_DTYPES = {"boolean": "bool", "integer": "int32", "long": "int64", "float": "float32"}


class TableHandler(Handler):
    """A model with a table: ``predict`` gets the columns, in the order and types of training.

    A request may name its columns, in any order and format (docs/handlers.md), or give rows in the
    order of training. What a model takes is said by signature.json, which `mmekit.signature` makes
    of the training's table; without one, by the estimator itself, as far as it tells. A model that
    knows no names gets rows of numbers, as from a `Handler`.

    Attributes
    ----------
    frame
        Whether ``predict`` gets a pandas DataFrame or an array: float64 where every column is a
        number, otherwise objects. None asks the signature, and then the estimator: a frame where it
        selects columns by name, so that nobody else needs pandas in the container.
    signature
        What was found when the model was loaded; None where nothing is known.
    """

    frame: ClassVar[bool | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.signature: Signature | None = None
        self._reader: TableReader | None = None
        self._gives_frames = False

    def prepare(self, folder: Path) -> Any:
        """Load the model unless it is loaded, and return it.

        Raises
        ------
        ValueError
            signature.json cannot be read.
        """
        if self._loaded is not None:
            return self._loaded.model
        model = super().prepare(folder)
        signature = self._written_signature() or signature_of(model)
        if signature is not None and signature.inputs:
            signature = self._completed(signature)
            self._gives_frames = self._wants_frames(signature, model)
            self._reader = TableReader(signature, self.largest)
            if CURRENT.meter is not None:
                try:
                    self._reader.seen = texts_seen(model, signature.names)
                except Exception as error:  # noqa: BLE001 - no load fails because of metrics
                    CURRENT.meter.failed(error)
        self.signature = signature
        return model

    def decode(self, body: bytes, content_type: str) -> tuple[Any, Parameters]:
        """Read a request's table and its parameters.

        It is in a form that can be joined with others: an array, or a dict of columns. `predict`
        gets what was joined, in the form that ``frame`` says.
        """
        if self._reader is None:
            return super().decode(body, content_type)
        return self._reader.read(body, content_type)

    def _for_predict(self, rows: Any) -> Any:
        if self._reader is None or self.signature is None:
            return rows
        return (frame_of if self._gives_frames else array_of)(rows, self.signature)

    def _completed(self, signature: Signature) -> Signature:
        """Return the signature with what the handler itself says of missing values."""
        if self.missing is None:
            return signature
        return signature.with_missing(missing=self.missing)

    def _wants_frames(self, signature: Signature, model: Any) -> bool:
        if self.frame is not None:
            return self.frame
        if signature.frame is not None:
            return signature.frame
        if names_of(model) is not None:
            return wants_frame(model)
        # Nobody knows: numbers alone are as good in an array.
        return not all(one.is_number or one.type == "boolean" for one in signature.inputs)


class TableReader:
    """Reads tables with the columns of one signature.

    Parameters
    ----------
    signature
        The columns, in the order of training; at least one.
    largest
        The largest absolute value that a number may have; None for what the column's type can hold.

    Attributes
    ----------
    seen
        By column, the texts that were there in training, where others are taken as well.
    """

    def __init__(self, signature: Signature, largest: float | None = None) -> None:
        columns = signature.inputs
        limits = [min(largest_of(column), largest or math.inf) for column in columns]
        self.seen: Mapping[str, frozenset[str]] = {}
        self._names = signature.names
        self._optional = signature.optional
        self._from_values = [
            Conversion(column, FromValue, limit)
            for column, limit in zip(columns, limits, strict=True)
        ]
        self._from_texts = [
            Conversion(column, FromText, limit)
            for column, limit in zip(columns, limits, strict=True)
        ]
        self._are_floats = all(
            column.type in ("double", "float") and column.known is None and column.is_number
            for column in columns
        )
        self._largest = min(limits)
        self._has_no_texts = any(
            column.is_number or column.type in ("boolean", "datetime") for column in columns
        )

    def read(
        self, body: bytes, content_type: str
    ) -> tuple[NDArray[np.float64] | dict[str, NDArray[Any]], Parameters]:
        """Read a table, whatever order its columns come in.

        Returns
        -------
        table, parameters
            float64 of shape (n, columns), NaN where a value is missing, if every column is a number
            or a boolean; otherwise an array of n for each column's name. n is at least 1.

        Raises
        ------
        RequestError
            400 for columns that are missing or unknown and for values that are not of a column's
            type; the message names column, row (from 0), value and what was expected. 415 for a
            content type that is not among JSON, CSV, JSON lines, Parquet, Arrow, npy and npz.
        """
        kind, rest = media_type_of(content_type, body, _KINDS)
        if kind == CSV:
            content = read_csv(body, rest, self._is_header)
        else:
            content = READERS[kind](body, kind)
        if CURRENT.meter is not None:
            return self._metered(content, CURRENT.meter), content.parameters
        content = rows_by_name(content, self._names, self._optional)
        matrix = self._matrix(content)
        if matrix is None:
            return self._converted(content), content.parameters
        return matrix, content.parameters

    def _metered(
        self, content: ParsedBody, meter: ModelMeter
    ) -> NDArray[np.float64] | dict[str, NDArray[Any]]:
        """Return the table and put aside what is in it; of one that is refused, tell the column."""
        try:
            content = rows_by_name(content, self._names, self._optional)
            matrix = self._matrix(content)
            if matrix is not None:
                return matrix  # of finite numbers
            table = self._converted(content)
        except RequestError as error:
            for name in error.columns:
                meter.column(name, refused=1)
            raise
        if isinstance(table, np.ndarray):
            for name, missing in zip(
                self._names, np.isnan(table).sum(axis=0).tolist(), strict=True
            ):
                meter.put_aside(name, missing)
            return table
        for name, cells in table.items():
            meter.gaps(name, partial(_gaps, cells, self.seen.get(name)))
        return table

    def _is_header(self, line: list[str]) -> bool:
        found = names_columns(line, self._names)
        if found is not None:
            return found
        # A line of names that are none of the columns': no row, where a number belongs.
        return self._has_no_texts and all(map(is_name, line))

    def _matrix(self, content: ParsedBody) -> NDArray[np.float64] | None:
        """Return rows that are finite numbers already, quickly; None where a closer look is due."""
        if not self._are_floats or content.is_text or content.columns is not None:
            return None
        try:
            array = np.asarray(content.rows)
        except ValueError:
            return None
        if array.dtype.kind not in "iuf" or array.ndim != 2 or not len(array):  # noqa: PLR2004
            return None
        if array.shape[1] != len(self._names):
            return None
        matrix = array.astype(np.float64, copy=False)
        # Also false for NaN.
        return matrix if np.abs(matrix).max() <= self._largest else None

    def _converted(self, content: ParsedBody) -> NDArray[np.float64] | dict[str, NDArray[Any]]:
        columns = self._columns(content)
        conversions = self._from_texts if content.is_text else self._from_values
        table = {}
        for name, conversion, cells in zip(self._names, conversions, columns, strict=True):
            try:
                table[name] = conversion.of(cells)
            except RequestError:
                if CURRENT.meter is not None:
                    # A category that training had not is why it is refused: that is what drifts.
                    CURRENT.meter.refused_cells(name, partial(conversion.unseen, cells))
                raise
        if all(map(_is_plain, conversions, table.values())):
            return np.column_stack([cells.astype(np.float64) for cells in table.values()])
        return table

    def _columns(self, content: ParsedBody) -> list[Any]:
        """Return the cells of each column, in the order of training."""
        width = len(self._names)
        expected = f"one or more rows of {width}: {', '.join(self._names)}"
        if content.columns is not None:
            columns = list(content.columns.values())
            if not len(columns[0]):
                raise RequestError(400, expected, "no record")
            return columns
        rows = content.rows
        if isinstance(rows, np.ndarray):
            # Moments stay what they are: tolist() may make whole numbers of them.
            is_moment = rows.dtype.kind in "mM"
            rows = _listed(rows) if is_moment else rows.tolist()
        if not isinstance(rows, (list, dict)):
            rows = [rows]
        if not rows or isinstance(rows, dict):
            received = "a record that is in no list" if rows else "no record"
            raise RequestError(400, expected, received)
        if not any(isinstance(row, list) for row in rows):
            # With one column a flat list is many records; otherwise it is one.
            rows = [[cell] for cell in rows] if width == 1 else [rows]
        for number, row in enumerate(rows):
            if not isinstance(row, list):
                raise RequestError(400, expected, f"row {number} that is {described(row)}")
            if len(row) != width:
                raise RequestError(400, expected, f"row {number} of {len(row)}")
        return [list(cells) for cells in zip(*rows, strict=True)]


def _listed(rows: NDArray[Any]) -> list[Any]:
    return [_listed(row) if isinstance(row, np.ndarray) else row for row in rows]


def _gaps(cells: NDArray[Any], seen: frozenset[str] | None) -> tuple[int, int]:
    """Return how many cells are missing, and how many texts were not there in training."""
    kind = cells.dtype.kind
    if kind == "O":
        values = cells.tolist()
        there = [cell for cell in values if cell is not None and cell == cell]  # noqa: PLR0124
        # A cell that is no text is another type's, and nothing is known of those.
        known = seen or ()
        unseen = sum(isinstance(cell, str) and cell not in known for cell in there)
        return len(values) - len(there), 0 if seen is None else unseen
    missing = int(np.isnan(cells).sum()) if kind == "f" else 0
    return int(np.isnat(cells).sum()) if kind in "mM" else missing, 0


def _is_plain(conversion: Conversion, cells: NDArray[Any]) -> bool:
    """Whether nothing is lost in an array of float64 with others, or changed by joining it."""
    kind = cells.dtype.kind
    if not conversion.is_plain or kind not in "iufb":
        return False
    if kind == "f":
        return conversion.keeps_gaps or not np.isnan(cells).any()
    return kind == "b" or bool((np.abs(cells) <= _EXACT).all())


def frame_of(table: NDArray[np.float64] | dict[str, NDArray[Any]], signature: Signature) -> Any:
    """Return a pandas DataFrame with the columns and dtypes of training."""
    import pandas as pd

    if isinstance(table, np.ndarray):
        if all(
            column.type == "double" and column.dtype in (None, "float64")
            for column in signature.inputs
        ):
            return pd.DataFrame(table, columns=list(signature.names))
        table = {name: table[:, place] for place, name in enumerate(signature.names)}
    columns = {column.name: _series(table[column.name], column) for column in signature.inputs}
    return pd.DataFrame(columns)


def array_of(
    table: NDArray[np.float64] | dict[str, NDArray[Any]], signature: Signature
) -> NDArray[Any]:
    """Return an array of shape (n, columns): float64 where all are numbers, otherwise objects.

    Numbers of float32 are rounded to it, and are an array of float32 where all of them are.
    """
    if isinstance(table, np.ndarray):
        return _rounded(table, signature)
    if all(cells.dtype.kind in "iufb" for cells in table.values()):
        columns = [table[name].astype(np.float64) for name in signature.names]
        return _rounded(np.column_stack(columns), signature)
    array = np.empty((len(next(iter(table.values()))), len(table)), dtype=object)
    for place, name in enumerate(signature.names):
        array[:, place] = table[name]
    return array


def _rounded(rows: NDArray[np.float64], signature: Signature) -> NDArray[Any]:
    singles = list(signature.singles)
    if all(singles):
        return rows.astype(np.float32)
    if any(singles):
        rows = rows.copy()
        rows[:, singles] = rows[:, singles].astype(np.float32)
    return rows


def _series(cells: NDArray[Any], column: Column) -> Any:  # noqa: PLR0911  a dtype each
    import pandas as pd

    dtype = column.dtype or _DTYPES.get(column.type)
    if dtype == "category":
        return pd.Categorical(cells, categories=column.categories, ordered=column.ordered)
    if dtype is None or dtype in ("object", "date", "time", "float64"):
        return _as_trained(cells, column)
    if "," in dtype and dtype.startswith("datetime64"):
        zone = dtype[dtype.index(",") + 1 : -1].strip()
        return pd.Series(cells).dt.tz_localize("UTC").dt.tz_convert(zone).astype(dtype)
    if dtype in ("str", "string") or dtype.startswith("string["):
        return pd.Series(cells, dtype=_text_dtype(dtype))
    if cells.dtype.kind == "f" and dtype[0] in "iu":
        # Whole numbers with gaps, where there were none in training.
        return cells if np.isnan(cells).any() else cells.astype(dtype)
    if dtype in ("bool", "boolean") and cells.dtype.kind == "f":
        gaps = np.isnan(cells)
        if dtype == "boolean" or not gaps.any():
            values = pd.array(cells == 1, dtype="boolean")
            values[gaps] = pd.NA
            return values if dtype == "boolean" else values.astype("bool")
        return np.where(gaps, np.nan, (cells == 1).astype(object))
    if dtype[0] in "IUF" and cells.dtype.kind == "f":
        return pd.Series(np.where(np.isnan(cells), pd.NA, cells.astype(object))).astype(dtype)
    return pd.Series(cells).astype(dtype)


def _as_trained(cells: NDArray[Any], column: Column) -> Any:
    if column.dtype == "object" and column.type == "boolean" and cells.dtype.kind in "fb":
        gap = None if column.missing_is == "none" else float("nan")
        values = [gap if value != value else bool(value) for value in cells.tolist()]  # noqa: PLR0124
        filled = np.empty(len(values), dtype=object)
        filled[:] = values
        return filled
    if cells.dtype.kind == "O" and column.dtype in ("object", "date", "time", None):
        import pandas as pd

        # Said, as a column of texts would become one of another type by itself.
        return pd.Series(cells, dtype=object)
    return cells


def _text_dtype(dtype: str) -> Any:
    if dtype != "str":
        return dtype
    pandas = sys.modules["pandas"]
    # pandas 3 reads texts as its own type, called str; before, they were objects.
    return "str" if int(pandas.__version__.split(".")[0]) > 2 else object  # noqa: PLR2004
