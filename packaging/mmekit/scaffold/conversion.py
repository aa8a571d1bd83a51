"""From a pickle, which runs code when it is loaded, to a skops file, which does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit.errors import PackageError
from mmekit.scaffold.pickles import missing_library
from mmekit_runtime.libraries.scikit_learn import HARMLESS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def unknown_types(model: Any) -> tuple[str, ...] | None:
    """Return the types in a model that skops does not know; None when it cannot hold the model."""
    try:
        from skops.io import dumps, get_untrusted_types

        found = get_untrusted_types(data=dumps(model))
        return tuple(name for name in found if name not in HARMLESS)
    except Exception:  # noqa: BLE001  skops raises whatever it meets in what it cannot hold
        return None


def convert(model: Any, asked: Any, path: Path, trusted: Sequence[str], where: str) -> None:
    """Write a model as a skops file, once what it answers is the same.

    Parameters
    ----------
    model
        The estimator.
    asked
        Rows to compare the answers on, as the estimator takes them.
    path
        The file to write.
    trusted
        The types that skops does not know and the user does.
    where
        The pickle, for errors.

    Raises
    ------
    PackageError
        skops cannot hold the model, does not know a type of it, or the copy answers otherwise.
    """
    try:
        from skops.io import dumps, loads
    except ImportError as error:
        raise missing_library("skops", path) from error
    unknown = unknown_types(model)
    if unknown is None:
        raise PackageError(
            f"skops cannot hold this {type(model).__name__}",
            where=where,
            remedy="leave --convert-to-skops out: the pickle is served as it is",
        )
    left = [name for name in unknown if name not in trusted]
    if left:
        options = " ".join(f"--trust {name}" for name in left)
        raise PackageError(
            f"The model holds types that skops does not know: {', '.join(left)}",
            where=where,
            remedy=f"if you trust them, say so: {options}",
        )
    data = dumps(model)
    copy = loads(data, trusted=[*trusted, *HARMLESS])
    for method in ("predict", "predict_proba", "transform"):
        if hasattr(model, method) and not _equal(
            getattr(model, method)(asked), getattr(copy, method)(asked)
        ):
            raise PackageError(
                f"The model answers otherwise after skops ({method} on the example)",
                where=where,
                remedy="leave --convert-to-skops out: the pickle is served as it is",
            )
    path.write_bytes(data)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    one, other = (part.toarray() if hasattr(part, "toarray") else part for part in (one, other))
    left, right = np.asarray(one), np.asarray(other)
    if left.dtype.kind == "f":
        return bool(np.array_equal(left, right, equal_nan=True))
    return bool(np.array_equal(left, right))
