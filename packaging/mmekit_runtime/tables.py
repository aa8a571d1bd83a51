"""Request bodies to tables: rows or columns of cells to the columns of a signature.

A table is either an array of float64, where every column is a number or a boolean, or a dict of
columns, each an array. Both can be joined; a pandas DataFrame is made of them once for a call.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.bodies import READERS, Content, described, kind_of, read_csv, rows_by_name
from mmekit_runtime.cells import Conversion, FromText, FromValue, largest_of
from mmekit_runtime.decoding import is_name, names_columns
from mmekit_runtime.media_types import ARROW, CSV, JSON, JSON_LINES, NPY, NPZ, PARQUET
from mmekit_runtime.messages import Parameters, RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmekit_runtime.signature import Signature

_KINDS = (JSON, CSV, JSON_LINES, PARQUET, ARROW, NPY, NPZ)
_EXACT = 1 << 53


class TableReader:
    """Reads tables with the columns of one signature.

    Parameters
    ----------
    signature
        The columns, in the order of training; at least one.
    largest
        The largest absolute value that a number may have; None for what the column's type can hold.
    """

    def __init__(self, signature: Signature, largest: float | None = None) -> None:
        columns = signature.inputs
        limits = [min(largest_of(column), largest or math.inf) for column in columns]
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
        kind, rest = kind_of(content_type, body, _KINDS)
        if kind == CSV:
            content = read_csv(body, rest, self._is_header)
        else:
            content = READERS[kind](body, kind)
        content = rows_by_name(content, self._names, self._optional)
        matrix = self._matrix(content)
        if matrix is None:
            return self._converted(content), content.parameters
        return matrix, content.parameters

    def _is_header(self, line: list[str]) -> bool:
        found = names_columns(line, self._names)
        if found is not None:
            return found
        # A line of names that are none of the columns': no row, where a number belongs.
        return self._has_no_texts and all(map(is_name, line))

    def _matrix(self, content: Content) -> NDArray[np.float64] | None:
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

    def _converted(self, content: Content) -> NDArray[np.float64] | dict[str, NDArray[Any]]:
        columns = self._columns(content)
        conversions = self._from_texts if content.is_text else self._from_values
        table = {
            name: conversion.of(cells)
            for name, conversion, cells in zip(self._names, conversions, columns, strict=True)
        }
        if all(map(_is_plain, conversions, table.values())):
            return np.column_stack([cells.astype(np.float64) for cells in table.values()])
        return table

    def _columns(self, content: Content) -> list[Any]:
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
        if not isinstance(rows, list):
            rows = [rows]
        if not rows:
            raise RequestError(400, expected, "no record")
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


def _is_plain(conversion: Conversion, cells: NDArray[Any]) -> bool:
    """Whether nothing is lost in an array of float64 with others, or changed by joining it."""
    kind = cells.dtype.kind
    if not conversion.is_plain or kind not in "iufb":
        return False
    if kind == "f":
        return conversion.keeps_gaps or not np.isnan(cells).any()
    return kind == "b" or bool((np.abs(cells) <= _EXACT).all())
