"""Predictions to answer bodies."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import decimal
import enum
import io
import json
import math
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from mmekit_runtime.media_types import CSV, JSON, JSON_LINES, NPY, media_type
from mmekit_runtime.messages import Prediction, RequestError
from mmekit_runtime.predictions import as_list, is_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

_NUMERIC = "iub"
# Up to here float64 holds every whole number.
_EXACT = 1 << 53


def encode(prediction: Prediction, accept: str) -> tuple[bytes, str]:
    """Write a prediction in the format that an Accept header prefers; JSON when it names none.

    What is missing, not a number or infinite is null in JSON, as JSON has nothing else for it; in
    CSV a missing value is an empty cell, and infinity ``inf``.

    Returns
    -------
    body, content_type

    Raises
    ------
    RequestError
        406 when the header allows none of JSON, CSV, npy and JSON lines, or the prediction cannot
        be said in what it allows.
    ValueError
        The prediction holds something that no answer can hold.
    """
    kind = _accepted(accept)
    return _ENCODERS[kind](prediction), kind


def _accepted(accept: str) -> str:
    if not accept:
        return JSON
    offers = []
    for position, item in enumerate(accept.split(",")):
        kind, rest = media_type(item)
        weight = 1.0
        for parameter in rest.split(";"):
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                with contextlib.suppress(ValueError):
                    weight = float(value)
        if weight > 0:
            offers.append((-weight, position, kind))
    for _, _, kind in sorted(offers):
        if kind in ("*/*", "application/*", ""):
            return JSON
        if kind == "text/*":
            return CSV
        if kind in _ENCODERS:
            return kind
    raise RequestError(406, f"an Accept among {', '.join(_ENCODERS)}", accept)


def _plain(values: Any) -> list[Any]:
    """Turn n predictions into what JSON can say."""
    if _is_finite(values):
        return list(values.tolist())
    return [plain(value) for value in as_list(values)]


def _is_finite(values: Any) -> bool:
    """Whether it is an array of numbers that JSON can say as they are."""
    if not isinstance(values, np.ndarray):
        return False
    kind = values.dtype.kind
    return kind in _NUMERIC or (kind == "f" and bool(np.isfinite(values).all()))


def plain(value: Any) -> Any:  # noqa: C901, PLR0911, PLR0912  a kind of value each
    """Turn a value into what JSON can say; None for what is missing or not finite."""
    if value is None or (isinstance(value, (bool, str, int)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(plain, value), key=str)
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return None if np.isnat(value) else str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, (dt.date, dt.time)):  # a datetime, too; NaT is one
        return value.isoformat() if value == value else None  # noqa: PLR0124
    if isinstance(value, decimal.Decimal):
        return plain(float(value))
    if isinstance(value, (dt.timedelta, PurePath, UUID)):
        return str(value)
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if is_frame(value) or hasattr(value, "tolist"):
        return _plain(value)
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' own missing values
        return None
    raise ValueError(f"a prediction holds a {type(value).__name__}, which JSON cannot say")


def _key(name: Any) -> str:
    said = plain(name)
    return said if isinstance(said, str) else json.dumps(said)


def _plain_probabilities(prediction: Prediction) -> list[Any] | None:
    if prediction.probabilities is None:
        return None
    if prediction.has_several_outputs:
        outputs = [_plain(output) for output in prediction.probabilities]
        return [list(row) for row in zip(*outputs, strict=True)]
    return _plain(prediction.probabilities)


def _to_json(prediction: Prediction) -> bytes:
    content: dict[str, Any] = {"predictions": _plain(prediction.values)}
    probabilities = _plain_probabilities(prediction)
    if probabilities is not None:
        content["probabilities"] = probabilities
        if prediction.classes is not None:
            content["classes"] = plain(list(prediction.classes))
    for name, output in prediction.others.items():
        content[name] = _plain(output)
    return _dumps(content)


def _to_json_lines(prediction: Prediction) -> bytes:
    columns = {"prediction": _plain(prediction.values)}
    probabilities = _plain_probabilities(prediction)
    if probabilities is not None:
        columns["probabilities"] = probabilities
    columns |= {name: _plain(output) for name, output in prediction.others.items()}
    lines = zip(*columns.values(), strict=True)
    return b"".join(_dumps(dict(zip(columns, line, strict=True))) + b"\n" for line in lines)


def _dumps(content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    # Half a character, which a model may make of a text, has no bytes in UTF-8.
    return text.encode("utf-8", "replace")


def _to_csv(prediction: Prediction) -> bytes:
    names, rows = _csv_cells(prediction.values)
    probabilities = prediction.probabilities
    if prediction.has_several_outputs:
        probabilities = zip(*(_listed(output) for output in probabilities), strict=True)
    if probabilities is not None:
        listed = [_flat(row) for row in _listed(probabilities)]
        width = len(listed[0]) if listed else 0
        names = names and [*names, *(f"probability_{place}" for place in range(width))]
        rows = [[*row, *cells] for row, cells in zip(rows, listed, strict=True)]
    if prediction.others:
        width = len(rows[0]) if rows else 0
        names = names or (
            ["prediction"] if width == 1 else [f"prediction_{place}" for place in range(width)]
        )
        for name, output in prediction.others.items():
            listed = [_flat(row) for row in as_list(output)]
            width = len(listed[0]) if listed else 1
            names += [name] if width == 1 else [f"{name}_{place}" for place in range(width)]
            rows = [[*row, *cells] for row, cells in zip(rows, listed, strict=True)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if names:
        writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def _csv_cells(output: Any) -> tuple[list[str], list[list[Any]]]:
    """Return the names of columns, where the rows are objects of the same members, and the rows."""
    values = as_list(output)
    if _is_finite(output) and output.ndim <= 2:  # noqa: PLR2004
        return [], [[value] for value in values] if output.ndim == 1 else values
    names = list(values[0]) if values and isinstance(values[0], dict) else []
    if names and all(isinstance(value, dict) and list(value) == names for value in values):
        return [_key(name) for name in names], [
            [_csv_cell(value[name]) for name in names] for value in values
        ]
    return [], [_flat(value) for value in values]


def _listed(values: Any) -> list[Any]:
    return as_list(values) if isinstance(values, np.ndarray) else list(values)


def _flat(value: Any) -> list[Any]:
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, (list, tuple)):
        return [cell for item in value for cell in _flat(item)]
    return [_csv_cell(value)]


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    said = plain(value)
    return json.dumps(said, ensure_ascii=False) if isinstance(said, (dict, list)) else said


def _to_npy(prediction: Prediction) -> bytes:
    if prediction.others:
        expected = "an Accept other than npy: the answer has further outputs"
        raise RequestError(406, expected, NPY)
    wanted = prediction.values if prediction.probabilities is None else prediction.probabilities
    try:
        if prediction.has_several_outputs:
            wanted = np.stack(wanted, axis=1)
        array = wanted.to_numpy() if is_frame(wanted) else np.asarray(wanted)
    except ValueError as error:
        expected = "an Accept other than npy: the outputs differ in their number of classes"
        raise RequestError(406, expected, NPY) from error
    if array.dtype.kind == "O" or (array.dtype.kind == "U" and isinstance(wanted, list)):
        array = _of_one_kind(np.asarray(wanted, dtype=object) if array.dtype.kind == "U" else array)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _is_number(cell: Any) -> bool:
    return isinstance(cell, float) or (type(cell) is int and abs(cell) <= _EXACT)


def _of_one_kind(objects: NDArray[Any]) -> NDArray[Any]:
    """Return an array of texts, or of numbers with NaN for those that are missing."""
    cells = [plain(value) for value in objects.ravel()]
    if all(isinstance(cell, str) for cell in cells):
        return np.array(objects, dtype=np.str_)
    if all(cell is None or _is_number(cell) for cell in cells):
        numbers = np.array(
            [
                float(value) if isinstance(value, (int, float, np.number)) else math.nan
                for value in objects.ravel()
            ]
        )
        return numbers.reshape(objects.shape)
    # An array of both would have the numbers as texts, and a missing text as None.
    expected = "an Accept other than npy: the predictions are not all numbers, or all texts"
    raise RequestError(406, expected, NPY)


_ENCODERS: Mapping[str, Callable[[Prediction], bytes]] = {
    JSON: _to_json,
    CSV: _to_csv,
    NPY: _to_npy,
    JSON_LINES: _to_json_lines,
}
