"""What a model takes and gives: signature.json, in MLflow's schema format.

``inputs`` and ``outputs`` are lists of ``{"type": "double", "name": "age", "required": true}``
(mlflow.types.schema: ColSpec), as the MLmodel file of an MLflow model has them, where each is a
JSON text. What MLflow has no words for (pandas' dtypes, the order of categories, which values an
encoder knows, whether a value may be missing) is beside them, under ``mmekit``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmekit_runtime.texts import SIGNATURE_BYTES, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_NAME = "signature.json"
FORMAT = 1

TYPES = (
    "boolean",
    "integer",
    "long",
    "float",
    "double",
    "string",
    "binary",
    "datetime",
    "any",
)
NUMBERS = frozenset({"integer", "long", "float", "double"})


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name
        What it is called.
    type
        One of MLflow's types (`TYPES`); ``any`` where nobody knows.
    required
        False for a column that a request may leave out; it is missing then.
    dtype
        The pandas dtype that the model was trained with, as a text, or ``date`` and ``time`` for
        objects of datetime; None where nobody knows.
    categories, ordered
        The categories of a pandas category, in its order: models keep the places, not the values.
    known
        The values that the model's encoders know, where any other would be an error; None for any.
    missing
        Whether a value may be missing.
    missing_is
        What stood for a missing text in training: ``nan`` or ``none``.
    present
        Texts that are values, although they look like missing ones in a CSV: NA may be Namibia.
    """

    name: str
    type: str
    required: bool = True
    dtype: str | None = None
    categories: tuple[Any, ...] | None = None
    ordered: bool = False
    known: tuple[Any, ...] | None = None
    missing: bool = False
    missing_is: str = "nan"
    present: tuple[str, ...] = ()

    @property
    def is_single(self) -> bool:
        """Whether its numbers are of single precision."""
        return (self.dtype or self.type).lower() in ("float", "float32")

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers, and none of them a category."""
        return self.type in NUMBERS and self.dtype != "category"


@dataclass(frozen=True)
class Signature:
    """The columns that a model takes, in the order of training, and those that it gives.

    Attributes
    ----------
    frame
        Whether the model selects columns by name, and wants a pandas DataFrame; None where nobody
        knows.
    """

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...] = ()
    frame: bool | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns that the model takes."""
        return tuple(column.name for column in self.inputs)

    @cached_property
    def singles(self) -> tuple[bool, ...]:
        """Which of the columns that the model takes are of single precision."""
        return tuple(column.is_single for column in self.inputs)

    @property
    def optional(self) -> frozenset[str]:
        """The names of those that a request may leave out."""
        return frozenset(column.name for column in self.inputs if not column.required)

    def with_missing(self, *, missing: bool) -> Signature:
        """Return one whose columns all take missing values, or none."""
        return replace(self, inputs=tuple(replace(one, missing=missing) for one in self.inputs))

    def to_json(self) -> bytes:
        """Return the text of signature.json; the same for the same signature."""
        content = {
            "inputs": [_mlflow(column) for column in self.inputs],
            "outputs": [_mlflow(column) for column in self.outputs],
            "params": None,
            "mmekit": {
                "format": FORMAT,
                "frame": self.frame,
                "columns": {column.name: _further(column) for column in self.inputs},
                "outputs": {column.name: _further(column) for column in self.outputs},
            },
        }
        return (json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes | str) -> Signature:
        """Read signature.json, or the signature of an MLmodel file as JSON.

        Raises
        ------
        ValueError
            It is none; the message says what is wrong.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON ({error})") from error
        if not isinstance(content, dict) or "inputs" not in content:
            raise ValueError("it has no inputs")
        own = content.get("mmekit") or {}
        if not isinstance(own, dict) or own.get("format", FORMAT) != FORMAT:
            raise ValueError("it is of another version of mmekit")
        inputs = _columns(content["inputs"], own.get("columns") or {})
        outputs = _columns(content.get("outputs"), own.get("outputs") or {})
        names = [column.name for column in inputs]
        if len(set(names)) != len(names):
            raise ValueError("two of its columns have one name")
        return cls(inputs, outputs, own.get("frame"))

    @classmethod
    def read(cls, folder: Path) -> Signature | None:
        """Read a model folder's signature.json; None when it has none.

        Raises
        ------
        ValueError
            The file is no signature.
        """
        file = folder / FILE_NAME
        if not file.is_file():
            return None
        try:
            return cls.from_json(read_text(str(file), SIGNATURE_BYTES))
        except ValueError as error:
            raise ValueError(f"{FILE_NAME} cannot be read: {error}") from error


def _mlflow(column: Column) -> dict[str, Any]:
    return {"type": column.type, "name": column.name, "required": column.required}


def _further(column: Column) -> dict[str, Any]:
    further: dict[str, Any] = {}
    if column.dtype is not None:
        further["dtype"] = column.dtype
    if column.categories is not None:
        further |= {"categories": list(column.categories), "ordered": column.ordered}
    if column.known is not None:
        further["known"] = list(column.known)
    further["missing"] = column.missing
    if column.missing_is != "nan":
        further["missing_is"] = column.missing_is
    if column.present:
        further["present"] = list(column.present)
    return further


def _columns(given: Any, further: Mapping[str, Any]) -> tuple[Column, ...]:
    schema = json.loads(given) if isinstance(given, str) else given
    if schema is None:
        return ()
    if not isinstance(schema, list) or not all(isinstance(one, dict) for one in schema):
        raise ValueError("its columns are no list of objects")
    if any(one.get("type") == "tensor" for one in schema):
        # Arrays without names: nothing that a table's columns could be held against.
        return ()
    return tuple(_column(one, place, further) for place, one in enumerate(schema))


def _column(one: dict[str, Any], place: int, further: Mapping[str, Any]) -> Column:
    name, kind = str(one.get("name", place)), str(one.get("type"))
    if kind not in TYPES:
        raise ValueError(f"the column {name} is of type {kind}; known are {', '.join(TYPES)}")
    required = bool(one.get("required", True))
    own = further.get(name) or {}
    categories, known = own.get("categories"), own.get("known")
    return Column(
        name=name,
        type=kind,
        required=required,
        dtype=own.get("dtype"),
        categories=None if categories is None else tuple(categories),
        ordered=bool(own.get("ordered", False)),
        known=None if known is None else tuple(known),
        # To MLflow, a column that had gaps in training is one that may be left out.
        missing=bool(own.get("missing", not required)),
        missing_is=str(own.get("missing_is", "nan")),
        present=tuple(own.get("present") or ()),
    )
