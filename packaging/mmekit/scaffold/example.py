"""An example of what the model is asked: a file of rows, as training saw them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit.errors import PackageError
from mmekit.scaffold.pickles import missing_library
from mmekit.signatures import signature as signature_of_table
from mmekit_runtime.estimators import signature_of, takes_missing
from mmekit_runtime.signature import FILE_NAME, Column, Signature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmekit.scaffold.artifact import Inspected

_TARGETS = ("target", "label", "labels", "class", "y", "outcome")
_ROW_MEMBERS = ("instances", "inputs", "dataframe_records", "data")
_MEMBERS = '{"instances": [...]}, {"dataframe_split": {...}}, or a list of records'


@dataclass(frozen=True)
class ExampleRows:
    """Rows as they would be asked.

    Attributes
    ----------
    frame
        A pandas DataFrame; None where the rows are no table.
    rows
        The rows of what is no table: texts, or nested lists.
    names
        The names of the columns; empty where the file has none.
    left_out
        Columns of the file that are no features, such as the target.
    """

    frame: Any = None
    rows: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows) if self.frame is None else len(self.frame)


def read_example(path: Path) -> ExampleRows:
    """Read a file of CSV, Parquet, JSON, JSON lines or npy.

    Raises
    ------
    PackageError
        The file is not there, is of another kind, or holds no rows.
    """
    if not path.is_file():
        raise PackageError(
            "The example file does not exist", where=str(path), remedy="check the path"
        )
    with path.open("rb") as stream:
        head = stream.read(64)
    try:
        if head.startswith(b"\x93NUMPY"):
            example = _of_rows(np.load(path, allow_pickle=False).tolist(), path)
        elif head.startswith(b"PAR1"):
            example = _of_frame(_pandas(path).read_parquet(path))
        elif head.lstrip().startswith((b"{", b"[")):
            example = _of_json(path)
        elif head.startswith((b"PK", b"\x80")) or b"\0" in head:
            raise PackageError(
                "The example is neither CSV nor Parquet nor JSON nor npy",
                where=str(path),
                remedy="write a few rows as CSV with a header",
            )
        else:
            example = _of_csv(path)
    except (ValueError, ImportError, OSError) as error:
        raise PackageError(
            f"The example cannot be read: {' '.join(str(error).split())}", where=str(path)
        ) from error
    if not len(example):
        raise PackageError("The example has no rows", where=str(path), remedy="add a row")
    return example


def features_of(
    example: ExampleRows,
    names: Sequence[str] | None,
    width: int | None,
    target: str | None,
    where: str,
) -> ExampleRows:
    """Leave out the columns that are no features, and put the others into the model's order.

    Parameters
    ----------
    names
        The model's own columns; None where it knows no names.
    width
        How many columns the model takes; None where it does not say.
    target
        The column that is no feature, where somebody said so.
    where
        The file, for errors.

    Raises
    ------
    PackageError
        Columns of the model are missing, or nobody can know which columns are the model's.
    """
    frame = example.frame
    if frame is None:
        return example
    if target is not None and target not in example.names:
        raise PackageError(
            f"The example has no column {target}",
            where=where,
            remedy=f"its columns are {_listed(example.names)}",
        )
    if names is not None and example.names:
        missing = [name for name in names if name not in example.names]
        if missing:
            raise PackageError(
                f"The example lacks columns that the model was trained with: {_listed(missing)}",
                where=where,
                remedy=f"it has {_listed(example.names)}; the model takes {_listed(names)}",
            )
        return _chosen(example, list(names))
    kept = [name for name in frame.columns if target is None or name != target]
    if width is not None and len(kept) == width + 1 and target is None:
        conventional = [name for name in kept if str(name).lower() in _TARGETS]
        if len(conventional) == 1:
            kept.remove(conventional[0])
    if width is not None and len(kept) != width:
        raise PackageError(
            f"The example has {len(kept)} columns, and the model takes {width}",
            where=where,
            remedy="give it the model's columns alone, in the order of training; one that is the "
            "target may be named: --target COLUMN",
        )
    return _chosen(example, kept)


def _chosen(example: ExampleRows, kept: list[Any]) -> ExampleRows:
    left_out = tuple(str(name) for name in example.frame.columns if name not in kept)
    names = tuple(map(str, kept)) if example.names else ()
    return ExampleRows(example.frame[kept], (), names, left_out)


def _of_frame(frame: Any, *, named: bool = True) -> ExampleRows:
    if named:
        doubles = frame.columns[frame.columns.duplicated()]
        if len(doubles):
            raise ValueError(f"two columns are called {doubles[0]}")
        frame.columns = [str(name) for name in frame.columns]
    # What pandas.DataFrame.to_csv and to_parquet leave of an index is no column.
    unnamed = [name for name in frame.columns if str(name).startswith(("Unnamed: 0", "__index_"))]
    frame = frame.drop(columns=unnamed).reset_index(drop=True)
    return ExampleRows(frame, (), tuple(map(str, frame.columns)) if named else ())


def _of_csv(path: Path) -> ExampleRows:
    pandas = _pandas(path)
    frame = pandas.read_csv(path)
    # A first line of numbers is a row, which pandas took for names.
    if all(_is_number(str(name)) for name in frame.columns):
        return _of_frame(pandas.read_csv(path, header=None), named=False)
    return _of_frame(frame)


def _of_json(path: Path) -> ExampleRows:
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except ValueError:
        content = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(content, dict):
        content = _rows_of_object(content, path)
        if isinstance(content, ExampleRows):
            return content
    if not isinstance(content, list):
        raise ValueError(f"expected {_MEMBERS}")  # noqa: TRY004  the file's content is wrong
    return _of_rows(content, path)


def _rows_of_object(content: dict[str, Any], path: Path) -> Any:
    split = content.get("dataframe_split", content)
    if isinstance(split, dict) and {"columns", "data"} <= set(split):
        return _of_frame(_pandas(path).DataFrame(split["data"], columns=split["columns"]))
    for name in _ROW_MEMBERS:
        if name in content:
            rows = content[name]
            return _columns(rows, path) if isinstance(rows, dict) else rows
    if content and all(isinstance(value, list) for value in content.values()):
        return _columns(content, path)
    if content and not any(isinstance(value, (list, dict)) for value in content.values()):
        return [content]  # a single record
    raise ValueError(f"expected {_MEMBERS}; it has {_listed(list(content))}")


def _columns(columns: dict[str, Any], path: Path) -> ExampleRows:
    values = list(columns.values())
    if all(isinstance(value, list) and not _is_nested(value) for value in values):
        return _of_frame(_pandas(path).DataFrame(columns))
    # Tensors by name: a row has a part of each.
    rows = [dict(zip(columns, parts, strict=True)) for parts in zip(*values, strict=True)]
    return ExampleRows(None, tuple(rows))


def _of_rows(rows: list[Any], path: Path) -> ExampleRows:
    if rows and all(isinstance(row, dict) for row in rows):
        if any(isinstance(value, (list, dict)) for row in rows for value in row.values()):
            return ExampleRows(None, tuple(rows))
        return _of_frame(_pandas(path).DataFrame(rows))
    if rows and all(isinstance(row, list) and not _is_nested(row) for row in rows):
        return _of_frame(_pandas(path).DataFrame(rows), named=False)
    return ExampleRows(None, tuple(rows))


def _is_nested(row: list[Any]) -> bool:
    return any(isinstance(cell, (list, dict)) for cell in row)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pandas(path: Path) -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise missing_library("pandas", path) from error
    return pd


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def signature_beside(artifact: Path) -> Signature | None:
    """Return the signature that the training wrote beside its artefact; None if it wrote none.

    Raises
    ------
    PackageError
        There is a signature.json, and it is none.
    """
    try:
        return Signature.read(artifact.parent)
    except ValueError as error:
        raise PackageError(
            str(error),
            where=str(artifact.parent / FILE_NAME),
            remedy="write it anew: mmekit.signature(X, y, model).to_json()",
        ) from error


def signature_for(
    inspected: Inspected, frame: Any, written: Signature | None, *, y: Any = None
) -> Signature | None:
    """Return what the model takes; None where nobody knows the names of its columns.

    Parameters
    ----------
    frame
        The example's columns, in the model's order; None without an example.
    written
        What MLflow wrote down; an example counts more.
    y
        What the model answers to the example, for the outputs.

    Raises
    ------
    PackageError
        The model's columns hold categories, and nobody says what their order was in training.
    """
    told = inspected.signature or signature_of(inspected.model)
    if frame is not None:
        signature: Signature | None = signature_of_table(frame, y, inspected.model)
    else:
        signature = written or told
    if signature is None:
        return None
    known = {} if told is None else {column.name: column for column in told.inputs}
    gaps = told is None and bool(takes_missing(inspected.model))
    columns = tuple(
        _completed(column, known.get(column.name), inspected, gaps=gaps)
        for column in signature.inputs
    )
    _check_categories(columns, inspected)
    is_frame = told.frame if told is not None and signature.frame is None else signature.frame
    # An estimator of XGBoost takes categories in a frame alone.
    is_frame = inspected.frames and (is_frame or bool(inspected.coded))
    return Signature(columns, signature.outputs, is_frame)


def _completed(column: Column, told: Column | None, inspected: Inspected, *, gaps: bool) -> Column:
    if told is not None and inspected.signature is not None:
        return told  # the file says its columns' types itself
    categories = (inspected.categories or {}).get(column.name)
    if categories is not None:
        return _category(column, categories)
    if column.type == "any" and inspected.categories is not None:
        return replace(column, type="double", dtype="float64", missing=True)
    if told is not None:
        column = replace(
            column,
            known=told.known or column.known,
            missing=column.missing or told.missing,
        )
    is_number = column.is_number or column.type == "boolean"
    if gaps and is_number:
        column = replace(column, missing=True)
    computes = told.type == "double" if told is not None else inspected.computes
    if computes and column.type in ("integer", "long") and column.is_number:
        # Whole by chance, for all that anybody knows: the model computes with it as with any other.
        return replace(column, type="double", dtype="float64")
    return column


def _category(column: Column, values: tuple[Any, ...]) -> Column:
    kinds: Mapping[type, str] = {str: "string", bool: "boolean", int: "long", float: "double"}
    found = {type(value) for value in values}
    kind = kinds.get(found.pop(), "any") if len(found) == 1 else "any"
    return Column(column.name, kind, dtype="category", categories=values, missing=True)


def _check_categories(columns: tuple[Column, ...], inspected: Inspected) -> None:
    for column in columns:
        if column.name in inspected.coded and column.categories is None:
            raise PackageError(
                f"The column {column.name} holds categories: the model knows their places in the "
                "order of training, and not what they are called",
                where=str(inspected.path),
                remedy="write signature.json beside the artefact when training: "
                "mmekit.signature(X, y).to_json(); or give rows of the training's DataFrame as "
                "--example in Parquet, which keeps its categories",
            )
