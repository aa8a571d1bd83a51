"""What Multi Model Server calls: rows of numbers as CSV in, class probabilities out, flattened.

The answer is one line of CSV with the probabilities of the first row's classes, then those of the
second row's, and so on. model_packages/catboost_classifier answers the same, digit for digit, on
DJL Serving. An archive holds model.cbm and nothing else: a manifest.json, as archives for DJL
Serving have it, would be taken for one of Multi Model Server's own.

`handle` is a function and not the method of a class, because Multi Model Server swallows whatever
the ``initialize`` of a class raises (mms/model_loader.py). From a function a MemoryError reaches
it, and is answered with 507: SageMaker then unloads another model and tries again. It says so for
a MemoryError at a request as well (mms/service.py).

With MMEKIT_PHASES=true in the container's environment each call prints how long its phases took,
for `mmekit_bench.phases` to read. Without it nothing is timed.
"""

# ruff: noqa: INP001 (a folder of files for an image is no package)

from __future__ import annotations

import csv
import io
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CSV = "text/csv"
_LARGEST = 3.4e38  # CatBoost compares in float32
_clock = time.perf_counter


class BadRequestError(Exception):
    """A request that cannot be answered, through no fault of the model."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ModelHandler:
    """One CatBoost classifier, and all that is known of it: nothing is kept in the module."""

    def __init__(self) -> None:
        self.model: Any = None

    def initialize(self, context: Any) -> None:
        """Load model.cbm from the folder that Multi Model Server unpacked."""
        from catboost import CatBoostClassifier

        path = Path(context.system_properties["model_dir"], "model.cbm")
        self.model = CatBoostClassifier().load_model(str(path))

    def preprocess(self, body: bytes | str) -> NDArray[np.float64]:
        """Read CSV as rows of shape (n, features); BadRequestError 400 when it is none."""
        rows = _numbers(_lines(body))
        features = len(self.model.feature_names_)
        if rows.shape[1] != features:
            raise BadRequestError(400, f"expected rows of {features}; received {rows.shape[1]}")
        if not (np.abs(rows) <= _LARGEST).all():  # not a number is not small either
            raise BadRequestError(400, f"expected finite numbers of at most {_LARGEST:g}")
        return rows

    def inference(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return probabilities of shape (n, classes)."""
        # Workers are what fills the cores: threads of theirs would only wait for each other.
        probabilities: NDArray[np.float64] = self.model.predict_proba(rows, thread_count=1)
        return probabilities

    def postprocess(self, probabilities: NDArray[np.float64]) -> str:
        """Write all probabilities on one line, each with as many digits as tell it apart."""
        return ",".join(map(repr, probabilities.ravel().tolist())) + "\n"

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """Answer each request of a batch, with a status of its own."""
        return [self._answer(index, request, context) for index, request in enumerate(data)]

    def _answer(self, index: int, request: dict[str, Any], context: Any) -> str:
        try:
            answer = self.postprocess(
                self.inference(self.preprocess(_body(request, index, context)))
            )
        except BadRequestError as error:
            reason = str(error)
            context.set_response_status(error.status, reason, index)
            context.set_response_content_type(index, "application/json")
            return json.dumps({"code": error.status, "message": reason})
        context.set_response_content_type(index, _CSV)
        return answer


class TimedModelHandler(ModelHandler):
    """The same, and prints a line of milliseconds for every call."""

    def __init__(self) -> None:
        start = _clock()
        super().__init__()
        self._ms = {"init": (_clock() - start) * 1000}
        self._calls = 0
        self._size = 0

    def initialize(self, context: Any) -> None:
        """Load the model; call 0."""
        start = _clock()
        super().initialize(context)
        self._took("initialize", start)
        self._size = Path(context.system_properties["model_dir"], "model.cbm").stat().st_size
        self._print()

    def preprocess(self, body: bytes | str) -> NDArray[np.float64]:
        """Time the reading of CSV."""
        start = _clock()
        rows = super().preprocess(body)
        self._took("preprocess", start)
        return rows

    def inference(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Time CatBoost."""
        start = _clock()
        probabilities = super().inference(rows)
        self._took("inference", start)
        return probabilities

    def postprocess(self, probabilities: NDArray[np.float64]) -> str:
        """Time the writing of the answer."""
        start = _clock()
        answer = super().postprocess(probabilities)
        self._took("postprocess", start)
        return answer

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """Time all of it; `handle_out` is what passed before, in the module's function."""
        start = _clock()
        self._calls += 1
        self._took("handle_out", context.entered)
        answers = super().handle(data, context)
        self._took("handle_in", start)
        self._print()
        return answers

    def _took(self, phase: str, start: float) -> None:
        self._ms[phase] = self._ms.get(phase, 0.0) + (_clock() - start) * 1000

    def _print(self) -> None:
        figures = " ".join(f"{phase}={ms:.6f}" for phase, ms in self._ms.items())
        print(f"mmekit phases: size={self._size} call={self._calls} {figures}", flush=True)  # noqa: T201
        self._ms = {}


_HANDLER = TimedModelHandler if os.environ.get("MMEKIT_PHASES") == "true" else ModelHandler


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[str] | None:
    """Load the model when there is no data yet, as Multi Model Server asks first; answer otherwise.

    A context belongs to one model, so that its handler is kept there.
    """
    context.entered = _clock()
    handler = getattr(context, "handler", None)
    if handler is None:
        handler = _HANDLER()
        handler.initialize(context)
        context.handler = handler
    return None if data is None else handler.handle(data, context)


def _body(request: dict[str, Any], index: int, context: Any) -> bytes | str:
    headers = context.get_all_request_header(index)
    content_type = headers.get("body", {}).get("content-type") or _CSV
    if content_type.partition(";")[0].strip().lower() not in (_CSV, "application/csv"):
        raise BadRequestError(415, f"expected {_CSV}; received {content_type}")
    body: bytes | str = request.get("body") or b""
    return body


def _lines(body: bytes | str) -> list[list[str]]:
    try:
        text = body if isinstance(body, str) else bytes(body).decode("utf-8-sig")
        lines = [line for line in csv.reader(io.StringIO(text, newline=None)) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRequestError(400, f"expected CSV; received text that is none ({error})") from error
    # A header's cells are names; a mistyped number is none.
    if lines and all(_is_name(cell) for cell in lines[0]):
        del lines[0]
    if not lines:
        raise BadRequestError(400, "expected rows of numbers as CSV; received none")
    return lines


def _numbers(lines: list[list[str]]) -> NDArray[np.float64]:
    width = len(lines[0])
    if any(len(line) != width for line in lines):
        raise BadRequestError(400, "expected rows of equal length; received ragged rows")
    try:
        return np.array(lines, dtype=np.float64)
    except ValueError as error:
        raise BadRequestError(400, f"expected numbers; {error}") from error


def _is_name(cell: str) -> bool:
    start = cell.strip()[:1]
    if not (start.isalpha() or start in ("_", "")):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False
