"""Networks, and other models, in the formats that stand for themselves: ONNX and TorchScript."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.handler import Handler
from mmekit_runtime.libraries.probabilities import no_probabilities
from mmekit_runtime.messages import Parameters, Prediction
from mmekit_runtime.signature import Column, Signature
from mmekit_runtime.tables import TableHandler, TableReader
from mmekit_runtime.tensors import Tensor, decode_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}
_COLUMN_TYPES = {
    "str": "string",
    "bool": "boolean",
    "float32": "float",
    "float64": "double",
    "float16": "float",
}
_LABELS = frozenset({"label", "output_label"})
_PROBABILITIES = frozenset({"probabilities", "output_probability", "probability_tensor"})


class OnnxHandler(TableHandler):
    """A model as ONNX, run by onnxruntime.

    Several inputs of one number or text a row are the columns of a table, as sklearn-onnx writes
    them; any other inputs are arrays. The first output answers, and further ones by their names;
    a classifier's labels and probabilities are taken for what they are.

    Parameters
    ----------
    file
        The model's file, by its name among the artefacts.
    """

    frame = False
    reads = ()

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def load(self, folder: Path) -> Any:
        """Return the session, which uses one thread."""
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # What fills the cores is models and requests: threads of theirs would only wait.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # Memory of a request is given back after it, and not kept for the next.
        options.enable_cpu_mem_arena = False
        session = onnxruntime.InferenceSession(
            str(folder / self.file), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = tuple(_tensor(one) for one in session.get_inputs())
        self._outputs = tuple(one.name for one in session.get_outputs())
        self._batch = _fixed_batch(session.get_inputs())
        self._columns = len(self._inputs) > 1 and all(
            one.shape in ((), (1,)) for one in self._inputs
        )
        return session

    def prepare(self, folder: Path) -> Any:
        """Load the model unless it is loaded, and return it; its inputs are its signature."""
        session = super().prepare(folder)
        if self._columns and self._reader is None:
            self.signature = onnx_signature(session)
            self._reader = TableReader(self.signature)
        return session

    def decode(self, body: bytes, content_type: str) -> tuple[Any, Parameters]:
        """Read a request's table, or its arrays."""
        if self._columns:
            return super().decode(body, content_type)
        return decode_tensors(body, content_type, self._inputs)

    def predict(self, model: Any, table: Any, parameters: Parameters) -> Any:
        """Answer with all that the session gives."""
        feed = self._feed(table)
        outputs = dict(zip(self._outputs, self._run(model, feed), strict=True))
        labels = next((name for name in outputs if name in _LABELS), None)
        likely = next((name for name in outputs if name in _PROBABILITIES), None)
        if labels is not None and likely is not None:
            return _classified(outputs.pop(labels), outputs.pop(likely), outputs, parameters)
        if parameters.probabilities:
            raise no_probabilities(f"{self.file} with the outputs {', '.join(outputs)}")
        values = outputs.pop(self._outputs[0])
        return Prediction(values, others=outputs) if outputs else values

    def _feed(self, rows: Any) -> dict[str, Any]:
        if self._columns and self.signature is not None:
            table, names = np.asarray(rows), self.signature.names
            return {one.name: _column(table[:, names.index(one.name)], one) for one in self._inputs}
        return dict(rows) if isinstance(rows, dict) else {self._inputs[0].name: rows}

    def _run(self, session: Any, feed: Mapping[str, Any]) -> list[Any]:
        count = len(next(iter(feed.values())))
        if self._batch is None or self._batch == count:
            return list(session.run(None, dict(feed)))
        parts = []
        for start in range(0, count, self._batch):
            part = {name: array[start : start + self._batch] for name, array in feed.items()}
            left = self._batch - min(self._batch, count - start)
            # The batch is as long as the network was made for: its last row is repeated.
            padded = {
                name: np.concatenate([array, np.repeat(array[-1:], left, axis=0)])
                for name, array in part.items()
            }
            answers = session.run(None, padded)
            parts.append([answer[: self._batch - left] for answer in answers])
        return [
            np.concatenate(answers)
            if isinstance(answers[0], np.ndarray)
            else [row for answer in answers for row in answer]
            for answers in zip(*parts, strict=True)
        ]


class TorchScriptHandler(Handler):
    """A network as TorchScript, run by torch.

    Parameters
    ----------
    file
        The network's file, by its name among the artefacts.
    shape
        The shape of a row, None for a length that may be any. Where nobody says it, whatever is
        rectangular is passed on, and a shape that does not fit is the network's own error.
    dtype
        NumPy's name of the type that the network takes.
    """

    reads = ()

    def __init__(
        self, file: str, *, shape: Sequence[int | None] | None = None, dtype: str = "float32"
    ) -> None:
        super().__init__()
        self.file = file
        self.shape = None if shape is None else tuple(shape)
        self.dtype = dtype

    def load(self, folder: Path) -> Any:
        """Return the network in its mode for inference, on the CPU."""
        import torch

        # Workers are what fills the cores: threads of theirs would only wait for each other.
        torch.set_num_threads(1)
        load: Any = torch.jit.load
        network = load(str(folder / self.file), map_location="cpu").eval()
        arguments = network.forward.schema.arguments[1:]
        names = [one.name for one in arguments if not one.has_default_value()]
        self._inputs = tuple(Tensor(name, self.dtype, self.shape) for name in names)
        if not names:
            raise ValueError(f"{self.file} takes no tensor")
        return network

    def decode(self, body: bytes, content_type: str) -> tuple[Any, Parameters]:
        """Read a request's arrays."""
        return decode_tensors(body, content_type, self._inputs)

    def predict(self, model: Any, table: Any, parameters: Parameters) -> Any:
        """Answer what the network returns: a tensor, or several."""
        import torch

        if parameters.probabilities:
            raise no_probabilities("a network as TorchScript")
        rows = table if isinstance(table, dict) else {self._inputs[0].name: table}
        with torch.inference_mode():
            answer = model(*(torch.from_numpy(rows[one.name]) for one in self._inputs))
        if isinstance(answer, (tuple, list)):
            named = {f"output_{place}": one.numpy() for place, one in enumerate(answer)}
        elif isinstance(answer, dict):
            named = {str(name): one.numpy() for name, one in answer.items()}
        else:
            return answer.numpy()
        values = named.pop(next(iter(named)))
        return Prediction(values, others=named) if named else values


def onnx_signature(session: Any) -> Signature:
    """Return the columns that are the inputs of a session."""
    return Signature(tuple(_column_of(_tensor(one)) for one in session.get_inputs()), frame=False)


def _column_of(wanted: Tensor) -> Column:
    return Column(
        wanted.name,
        _COLUMN_TYPES.get(wanted.dtype, "long"),
        dtype=None if wanted.dtype in ("str", "bool") else wanted.dtype,
        # A NaN is a number to the network; what it makes of it is its own affair.
        missing=wanted.dtype in ("float32", "float64"),
    )


def _tensor(described: Any) -> Tensor:
    dtype = _ONNX_TYPES.get(described.type)
    if dtype is None:
        raise ValueError(f"the input {described.name} is of {described.type}")
    lengths = tuple(length if isinstance(length, int) else None for length in described.shape[1:])
    return Tensor(described.name, dtype, lengths)


def _fixed_batch(inputs: Sequence[Any]) -> int | None:
    """Return the number of rows that a network was exported for; None where it may be any."""
    firsts = {one.shape[0] for one in inputs if one.shape and isinstance(one.shape[0], int)}
    if len(firsts) > 1:
        raise ValueError("its inputs have first axes of different lengths: rows cannot be told")
    return firsts.pop() if firsts else None


def _column(values: Any, wanted: Tensor) -> Any:
    column = values.astype(object if wanted.dtype == "str" else wanted.dtype)
    return column.reshape(-1, *(wanted.shape or ()))


def _classified(
    labels: Any, likely: Any, others: dict[str, Any], parameters: Parameters
) -> Prediction:
    labels = np.asarray(labels)
    labels = labels.reshape(len(labels), -1)[:, 0] if labels.ndim == 2 else labels  # noqa: PLR2004
    if not parameters.probabilities:
        return Prediction(labels, others=others)
    if isinstance(likely, list):  # a ZipMap: a dict a row
        classes = list(likely[0])
        likely = np.array([[row[one] for one in classes] for row in likely])
    else:
        classes = list(range(np.shape(likely)[1]))
    return Prediction(labels, likely, classes, others=others)
