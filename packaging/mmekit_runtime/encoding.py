"""Predictions to answer bodies."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.media_types import CSV, JSON, JSON_LINES, NPY, media_type
from mmekit_runtime.messages import Prediction, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def encode(prediction: Prediction, accept: str) -> tuple[bytes, str]:
    """Write a prediction in the format that an Accept header prefers; JSON when it names none.

    Returns
    -------
    body, content_type

    Raises
    ------
    RequestError
        406 when the header allows none of JSON, CSV, npy and JSON lines.
    ValueError
        A prediction is infinite or not a number.
    """
    kind = _accepted(accept)
    values = np.asarray(prediction.values)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("a prediction is not a finite number")
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
    """Turn n predictions into Python's own numbers and texts."""
    if isinstance(values, np.ndarray):
        plain: list[Any] = values.tolist()
        return plain
    return [value.tolist() if hasattr(value, "tolist") else value for value in values]


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
            content["classes"] = list(prediction.classes)
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()


def _to_json_lines(prediction: Prediction) -> bytes:
    probabilities = _plain_probabilities(prediction)
    lines = []
    for index, value in enumerate(_plain(prediction.values)):
        line: dict[str, Any] = {"prediction": value}
        if probabilities is not None:
            line["probabilities"] = probabilities[index]
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False))
    return ("\n".join(lines) + "\n").encode()


def _to_csv(prediction: Prediction) -> bytes:
    probabilities = _plain_probabilities(prediction)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for index, value in enumerate(_plain(prediction.values)):
        cells = _flat(value)
        if probabilities is not None:
            cells += _flat(probabilities[index])
        writer.writerow(cells)
    return text.getvalue().encode()


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [cell for item in value for cell in _flat(item)]
    return [value]


def _to_npy(prediction: Prediction) -> bytes:
    wanted = prediction.values if prediction.probabilities is None else prediction.probabilities
    if prediction.has_several_outputs:
        try:
            wanted = np.stack(wanted, axis=1)
        except ValueError as error:
            expected = "an Accept other than npy: the outputs differ in their number of classes"
            raise RequestError(406, expected, NPY) from error
    array = np.asarray(wanted)
    if array.dtype.kind == "O":
        array = array.astype(np.str_)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


_ENCODERS: Mapping[str, Callable[[Prediction], bytes]] = {
    JSON: _to_json,
    CSV: _to_csv,
    NPY: _to_npy,
    JSON_LINES: _to_json_lines,
}
