"""Signatures made of the table that a model was trained on."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from mmekit.errors import PackageError
from mmekit_runtime.bodies import MISSING_CELLS
from mmekit_runtime.estimators import signature_of, wants_frame
from mmekit_runtime.signature import Column, Signature

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["signature"]

# pandas.api.types.infer_dtype, for columns of objects: MLflow's type, and what the column holds.
_OBJECTS = {
    "string": ("string", "object"),
    "empty": ("string", "object"),
    "boolean": ("boolean", "object"),
    "date": ("datetime", "date"),
    "time": ("string", "time"),
    "integer": ("any", "object"),
    "floating": ("any", "object"),
    "mixed-integer": ("any", "object"),
    "mixed-integer-float": ("any", "object"),
    "mixed": ("any", "object"),
}


def signature(X: Any, y: Any = None, model: Any = None) -> Signature:  # noqa: N803  the field's name
    """Return what a model takes and gives, from the table that it was trained on.

    Write it beside the artefacts, and it is checked at every request::

        (folder / "signature.json").write_bytes(mmekit.signature(X, y, model).to_json())

    Parameters
    ----------
    X
        The table of shape (n, columns): a pandas or polars DataFrame, or an array, whose columns
        are called ``0``, ``1`` and so on. Names, dtypes and categories are taken from it, and that
        a value may be missing where one is.
    y
        What was learned: (n,) or (n, outputs); it becomes the outputs. May be left out.
    model
        The fitted estimator: it tells where a value may be missing although none was, which values
        its encoders know, and whether it selects columns by name. May be left out.

    Raises
    ------
    PackageError
        There are no columns, two have one name, or one holds what no request could.

    Examples
    --------
    >>> import pandas as pd
    >>> found = signature(pd.DataFrame({"age": [41, None], "city": ["Oslo", "Bergen"]}))
    >>> [(column.name, column.type, column.missing) for column in found.inputs]
    [('age', 'double', True), ('city', 'string', False)]
    """
    import pandas as pd

    table = X.to_pandas() if type(X).__module__.startswith("polars") else X
    is_named = isinstance(table, pd.DataFrame)
    frame = table if is_named else pd.DataFrame(table)
    names = [str(name) for name in frame.columns]
    if not names:
        raise PackageError("The table has no columns", remedy="give the training table")
    if len(set(names)) != len(names):
        raise PackageError(
            f"Column names are not unique: {', '.join(names)}", remedy="rename one, and train again"
        )
    told = None if model is None else signature_of(model)
    known = {} if told is None else {column.name: column for column in told.inputs}
    inputs = tuple(
        _completed(_column(name, frame.iloc[:, place]), known.get(name))
        for place, name in enumerate(names)
    )
    # A model that tells nothing is given what it was trained on, unless an array will do.
    numeric = all(column.is_number or column.type == "boolean" for column in inputs)
    if told is not None:
        wanted = told.frame
    elif model is None:
        wanted = None if is_named and numeric else is_named
    else:
        wanted = is_named and (not numeric or wants_frame(model, is_named=True))
    return Signature(inputs, _outputs(y), wanted)


def _outputs(y: Any) -> tuple[Column, ...]:
    if y is None:
        return ()
    import pandas as pd

    if isinstance(y, pd.Series):
        y = y.to_frame(name="prediction" if y.name is None else y.name)
    frame = y if isinstance(y, pd.DataFrame) else pd.DataFrame(y)
    is_single = not isinstance(y, pd.DataFrame) and frame.shape[1] == 1
    names = ["prediction"] if is_single else [str(name) for name in frame.columns]
    return tuple(_column(name, frame.iloc[:, place]) for place, name in enumerate(names))


def _completed(column: Column, told: Column | None) -> Column:
    """Join what the table shows with what the estimator tells."""
    if told is None:
        return column
    return Column(
        name=column.name,
        type=column.type,
        required=told.required,
        dtype=column.dtype,
        categories=column.categories,
        ordered=column.ordered,
        # What the model does not know itself, the table shows.
        known=told.known or None,
        missing=column.missing or told.missing,
        missing_is=column.missing_is if column.missing else told.missing_is,
        present=tuple(sorted({*column.present, *told.present})),
    )


def _column(name: str, cells: Any) -> Column:  # noqa: PLR0911  a dtype each
    dtype = str(cells.dtype)
    gaps = bool(cells.isna().any())
    if dtype == "category":
        return _category(name, cells, gaps=gaps)
    kind = cells.dtype.kind
    if kind in "iu":
        small = dtype.lower() in ("int8", "int16", "int32", "uint8", "uint16")
        return Column(name, "integer" if small else "long", dtype=dtype, missing=gaps)
    if kind == "f":
        single = dtype.lower() in ("float16", "float32")
        return Column(name, "float" if single else "double", dtype=dtype, missing=gaps)
    if kind == "b":
        return Column(name, "boolean", dtype=dtype, missing=gaps)
    if kind == "M":
        return Column(name, "datetime", dtype=dtype, missing=gaps)
    if dtype in ("str", "string") or dtype.startswith("string["):
        return Column(name, "string", dtype=dtype, missing=gaps, present=_present(cells))
    return _objects(name, cells, gaps=gaps)


def _category(name: str, cells: Any, *, gaps: bool) -> Column:
    values = _plain(cells.cat.categories)
    kind = _type_of(values)
    return Column(
        name,
        kind,
        dtype="category",
        categories=values,
        ordered=bool(cells.cat.ordered),
        missing=gaps,
    )


def _objects(name: str, cells: Any, *, gaps: bool) -> Column:
    import pandas as pd

    inferred = pd.api.types.infer_dtype(cells, skipna=True) if cells.dtype == object else "other"
    if inferred not in _OBJECTS:
        raise PackageError(
            f"The column {name} holds {cells.dtype} ({inferred}), which a request cannot contain",
            remedy="turn it into numbers, texts, times or categories before training",
        )
    kind, dtype = _OBJECTS[inferred]
    has_none = any(cell is None for cell in cells)
    return Column(
        name,
        kind,
        dtype=dtype,
        missing=gaps,
        missing_is="none" if has_none else "nan",
        present=_present(cells),
    )


def _present(cells: Any) -> tuple[str, ...]:
    """Return the texts that are values, although a CSV would have them for missing ones."""
    return tuple(sorted({one for one in cells.dropna() if isinstance(one, str)} & MISSING_CELLS))


def _plain(values: Iterable[Any]) -> tuple[Any, ...]:
    plain = tuple(value.item() if hasattr(value, "item") else value for value in values)
    for value in plain:
        if not isinstance(value, (str, int, float, bool)) or isinstance(value, dt.date):
            raise PackageError(
                f"A category is {value!r}, which JSON cannot represent",
                remedy="make the categories texts or numbers, and train again",
            )
    return plain


def _type_of(values: tuple[Any, ...]) -> str:
    for kind, name in ((str, "string"), (bool, "boolean"), (int, "long"), (float, "double")):
        if values and all(type(value) is kind for value in values):
            return name
    return "any"
