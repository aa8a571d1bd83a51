"""Request bodies to what networks take: arrays of any rank, one or several by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.bodies import READERS, load_arrays, media_type_of, read_csv
from mmekit_runtime.decoding import is_name, parse_number
from mmekit_runtime.media_types import CSV, JSON, JSON_LINES, NPY, NPZ
from mmekit_runtime.messages import Parameters, RequestError
from mmekit_runtime.parsed_body import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_KINDS = (JSON, JSON_LINES, CSV, NPY, NPZ)


@dataclass(frozen=True)
class Tensor:
    """What one input of a network takes.

    Attributes
    ----------
    name
        The input's name.
    dtype
        NumPy's name of its type; ``str`` for texts.
    shape
        The shape of a row, None for a length that may be any; None for a shape that nobody knows.
    """

    name: str
    dtype: str = "float32"
    shape: tuple[int | None, ...] | None = None

    @property
    def described(self) -> str:
        """The expectation, for people."""
        what = "texts" if self.dtype == "str" else self.dtype
        if self.shape is None:
            return f"rows of {what}"
        if not self.shape:
            return f"one of {what} a row"
        shape = " x ".join("n" if length is None else str(length) for length in self.shape)
        return f"rows of {shape} {what}"

    def read(self, content: Any) -> NDArray[Any]:
        """Return rows as an array whose first axis counts them; RequestError 400 for what is none.

        A single row, which lacks that axis, is taken for a batch of one.
        """
        try:
            array = np.asarray(content)
        except (ValueError, OverflowError) as error:
            raise self._refusal("ragged rows") from error
        if self.shape is not None and array.ndim == len(self.shape) and array.ndim:
            array = array[np.newaxis]
        if array.size == 0 or array.ndim == 0:
            raise self._refusal("no row" if array.size == 0 else repr(content)[:60])
        self._check_shape(array)
        return self._typed(array)

    def _check_shape(self, array: NDArray[Any]) -> None:
        shape = self.shape
        if shape is None:
            return
        fits = array.ndim == len(shape) + 1 and all(
            wanted is None or wanted == length
            for wanted, length in zip(shape, array.shape[1:], strict=True)
        )
        if not fits:
            raise self._refusal(f"an array of {' x '.join(map(str, array.shape))}")

    def _typed(self, array: NDArray[Any]) -> NDArray[Any]:
        if self.dtype == "str":
            if array.dtype.kind not in "UO" or not all(isinstance(one, str) for one in array.flat):
                raise self._refusal(f"an array of {array.dtype}")
            return array.astype(object)
        if array.dtype.kind not in "iufb":
            raise self._refusal(
                "ragged rows, or values that are no numbers"
                if array.dtype.kind == "O"
                else f"an array of {array.dtype}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            typed = array.astype(self.dtype)
        lost = ~np.isfinite(typed) if typed.dtype.kind == "f" else typed != array
        if np.any(lost):
            raise self._refusal(f"the value {array[lost].flat[0]}")
        return typed

    def _refusal(self, received: str) -> RequestError:
        return RequestError(400, f"{self.name}: {self.described}", received)


def decode_tensors(
    body: bytes, content_type: str, inputs: Sequence[Tensor]
) -> tuple[Any, Parameters]:
    """Read what a network takes.

    One input is an array: ``{"instances": [row, ...]}``, a bare list, JSON lines (a row each), npy,
    npz, or CSV without a header where a row is flat. Several are a dict of arrays by name:
    instances are objects, and ``{"inputs": {name: rows}}`` and npz have an array for each.

    Raises
    ------
    RequestError
        400 for content that does not fit, 415 for another content type.
    """
    kind, rest = media_type_of(content_type, body, _KINDS)
    parameters = Parameters()
    given: Any
    if kind in (NPY, NPZ):
        arrays = load_arrays(body, kind)
        given = arrays if kind == NPZ else arrays[""]
    else:
        if kind == CSV:
            content = read_csv(body, rest, lambda line: all(map(is_name, line)))
        else:
            content = READERS[kind](body, kind)
        parameters = content.parameters
        given = content.rows if content.columns is None else content.columns
        if content.names is not None:
            raise RequestError(
                400, f"rows of {', '.join(one.name for one in inputs)}", "names of columns"
            )
        if content.is_text:
            given = _parsed(given)
    if len(inputs) == 1:
        return _single(given, inputs[0]), parameters
    return _by_name(given, inputs), parameters


def _parsed(rows: list[list[str]]) -> list[list[float]]:
    parsed = [[parse_number(cell) for cell in row] for row in rows]
    for row, cells in zip(rows, parsed, strict=True):
        if None in cells:
            received = f"the cell {row[cells.index(None)][:40]!r}"
            raise RequestError(400, "rows of numbers as CSV", received)
    return [[cell for cell in cells if cell is not None] for cells in parsed]


def _single(content: Any, wanted: Tensor) -> NDArray[Any]:
    if isinstance(content, dict):
        content = content.get(wanted.name, content)
    if isinstance(content, dict):
        if len(content) != 1:
            raise RequestError(400, f"one array, {wanted.name}", listed(list(content)))
        (content,) = content.values()
    if isinstance(content, list) and content and isinstance(content[0], dict):
        content = [_member(row, wanted.name, number) for number, row in enumerate(content)]
    return wanted.read(content)


def _by_name(content: Any, inputs: Sequence[Tensor]) -> dict[str, NDArray[Any]]:
    names = [one.name for one in inputs]
    if isinstance(content, list):
        rows = content
        content = {
            name: [_member(row, name, number) for number, row in enumerate(rows)] for name in names
        }
    if not isinstance(content, dict) or set(content) != set(names):
        received = "something without names"
        if isinstance(content, dict):
            received = listed(list(content))
        raise RequestError(400, f"arrays called {', '.join(names)}", received)
    arrays = {one.name: one.read(content[one.name]) for one in inputs}
    counts = {len(array) for array in arrays.values()}
    if len(counts) > 1:
        received = ", ".join(f"{name}: {len(array)}" for name, array in arrays.items())
        raise RequestError(400, "as many rows of each input", received)
    return arrays


def _member(row: Any, name: str, number: int) -> Any:
    if not isinstance(row, dict) or name not in row:
        received = listed(list(row)) if isinstance(row, dict) else f"{type(row).__name__}"
        raise RequestError(400, f"a member {name} in every row", f"row {number}: {received}")
    return row[name]
