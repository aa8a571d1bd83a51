"""Which rows of several requests may be answered by one call, and putting them together.

Joining is only done where it is known how: arrays, lists, pandas and polars frames, scipy's sparse
matrices, and a tuple or dict of these. Anything else would have to be iterated over, which yields
the column names of a frame and the keys of a dict; it is answered alone.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_STRINGS = "US"


def row_count(rows: Any) -> int | None:
    """Return how many rows there are; None for what nobody knows how to count.

    Examples
    --------
    >>> row_count({"age": np.array([41, 7]), "city": ["Oslo", "Bergen"]})
    2
    >>> row_count("Oslo")
    """
    if type(rows) is dict or type(rows) is tuple:
        counts = {row_count(part) for part in (rows.values() if type(rows) is dict else rows)}
        return counts.pop() if len(counts) == 1 else None
    if type(rows) is list or _is_frame(rows):
        return len(rows)
    if isinstance(rows, np.ndarray) or _is_sparse(rows):
        return int(rows.shape[0]) if rows.ndim else None
    return None


def kind_of(rows: Any) -> Hashable | None:  # noqa: PLR0911  a kind each
    """Return what has to be equal for rows to be joined; None for what is answered alone."""
    # Exact types: joining a subclass, such as a masked array, would lose what makes it one.
    kind = type(rows)
    if kind is np.ndarray:
        if not rows.ndim:
            return None
        dtype = rows.dtype.kind if rows.dtype.kind in _STRINGS else rows.dtype
        return (kind, dtype, rows.shape[1:])
    if kind is list:
        return kind
    if kind is dict or kind is tuple:
        return _kind_of_parts(rows)
    if _is_frame(rows):
        return _kind_of_pandas(rows) if _is_of("pandas", rows) else (kind, *rows.schema.items())
    if _is_sparse(rows):
        return (kind, rows.dtype, rows.shape[1:])
    return None


def joined(parts: Sequence[Any]) -> Any:  # noqa: PLR0911  a kind each
    """Return the rows of all parts, which are of one kind, in their order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if type(first) is np.ndarray:
        return np.concatenate(parts)
    if type(first) is list:
        return [row for part in parts for row in part]
    if type(first) is dict:
        return {name: joined([part[name] for part in parts]) for name in first}
    if type(first) is tuple:
        return tuple(joined(members) for members in zip(*parts, strict=True))
    if _is_sparse(first):
        return sys.modules["scipy.sparse"].vstack(parts, format=first.format)
    if _is_of("pandas", first):
        return sys.modules["pandas"].concat(parts, ignore_index=True)
    return sys.modules["polars"].concat(parts)


def alike(one: Any, other: Any) -> bool:  # noqa: PLR0911  a kind of value each
    """Whether two values are of equal type and content, arrays in them included.

    >>> alike({"weights": np.array([1.0])}, {"weights": np.array([1.0])}), alike(1, True)
    (True, False)
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        # Order is compared too: it is what a handler sees when it iterates.
        return list(one) == list(other) and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray):
        same = one.dtype == other.dtype and one.shape == other.shape
        return same and bool(np.array_equal(one, other))
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001  whatever a comparison raises, or does not say yes or no to
        return False


def _kind_of_parts(rows: dict[Any, Any] | tuple[Any, ...]) -> Hashable | None:
    if row_count(rows) is None:
        return None
    parts = rows.values() if isinstance(rows, dict) else rows
    kinds = tuple(map(kind_of, parts))
    if None in kinds:
        return None
    return (type(rows), tuple(rows) if isinstance(rows, dict) else None, kinds)


def _kind_of_pandas(frame: Any) -> Hashable | None:
    index = frame.index
    # Rows that are called by something else than their place would get names twice.
    if type(index).__name__ != "RangeIndex" or index.start != 0 or index.step != 1:
        return None
    # Two dtypes of the same categories in another order are equal to pandas, and not to a model.
    dtypes = tuple(
        (dtype, tuple(dtype.categories)) if hasattr(dtype, "categories") else dtype
        for dtype in frame.dtypes
    )
    return (type(frame), tuple(frame.columns), dtypes)


def _is_frame(rows: Any) -> bool:
    return type(rows).__name__ == "DataFrame" and (_is_of("pandas", rows) or _is_of("polars", rows))


def _is_of(library: str, rows: Any) -> bool:
    module = sys.modules.get(library)
    return module is not None and type(rows) is getattr(module, "DataFrame", None)


def _is_sparse(rows: Any) -> bool:
    module = sys.modules.get("scipy.sparse")
    return module is not None and bool(module.issparse(rows))
