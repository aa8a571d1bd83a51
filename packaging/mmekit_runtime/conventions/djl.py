"""DJL 0.36's handlers without code: djl_python/sklearn_handler.py and xgboost_handler.py."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.conventions.sagemaker import ACCEPT_VARIABLE
from mmekit_runtime.messages import RequestError
from mmekit_runtime.model_files import RAW, RECOMMENDING, load_sklearn, load_xgboost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mmekit_runtime.conventions.script import Script

SKLEARN = "djl_python.sklearn_handler"
XGBOOST = "djl_python.xgboost_handler"
LOADERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Any]] = {
    SKLEARN: load_sklearn,
    XGBOOST: load_xgboost,
}

_JSON = "application/json"
_CSV = "text/csv"
# What the functions of the two conventions do, and what DJL's decorators call it.
_SAGEMAKER_NAMES = {
    "init_handler": "model_fn",
    "input_formatter": "input_fn",
    "prediction_handler": "predict_fn",
    "output_formatter": "output_fn",
}


def recommended(folder: Path) -> str | None:
    """Return the handler that DJL 0.36 takes for a folder without an entry point, if any."""
    return SKLEARN if any((folder / name).is_file() for name in RECOMMENDING) else None


def is_raw(properties: Mapping[str, Any]) -> bool:
    """Whether DJL's own behaviour is wanted, where ours is another on purpose."""
    return str(properties.get(RAW, "")).lower() == "true"


class DjlModel:
    """A model behind DJL 0.36's handler for scikit-learn or XGBoost.

    Answers are those of ``SklearnHandler.inference`` and ``XGBoostHandler.inference``, byte for
    byte, but for three things: JSON says that it is JSON; a request without Accept or Content-Type
    is answered (as JSON) and no error; and what cannot be read is 400 or 406 instead of 424. An
    archive that nobody has packed is answered without these (`is_raw`).

    Parameters
    ----------
    made_for
        `SKLEARN` or `XGBOOST`.
    script
        model.py, whose functions replace a step each; None when there is none.
    """

    def __init__(
        self, made_for: str, folder: Path, properties: Mapping[str, Any], script: Script | None
    ) -> None:
        self._made_for = made_for
        self.is_raw = is_raw(properties)
        # custom_formatter_handling.py: SageMaker's functions count when nothing is decorated.
        self._is_sagemaker_script = script is not None and not script.decorated
        self._functions = _functions(script)
        # SageMakerCompatibility.java: the variable goes before the option.
        accept = os.environ.get(ACCEPT_VARIABLE) or properties.get("default_accept")
        self._default_accept = str(accept or _JSON)
        init = self._functions.get("init_handler")
        model = None if init is None else init(str(folder))
        self._model = LOADERS[made_for](folder, properties) if model is None else model

    def answer(self, inputs: Any) -> Any:
        """Answer one request."""
        content_type = inputs.get_property("Content-Type") or ""
        accept = inputs.get_property("Accept")
        if accept == "*/*" or (not accept and not self.is_raw):
            accept = self._default_accept
        if "output_formatter" not in self._functions and not (_JSON in accept or _CSV in accept):
            raise RequestError(406, f"an Accept among {_JSON}, {_CSV}", accept)
        rows = self._rows(inputs, content_type)
        return self._encoded(self._predicted(rows), accept)

    def _rows(self, inputs: Any, content_type: str) -> NDArray[Any]:
        formatter = self._functions.get("input_formatter")
        rows: Any
        if formatter is None:
            rows = _decoded(inputs, content_type)
        elif self._is_sagemaker_script:
            rows = formatter(inputs.get_as_bytes(), content_type)
        else:
            rows = formatter(inputs, content_type=content_type)
        if not hasattr(rows, "ndim"):
            kind = type(rows).__name__
            raise TypeError(f"the input formatter has to return an array, not {kind}")
        shaped: NDArray[Any] = rows.reshape(1, -1) if rows.ndim == 1 else rows
        return shaped

    def _predicted(self, rows: NDArray[Any]) -> Any:
        handler = self._functions.get("prediction_handler")
        predictions = None if handler is None else handler(rows, self._model)
        if predictions is not None:
            return predictions
        if self._made_for == XGBOOST:
            import xgboost

            return self._model.predict(xgboost.DMatrix(rows))
        return self._model.predict(rows)

    def _encoded(self, predictions: Any, accept: str) -> Any:
        from djl_python import Output

        output = Output()
        formatter = self._functions.get("output_formatter")
        formatted = predictions
        if formatter is not None:
            formatted = (
                formatter(predictions, accept)
                if self._is_sagemaker_script
                else formatter(predictions)
            )
        if formatted is not predictions:
            if self._is_sagemaker_script:
                output.add_property("Content-Type", accept)
            elif not isinstance(formatted, (str, bytes, bytearray)) and not self.is_raw:
                output.add_property("Content-Type", _JSON)
            return output.add(formatted)
        if _CSV in accept:
            text = io.StringIO()
            np.savetxt(text, predictions, fmt="%s", delimiter=",")
            output.add_property("Content-Type", _CSV)
            return output.add(text.getvalue().rstrip())
        if not self.is_raw:
            output.add_property("Content-Type", _JSON)
        return output.add_as_json({"predictions": predictions.tolist()})


def _functions(script: Script | None) -> Mapping[str, Callable[..., Any]]:
    if script is None:
        return {}
    if script.decorated:
        return script.decorated
    return {
        role: script.functions[name]
        for role, name in _SAGEMAKER_NAMES.items()
        if name in script.functions
    }


def _decoded(inputs: Any, content_type: str) -> NDArray[Any]:
    """Read rows as the handlers do without a formatter: sklearn_handler.py, encode_decode.py."""
    expected = f'rows as {content_type or _JSON}, such as {{"inputs": [[1.0, 2.0]]}}'
    try:
        if _CSV in content_type:
            return _csv(inputs.get_as_string())
        from djl_python.encode_decode import decode

        content = decode(inputs, content_type)
        rows = np.array(content.get("inputs") if isinstance(content, dict) else content)
    except (RequestError, MemoryError, ImportError):
        raise
    except Exception as error:  # json, numpy, Pillow and DJL's own each raise others
        received = f"a body that cannot be read ({type(error).__name__}: {error})"
        raise RequestError(400, expected, received) from error
    if rows.ndim == 0 or rows.size == 0:
        received = "no rows" if rows.ndim else "a body without inputs"
        raise RequestError(400, expected, received)
    return rows


def _csv(text: str) -> NDArray[np.float64]:
    """Do as decode_csv(require_headers=False): numbers only, no header, a lone line is a record."""
    if not text.strip():
        raise RequestError(400, "rows of numbers as CSV", "no row of numbers")
    rows: NDArray[np.float64] = np.genfromtxt(io.StringIO(text), delimiter=",")
    if np.isnan(rows).any():
        first = np.argwhere(np.isnan(np.atleast_2d(rows)))[0]
        received = f"something else in row {first[0]}, column {first[1]}"
        raise RequestError(400, "rows of numbers as CSV, without a header", received)
    return rows
