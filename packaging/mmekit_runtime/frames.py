"""Tables in the form that a model was trained on: a pandas DataFrame, or an array."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmekit_runtime.signature import Column, Signature

_DTYPES = {"boolean": "bool", "integer": "int32", "long": "int64", "float": "float32"}


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
    singles = [column.is_single for column in signature.inputs]
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
