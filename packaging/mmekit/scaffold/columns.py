"""The signature of a new package: what the training wrote down, the example shows, the model tells.

An example is an excerpt: that a column holds whole numbers in it, or no gaps, says nothing of the
training. What the model itself tells counts more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmekit.errors import PackageError
from mmekit.signatures import signature as signature_of_table
from mmekit_runtime.estimators import signature_of, takes_missing
from mmekit_runtime.signature import FILE_NAME, Column, Signature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmekit.scaffold.inspected import Inspected


def beside(artifact: Path) -> Signature | None:
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
