"""Parquet and Arrow, taken to pieces with pyarrow where it is there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mmekit_runtime.bodies import Content, columns_of, listed, refuse_size
from mmekit_runtime.media_types import PARQUET
from mmekit_runtime.messages import RequestError

_CELL = 8


class Zoned(np.ndarray[Any, Any]):
    """Moments in UTC of a column that has a zone."""


def read_arrow(body: bytes, kind: str) -> Content:
    """Read Parquet or Arrow (a stream or a file) with pyarrow; 415 where there is none."""
    try:
        import pyarrow as pa
        from pyarrow import ipc, parquet, types
    except ImportError as error:
        raise RequestError(
            415,
            "a content type other than Parquet and Arrow, for which this model has no pyarrow",
            kind,
        ) from error
    try:
        if kind == PARQUET:
            file = parquet.ParquetFile(pa.BufferReader(body))
            kinds = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
            # Equal texts are kept once, as in the file, until it is known how much they are.
            texts = [
                column.name
                for column in file.schema_arrow
                if any(is_kind(column.type) for is_kind in kinds)
            ]
            file = parquet.ParquetFile(pa.BufferReader(body), read_dictionary=texts)
            groups = range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
            # Equal values take next to no bytes, however many they are.
            cells = file.metadata.num_rows * file.metadata.num_columns
            refuse_size(max(size, cells * _CELL), kind)
            table = file.read()
        elif bytes(body[:6]) == b"ARROW1":
            table = ipc.open_file(pa.BufferReader(body)).read_all()
        else:
            table = ipc.open_stream(pa.BufferReader(body)).read_all()
    except RequestError:
        raise
    except Exception as error:  # whatever pyarrow says of bytes that somebody has sent
        received = f"bytes that pyarrow cannot read ({type(error).__name__}: {error})"[:300]
        raise RequestError(400, f"a table as {kind}", received) from error
    refuse_size(max(table.nbytes, table.num_rows * table.num_columns * _CELL), kind)
    index = _index_columns(table.schema)
    names = [name for name in table.column_names if name not in index]
    if len(set(names)) != len(names):
        raise RequestError(400, "columns of different names", listed(names))
    return Content(columns=columns_of({name: _cells(table.column(name), kind) for name in names}))


def _index_columns(schema: Any) -> set[str]:
    """Return the columns that pandas wrote for a frame's index, which is none of its columns."""
    try:
        said = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, ValueError, TypeError):
        return set()
    return {name for name in said if isinstance(name, str) and name.startswith("__index_level_")}


def _cells(column: Any, kind: str) -> Any:
    from pyarrow import types

    if types.is_dictionary(column.type):
        return _of_dictionary(column, kind)
    numeric = types.is_integer(column.type) or types.is_floating(column.type)
    if types.is_timestamp(column.type):
        moments = column.to_numpy()
        return moments if column.type.tz is None else moments.view(Zoned)
    return column.to_numpy() if numeric and not column.null_count else column.to_pylist()


def _of_dictionary(column: Any, kind: str) -> list[Any]:
    """Return values that are kept once, each as one object."""
    cells: list[Any] = []
    size = 0
    for chunk in column.chunks:
        values = chunk.dictionary.to_pylist()
        sizes = [len(value) if isinstance(value, (str, bytes)) else 0 for value in values]
        places = chunk.indices.to_pylist()
        size += sum(sizes[place] for place in places if place is not None)
        refuse_size(size, kind)
        cells += [None if place is None else values[place] for place in places]
    return cells
