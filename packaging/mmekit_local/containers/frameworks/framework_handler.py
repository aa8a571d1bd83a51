"""What AWS's images of scikit-learn and XGBoost do with a model, for Multi Model Server.

For the Python of the server's environment, which has sagemaker-inference and no mmekit. The images
run Multi Model Server with sagemaker-inference and defaults of their own (aws/
sagemaker-scikit-learn-container and aws/sagemaker-xgboost-container, ``handler_service.py`` and
``algorithm_mode``); neither of the two packages is on PyPI, so the defaults are written down here
once more. MMEKIT_FRAMEWORK says whose: ``scikit-learn`` or ``xgboost``.

The user's functions (model_fn, input_fn, predict_fn, output_fn or transform_fn) are in the module
that SAGEMAKER_PROGRAM names, ``inference.py`` where it names none. It comes from
SAGEMAKER_SUBMIT_DIRECTORY, an archive in S3 or a folder, or from ``code/`` in the model.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

_LIBSVM = ("text/libsvm", "text/x-libsvm")
_CSV, _JSON = "text/csv", "application/json"
_NO_MODEL_FN = (
    "Please provide a model_fn implementation. See documentation for model_fn at "
    "https://github.com/aws/sagemaker-python-sdk"
)


class ScikitLearn:
    """The defaults of sagemaker-scikit-learn."""

    def default_model_fn(self, model_dir: str) -> Any:
        """Fail: this image has no way of its own to load a model."""
        raise NotImplementedError(_NO_MODEL_FN)

    def default_input_fn(self, input_data: Any, content_type: str) -> Any:
        """Return an array of rows, float32 when it came as text."""
        toolkit = _toolkit("content_types")
        rows = _toolkit("decoder").decode(input_data, content_type)
        if len(rows.shape) == 1:
            rows = rows.reshape(1, -1)
        return rows.astype(np.float32) if content_type in toolkit.UTF8_TYPES else rows

    def default_predict_fn(self, data: Any, model: Any) -> Any:
        """Predict."""
        return model.predict(data)

    def default_output_fn(self, prediction: Any, accept: str) -> Any:
        """Return what the client wants: JSON, CSV or npy."""
        return _toolkit("encoder").encode(prediction, accept), accept


class Xgboost:
    """The defaults of sagemaker-xgboost for a model with a script."""

    def default_model_fn(self, model_dir: str) -> Any:
        """Fail: with a script, this image has no way of its own to load a model."""
        raise NotImplementedError(_NO_MODEL_FN)

    def default_input_fn(self, input_data: Any, content_type: str) -> Any:
        """Return a DMatrix, of CSV or libsvm."""
        return _matrix(input_data, content_type)

    def default_predict_fn(self, data: Any, model: Any) -> Any:
        """Predict."""
        return model.predict(data, validate_features=False)

    def default_output_fn(self, prediction: Any, accept: str) -> Any:
        """Return what the client wants: JSON, CSV or npy."""
        return _toolkit("encoder").encode(prediction, accept)


class XgboostAlgorithm(Xgboost):
    """What sagemaker-xgboost does without a script: SageMaker's own algorithm."""

    def default_model_fn(self, model_dir: str) -> Any:
        """Load the first file of the model: a pickle, or what XGBoost has saved."""
        import xgboost

        names = (one for one in os.listdir(model_dir) if not one.startswith("."))  # noqa: PTH208 - in that order
        files = [path for path in (Path(model_dir, one) for one in names) if path.is_file()]
        if not files:
            raise _failure(500, f"Unable to load model: there is no file in {model_dir}")
        try:
            booster = pickle.loads(files[0].read_bytes())  # noqa: S301 - as the image does
        except Exception:  # noqa: BLE001 - it is no pickle
            booster = xgboost.Booster()
            try:
                booster.load_model(str(files[0]))
            except Exception as error:
                raise _failure(500, f"Unable to load model: {error}") from error
        booster.set_param("nthread", 1)
        return booster

    def default_input_fn(self, input_data: Any, content_type: str) -> Any:
        """Return a DMatrix, of CSV or libsvm."""
        if not input_data:
            raise _failure(204, "")
        try:
            return _matrix(input_data, content_type)
        except Exception as error:
            raise _failure(415, str(error)) from error

    def default_predict_fn(self, data: Any, model: Any) -> Any:
        """Predict."""
        try:
            return super().default_predict_fn(data, model)
        except Exception as error:
            raise _failure(400, str(error)) from error

    def default_output_fn(self, prediction: Any, accept: str) -> Any:
        """Return JSON, or all numbers in one line, which the image calls CSV."""
        wanted = accept.lower()
        if wanted in (_CSV, "csv"):
            return ",".join(map(str, prediction.tolist())).encode()
        if wanted in (_JSON, "json"):
            return _toolkit("encoder").encode(prediction, _JSON)
        raise _failure(
            406,
            f"{accept} is not an accepted Accept type. Please choose one of the following: "
            f"['{_CSV}', '{_JSON}'].",
        )


def _failure(status: int, message: str) -> Exception:
    error: Exception = _toolkit("errors").GenericInferenceToolkitError(status, message)
    return error


def _toolkit(module: str) -> Any:
    return importlib.import_module(f"sagemaker_inference.{module}")


class _Service:
    """One model: Multi Model Server has a process for each."""

    def __init__(self) -> None:
        self._made: Any = None

    def handle(self, data: Any, context: Any) -> Any:
        """Answer requests; the first call has none, and loads the model."""
        if self._made is None:
            folder = Path(context.system_properties["model_dir"])
            transformer = _toolkit("transformer").Transformer(_defaults(folder))
            service = _toolkit("default_handler_service").DefaultHandlerService
            self._made = service(transformer)
            try:
                self._made.initialize(context)
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001 - as Multi Model Server does, which loads the model
                # all the same; its requests fail then, each with the reason.
                traceback.print_exc()
        return None if data is None else self._made.handle(data, context)


_service = _Service()


def handle(data: Any, context: Any) -> Any:
    """Answer requests to the model of this process."""
    return _service.handle(data, context)


def _defaults(folder: Path) -> Any:
    """Make the user's module importable, and return the defaults for what it lacks."""
    submitted = os.environ.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
    code = folder / "code"
    if submitted.startswith("s3://"):
        code = _fetched(submitted)
    elif submitted and Path(submitted).is_dir():
        code = Path(submitted)
    for place in (folder, code):
        if place.is_dir():
            sys.path.insert(0, str(place))
    _install(code / "requirements.txt")
    if os.environ["MMEKIT_FRAMEWORK"] == "scikit-learn":
        return ScikitLearn()
    program = os.environ.get("SAGEMAKER_PROGRAM", "inference.py")
    if any((place / program).is_file() for place in (folder, code)):
        return Xgboost()
    if os.environ.get("SAGEMAKER_MULTI_MODEL") != "true":  # then the image runs a server of its own
        os.environ.setdefault("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", _CSV)
    return XgboostAlgorithm()


def _fetched(address: str) -> Path:
    """Return the folder with the user's code, which lies in S3 as an archive."""
    import boto3

    place = urlsplit(address)
    taken = boto3.client("s3").get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))
    folder = Path(tempfile.mkdtemp(prefix="code-"))
    with tarfile.open(fileobj=io.BytesIO(taken["Body"].read())) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _install(file: Path) -> None:
    """Install what the user's code needs into a folder of this container's own."""
    if not file.is_file():
        return
    folder = tempfile.mkdtemp(prefix="packages-")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
    subprocess.run([*command, "-r", str(file)], check=True)
    sys.path.insert(0, folder)


def _matrix(data: Any, content_type: str) -> Any:
    import xgboost

    text = (data.decode() if isinstance(data, (bytes, bytearray)) else data).strip()
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _CSV:
        cells = [[cell or "nan" for cell in line.split(",")] for line in text.split("\n")]
        return xgboost.DMatrix(np.array(cells).astype(float))
    if kind in _LIBSVM:
        return xgboost.DMatrix(_rows_of_libsvm(text))
    raise ValueError(f"Content-type {content_type} is not supported.")


def _rows_of_libsvm(text: str) -> Any:
    """Return a sparse matrix; columns that begin with 1 become those from 0."""
    from scipy.sparse import csr_matrix

    found = [
        (row, *cell.split(":", 1))
        for row, line in enumerate(text.split("\n"))
        for cell in line.split()
        if ":" in cell
    ]
    rows, columns, values = zip(*found, strict=True)
    places = np.array(columns).astype(int)
    places -= min(1, int(places.min()))
    return csr_matrix((np.array(values).astype(float), (np.array(rows), places)))
