"""What `predict` returned, as predictions for a known number of rows.

Nothing is iterated over before it is known to hold a row after the other: iterating over a frame
yields its columns' names, over a pair of outputs the outputs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

import numpy as np

from mmekit_runtime.batching import row_count
from mmekit_runtime.messages import Prediction

_NAME = "probabilities"
# tolist() would make whole numbers of those that count nanoseconds.
_MOMENTS = "mM"
_SCALARS = (str, bytes, bytearray, Mapping, AbstractSet, type(None))


def prediction_of(answer: Any, rows: int | None) -> Prediction:
    """Return a `Prediction` that consists of arrays, lists and frames.

    Parameters
    ----------
    answer
        What ``predict`` returned: an array, a list, a frame or a series of n rows; a tuple or dict
        of outputs with n rows each; or a `Prediction`. A tuple of predictions and class
        probabilities, and perhaps the classes, is taken for one: (n,) with (n, classes), or (n,
        outputs) with a list of (n, classes). The members of any other tuple belong together row by
        row, and those of a dict too, under their names.
    rows
        How many rows were asked for; None when nobody could count them.

    Raises
    ------
    ValueError
        It answers another number of rows, or is nothing that holds rows.
    """
    given = answer if isinstance(answer, Prediction) else _of_tuple(answer)
    values = _values(given.values, rows)
    count = len(values)
    if rows is not None and count != rows:
        raise ValueError(f"predict answered {count} of {rows} rows")
    others = {str(name): _output(one, str(name), count) for name, one in given.others.items()}
    given = replace(given, values=values, others=others)
    return given if given.probabilities is None else _with_probabilities(given, count)


def is_frame(values: Any) -> bool:
    """Whether it is a pandas or polars frame."""
    return type(values).__name__ == "DataFrame" and hasattr(values, "columns")


def _with_probabilities(given: Prediction, rows: int) -> Prediction:
    """Turn frames of probabilities into arrays; their columns are the classes, if nobody says."""
    probabilities, classes = given.probabilities, given.classes
    if is_frame(probabilities):
        classes = list(probabilities.columns) if classes is None else classes
        return replace(
            given, probabilities=_output(probabilities.to_numpy(), _NAME, rows), classes=classes
        )
    if isinstance(probabilities, (list, tuple)) and any(map(is_frame, probabilities)):
        classes = [list(one.columns) for one in probabilities] if classes is None else classes
        probabilities = [one.to_numpy() if is_frame(one) else one for one in probabilities]
        given = replace(given, probabilities=probabilities, classes=classes)
    if not given.has_several_outputs:
        return replace(given, probabilities=_output(probabilities, _NAME, rows))
    outputs = [_output(one, _NAME, rows) for one in probabilities]
    return replace(given, probabilities=outputs)


def _of_tuple(answer: Any) -> Prediction:
    if type(answer) is tuple and len(answer) in (2, 3) and _are_probabilities(*answer[:2]):
        classes = answer[2] if len(answer) > 2 else None  # noqa: PLR2004
        if classes is None or _are_classes(classes, answer[1]):
            return Prediction(answer[0], answer[1], None if classes is None else list(classes))
    return Prediction(answer)


def _are_probabilities(values: Any, probabilities: Any) -> bool:
    """Whether the shapes are those of `Prediction`: one number a row is no probabilities."""
    dimensions, count = _dimensions(values), row_count(values)
    if count is None:
        return False
    if isinstance(probabilities, list) and probabilities:
        matrices = all(
            isinstance(one, np.ndarray) and one.ndim == 2 and len(one) == count  # noqa: PLR2004
            for one in probabilities
        )
        return matrices and dimensions == 2  # noqa: PLR2004
    is_matrix = _dimensions(probabilities) == 2 and row_count(probabilities) == count  # noqa: PLR2004
    return dimensions == 1 and is_matrix and isinstance(probabilities, np.ndarray)


def _are_classes(classes: Any, probabilities: Any) -> bool:
    if not isinstance(classes, (list, np.ndarray)) or np.asarray(classes, object).ndim == 0:
        return False
    is_list = isinstance(probabilities, list)
    width = len(probabilities) if is_list else probabilities.shape[1]
    # Names, or whole numbers; what has fractions is a further output.
    return len(classes) == width and not any(isinstance(one, float) for one in classes)


def _dimensions(values: Any) -> int:
    if isinstance(values, np.ndarray):
        return values.ndim
    return 1 if type(values) is list else 2


def _output(output: Any, name: str, rows: int) -> Any:
    values = _values(output, rows)
    if len(values) != rows:
        raise ValueError(f"predict answered {len(values)} of {rows} rows in {name}")
    return values


def _values(values: Any, rows: int | None) -> Any:  # noqa: C901, PLR0911  a kind each
    """Return an array, a list or a frame with an entry a row."""
    if is_frame(values) or type(values) is list:
        return values
    if isinstance(values, tuple):
        return _of_outputs(values, rows)
    if isinstance(values, Mapping):
        outputs = {str(name): _values(one, rows) for name, one in values.items()}
        counts = {len(one) for one in outputs.values()}
        if len(counts) != 1:
            raise ValueError(f"predict answered outputs of {sorted(counts)} rows")
        plain = {name: as_list(one) for name, one in outputs.items()}
        return [
            dict(zip(plain, members, strict=True)) for members in zip(*plain.values(), strict=True)
        ]
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(values):
        return values.toarray()
    if isinstance(values, np.ndarray) and type(values) is not np.ma.MaskedArray:
        if values.ndim == 0:
            raise ValueError(f"predict answered the single value {values!r}, and no row")
        return np.asarray(values)
    if isinstance(values, Iterator):
        return list(values)
    listing = getattr(values, "tolist", None) or getattr(values, "to_list", None)
    if isinstance(values, _SCALARS) or listing is None:
        raise ValueError(
            f"predict answered {type(values).__name__}, which does not hold a prediction a row: "
            "return an array, a list, a frame, or a tuple or dict of these"
        )
    # A series, an index, a masked array, a tensor.
    listed = listing()
    if not isinstance(listed, list):
        raise ValueError(  # noqa: TRY004  as every answer that is wrong
            f"predict answered the single value {values!r}, and no row"
        )
    return listed


def _of_outputs(outputs: tuple[Any, ...], rows: int | None) -> list[Any]:
    """Return the members row by row; a tuple of single values is a row after the other."""
    counts = {None if isinstance(one, _SCALARS) else _length(one) for one in outputs}
    if counts <= {None}:
        return list(outputs)
    if len(counts) == 1 and (rows is None or counts == {rows}):
        listed = [as_list(_values(one, rows)) for one in outputs]
        return [list(members) for members in zip(*listed, strict=True)]
    raise ValueError(
        f"predict answered a tuple of {len(outputs)}, whose members hold {_said(counts)} rows"
        + ("" if rows is None else f" of {rows}")
    )


def _said(counts: set[int | None]) -> str:
    return ", ".join(sorted("no" if one is None else str(one) for one in counts))


def _length(values: Any) -> int | None:
    shape = getattr(values, "shape", None)
    if isinstance(shape, tuple):
        return int(shape[0]) if shape else None
    try:
        return len(values)
    except TypeError:
        return None


def as_list(values: Any) -> list[Any]:
    """Return a list with an entry a row: of a frame, a dict a row."""
    if is_frame(values):
        if hasattr(values, "to_dicts"):
            return list(values.to_dicts())
        names = [str(name) for name in values.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"predict answered a frame with two columns of one name: {names}")
        # Column by column: a row of a mixed frame would turn whole numbers into others.
        columns = [values.iloc[:, place].tolist() for place in range(len(names))]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(values, np.ndarray) and values.dtype.kind not in _MOMENTS:
        return list(values.tolist())
    return list(values)
