"""The sample request of a new package: rows of the example, or made up from what is known."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit.errors import PackageError
from mmekit.scaffold.artifact import TABLE, TENSORS, TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.scaffold.artifact import Inspected
    from mmekit.scaffold.example import ExampleRows
    from mmekit_runtime.signature import Column, Signature

_ROWS = 2
_LONGEST = 20_000
_TEXTS = ("Where is my parcel?", "The invoice is wrong.")
_MADE_UP = {
    "boolean": (False, True),
    "integer": (0, 1),
    "long": (0, 1),
    "float": (0.0, 1.0),
    "double": (0.0, 1.0),
    "datetime": ("2026-01-01T00:00:00", "2026-07-01T12:00:00"),
}


@dataclass(frozen=True)
class SampleRows:
    """A few rows of a request.

    Attributes
    ----------
    instances
        What JSON says of them.
    frame
        The same as a pandas DataFrame; None where they are no table or are made up.
    made_up
        Whether nobody gave an example.
    """

    instances: tuple[Any, ...]
    frame: Any = None
    made_up: bool = False

    @property
    def file(self) -> str:
        """What the sample request is called."""
        return f"sample_request.{'npy' if self._is_large else 'json'}"

    @property
    def content_type(self) -> str:
        """The request's content type."""
        return "application/x-npy" if self._is_large else "application/json"

    @property
    def body(self) -> bytes:
        """The request's body."""
        if self._is_large:
            stream = io.BytesIO()
            np.save(stream, np.asarray(self.instances))
            return stream.getvalue()
        text = json.dumps({"instances": list(self.instances)}, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"

    @property
    def _is_large(self) -> bool:
        """Whether they are arrays that nobody would read as a text, such as an image's pixels."""
        if not isinstance(self.instances[0], list) or self.frame is not None:
            return False
        return len(json.dumps(self.instances[0])) > _LONGEST


def sample_of(
    inspected: Inspected, example: ExampleRows | None, signature: Signature | None, where: str
) -> SampleRows:
    """Return a few rows that the model can be asked.

    Raises
    ------
    PackageError
        There is no example, and nothing is known that rows could be made of.
    """
    if example is None:
        return SampleRows(_made_up(inspected, signature, where), made_up=True)
    if inspected.rows == TEXTS:
        return SampleRows(tuple(texts_of(example, where)[:_ROWS]))
    if inspected.rows == TENSORS and example.frame is not None:
        rows = example.frame.head(_ROWS).to_numpy().tolist()
        return SampleRows(tuple(rows))
    if example.frame is None:
        return SampleRows(example.rows[:_ROWS])
    head = example.frame.head(_ROWS)
    columns = [[plain(cell) for cell in head[name].tolist()] for name in head.columns]
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    if not example.names:
        return SampleRows(tuple(rows), head)
    return SampleRows(tuple(dict(zip(example.names, row, strict=True)) for row in rows), head)


def texts_of(example: ExampleRows, where: str) -> list[str]:
    """Return an example's texts: its strings, or its only column of texts.

    Raises
    ------
    PackageError
        It holds no texts, or more than one column of them.
    """
    if example.frame is None:
        texts = [
            row["text"] if isinstance(row, dict) and "text" in row else row for row in example.rows
        ]
    else:
        columns = [
            example.frame[name].tolist()
            for name in example.frame.columns
            if all(isinstance(cell, str) for cell in example.frame[name].tolist())
        ]
        named = [name for name in example.names if name in ("text", "sentence")]
        if len(named) == 1:
            columns = [example.frame[named[0]].tolist()]
        if len(columns) != 1:
            raise PackageError(
                f"The model takes a text a row, and the example has {len(columns)} columns of them",
                where=where,
                remedy="call the right one text, or name what is none: --target COLUMN",
            )
        texts = columns[0]
    if not all(isinstance(text, str) for text in texts):
        raise PackageError(
            "The model takes a text a row, and the example holds something else",
            where=where,
            remedy='write texts, such as ["one", "another"]',
        )
    return list(texts)


def plain(cell: Any) -> Any:
    """Return what JSON says for a cell of a frame."""
    if hasattr(cell, "isoformat"):
        return None if str(cell) == "NaT" else cell.isoformat()
    if isinstance(cell, (np.generic, np.ndarray)):
        cell = cell.tolist()
    if isinstance(cell, float):
        return cell if np.isfinite(cell) else None
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return None
    return cell if isinstance(cell, (str, int, bool, list, dict)) else str(cell)


def _made_up(inspected: Inspected, signature: Signature | None, where: str) -> tuple[Any, ...]:
    if inspected.rows == TEXTS:
        return _TEXTS
    if inspected.rows == TABLE and signature is not None and signature.inputs:
        columns = [_values(column) for column in signature.inputs]
        rows = [list(cells) for cells in zip(*columns, strict=True)]
        return tuple(dict(zip(signature.names, row, strict=True)) for row in rows)
    width = inspected.width
    if width is not None:
        return tuple([float(number)] * width for number in range(_ROWS))
    raise PackageError(
        "The inputs of this model are not known",
        where=where,
        remedy="give a few rows as its input: --example FILE (CSV, Parquet, JSON, npy)",
    )


def _values(column: Column) -> Sequence[Any]:
    among = column.categories or column.known
    if among:
        return [among[number % len(among)] for number in range(_ROWS)]
    return _MADE_UP.get(column.type, ("a", "b"))
