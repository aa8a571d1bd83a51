"""SageMaker's framework containers: model_fn, input_fn, predict_fn, output_fn, transform_fn.

Sources: sagemaker_inference/transformer.py, decoder.py and encoder.py of
aws/sagemaker-inference-toolkit; src/sagemaker_sklearn_container/handler_service.py of
aws/sagemaker-scikit-learn-container, which says what a function that is left out does.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.encoding import plain
from mmekit_runtime.media_types import CSV, JSON, NPY, NPZ, media_type
from mmekit_runtime.messages import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

ACCEPT_VARIABLE = "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"
"""The format of answers to requests that name none."""

_TEXTS = (JSON, CSV)
_INPUTS = (JSON, CSV, NPY, NPZ)


class SageMakerModel:
    """A model behind a script's own functions.

    Parameters
    ----------
    name
        The script's path in the folder.
    functions
        The functions that it has. One that takes an argument more than it needs gets a `Context`.

    Raises
    ------
    ValueError
        There is no model_fn, which SageMaker's containers want as well; or a transform_fn beside
        functions that it would replace.
    """

    def __init__(
        self, name: str, folder: Path, functions: Mapping[str, Callable[..., Any]]
    ) -> None:
        if "model_fn" not in functions:
            raise ValueError(f"{name} has no model_fn(model_dir), which loads the model")
        parts = [one for one in ("input_fn", "predict_fn", "output_fn") if one in functions]
        if "transform_fn" in functions and parts:
            raise ValueError(f"{name} has transform_fn and {parts[0]}: one replaces the other")
        self._folder = folder
        self._functions = functions
        context = Context(folder, {})
        self._model = _called(functions["model_fn"], (str(folder),), context)

    def answer(self, inputs: Any) -> Any:
        """Answer one request: Transformer.transform."""
        content_type = inputs.get_property("Content-Type") or JSON
        accept = inputs.get_property("Accept")
        if accept in (None, "", "*/*"):
            accept = os.environ.get(ACCEPT_VARIABLE) or JSON
        context = Context(self._folder, inputs.get_properties())
        body = _body(bytes(inputs.get_as_bytes() or b""), content_type)
        if "transform_fn" in self._functions:
            arguments = (self._model, body, content_type, accept)
            result = _called(self._functions["transform_fn"], arguments, context)
        else:
            result = self._transformed(body, content_type, accept, context)
        if isinstance(result, tuple):
            result, accept = result
        return _output(result, str(accept))

    def _transformed(self, body: Any, content_type: str, accept: str, context: Context) -> Any:
        call = self._functions.get
        input_fn, predict_fn, output_fn = call("input_fn"), call("predict_fn"), call("output_fn")
        if input_fn is None:
            data = default_input(body, content_type)
        else:
            data = _called(input_fn, (body, content_type), context)
        if predict_fn is None:
            prediction = self._model.predict(data)
        else:
            prediction = _called(predict_fn, (data, self._model), context)
        if output_fn is None:
            return default_output(prediction, accept)
        return _called(output_fn, (prediction, accept), context)


class Context:
    """What a function may ask about a request: the parts of Multi Model Server's context.

    Attributes
    ----------
    system_properties
        ``model_dir`` and ``gpu_id``.
    """

    def __init__(self, folder: Path, headers: Mapping[str, Any]) -> None:
        self.system_properties = {"model_dir": str(folder), "gpu_id": None}
        self._headers = dict(headers)

    def get_request_header(self, _index: int, key: str) -> str | None:
        """Return a header of the request, whatever the case of its name."""
        return next((v for k, v in self._headers.items() if k.lower() == key.lower()), None)

    def get_all_request_header(self, _index: int) -> dict[str, Any]:
        """Return all headers of the request."""
        return dict(self._headers)


class Text(str):
    """A body of JSON or CSV: SageMaker hands over a str, DJL bytes, and functions expect either."""

    __slots__ = ()

    def decode(self, _encoding: str = "utf-8", _errors: str = "strict") -> str:
        """Return the text."""
        return str(self)


def default_input(body: str | bytes, content_type: str) -> Any:
    """Read an array as DefaultSKLearnUserModuleInferenceHandler.default_input_fn does.

    JSON and CSV become float32, and a list of numbers one record; npy is what it is, npz a scipy
    sparse matrix. Unlike there, each line of a CSV is a record even when it has a single number,
    text in a CSV is refused by name, and pickles inside of an npy are refused.

    Raises
    ------
    RequestError
        400 for a body that cannot be read, 415 for another content type.
    """
    kind, _ = media_type(content_type)
    if kind not in _INPUTS:
        raise RequestError(415, f"a content type among {', '.join(_INPUTS)}", content_type)
    expected = f"an array as {kind}"
    try:
        if kind == JSON:
            array = np.array(json.loads(body), dtype=np.float32)
        elif kind == CSV:
            array = _csv(str(body))
        elif kind == NPY:
            array = np.load(io.BytesIO(body), allow_pickle=False)  # type: ignore[arg-type]
        else:
            import scipy.sparse

            return scipy.sparse.load_npz(io.BytesIO(body))  # type: ignore[arg-type]
    except (RequestError, MemoryError, ImportError):
        raise
    except Exception as error:  # json, numpy, zipfile and scipy each raise their own
        received = f"a body that cannot be read ({type(error).__name__}: {error})"
        raise RequestError(400, expected, received) from error
    if array.ndim == 0 or array.size == 0:
        raise RequestError(400, expected, "no row of numbers")
    return array.reshape(1, -1) if array.ndim == 1 else array


def default_output(prediction: Any, accept: str) -> tuple[str | bytes, str]:
    """Write an array as default_output_fn does: JSON, CSV or npy.

    Unlike there, an Accept that names several takes the first that is known, and what is no number
    in JSON (NaN, infinity) becomes null.

    Raises
    ------
    RequestError
        406 for another format.
    """
    for offer in accept.split(","):
        kind, _ = media_type(offer)
        if kind in (JSON, "*/*", "application/*"):
            return json.dumps(plain(prediction), allow_nan=False), JSON
        if kind == CSV:
            text = io.StringIO()
            np.savetxt(text, prediction, delimiter=",", fmt="%s")
            return text.getvalue(), CSV
        if kind == NPY:
            buffer = io.BytesIO()
            np.save(buffer, prediction, allow_pickle=False)
            return buffer.getvalue(), NPY
    raise RequestError(406, f"an Accept among {JSON}, {CSV}, {NPY}", accept)


def _body(body: bytes, content_type: str) -> Text | bytes:
    if media_type(content_type)[0] not in _TEXTS:
        return body
    try:
        return Text(body.decode())
    except UnicodeDecodeError as error:
        raise RequestError(400, "text in UTF-8", f"bytes that are not ({error.reason})") from error


def _called(function: Callable[..., Any], arguments: tuple[Any, ...], context: Context) -> Any:
    """Call a function with a context when it takes one more: Transformer._run_handler_function."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = sum(one.kind in kinds for one in inspect.signature(function).parameters.values())
    return function(*arguments, context) if taken == len(arguments) + 1 else function(*arguments)


def _csv(text: str) -> NDArray[np.float32]:
    lines = [row for row in csv.reader(io.StringIO(text, newline=None)) if row]
    if len({len(line) for line in lines}) > 1:
        raise RequestError(400, "rows of equal length", "ragged rows")
    rows = []
    for number, line in enumerate(lines):
        cells = []
        for cell in line:
            try:
                # As numpy.genfromtxt has it: an empty cell is a missing value.
                cells.append(float(cell) if cell.strip() else math.nan)
            except ValueError as error:
                received = f"the cell {cell[:40]!r} in row {number}"
                raise RequestError(400, "rows of numbers as CSV", received) from error
        rows.append(cells)
    return np.array(rows, dtype=np.float32)


def _listed(value: Any) -> Any:
    """Turn arrays, also inside of lists and dicts, into lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {str(name): _listed(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_listed(one) for one in value]
    return value


def _output(result: Any, content_type: str) -> Any:
    from djl_python import Output

    if result is None:
        raise TypeError("output_fn or transform_fn returned None, not a body")
    if not isinstance(result, (str, bytes, bytearray)):
        result, content_type = json.dumps(_listed(result), ensure_ascii=False), JSON
    output = Output()
    output.add_property("Content-Type", content_type)
    return output.add(str(result) if isinstance(result, str) else bytes(result))
