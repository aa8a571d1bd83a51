"""Bodies like a sample's with other rows: what a sample is answered together with.

They are made without knowing the model. Some will be refused; `mmekit.archive.proof` asks.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmekit_runtime import media_types
from mmekit_runtime.media_types import media_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mmekit_runtime.signature import Signature

# More than `mmekit.archive.proof` uses, as a model refuses some.
_MOST = 16
_ROWS = ("instances", "inputs", "dataframe_records", "dataframe_split")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_NULLS = 3  # columns in which a missing value is tried


def variants(
    body: bytes, content_type: str, signature: Signature | None = None
) -> tuple[bytes, ...]:
    """Return bodies of other rows and other numbers of rows, the most different first.

    Parameters
    ----------
    body, content_type
        A sample request: JSON, JSON lines, CSV, plain text, npy, npz, Parquet, PNG or JPEG. There
        are no variants of anything else.
    signature
        Tells which values a column may have.
    """
    make = _MAKERS.get(media_type(content_type)[0])
    if make is None:
        return ()
    try:
        made = dict.fromkeys(make(body, signature))
    except (ArithmeticError, KeyError, OSError, RecursionError, ValueError, csv.Error):
        return ()  # not what its content type says: the handler reads it in a way of its own
    made.pop(body, None)
    return tuple(made)[:_MOST]


@dataclass(frozen=True)
class _Change:
    """What a variant does to cells; None leaves those of that kind as they are."""

    number: Callable[[float], float] | None
    text: Callable[[str], str] | None


def _reworded(text: str) -> str:
    return _on_day(text, "11") or " ".join(["not", *reversed(text.split())])


def _longer(text: str) -> str:
    return _on_day(text, "21") or f"{text}, {text} and more"


def _on_day(text: str, day: str) -> str | None:
    return text[:8] + day + text[10:] if _DATE.match(text) else None


_STRONG = _Change(lambda number: 2 * number + 1, _reworded)
_NUMBERS = _Change(lambda number: 2 * number + 1, None)
_WORDS = _Change(lambda number: number + 1, _longer)
_SLIGHT = _Change(lambda number: 1.1 * number, None)
_SWAPPED = _Change(None, None)


class _SampleTable:
    """Rows of a body, each an object, a list or a single cell."""

    def __init__(self, rows: list[Any], names: Sequence[str], signature: Signature | None) -> None:
        self.rows = rows
        self._names = names
        self._values: dict[Any, list[Any]] = {}
        self._known: set[str] = set()
        for row in rows:
            for key, cell in _cells(row):
                self._values.setdefault(self._key(key), []).append(cell)
        for column in signature.inputs if signature is not None else ():
            among = column.known if column.known is not None else column.categories
            if among is not None:
                self._values[column.name] = list(among)
                self._known.add(column.name)

    def variants(self) -> Iterator[list[Any]]:
        """Yield lists of other rows."""
        swapped = [self._changed(row, _SWAPPED) for row in self.rows]
        strong = [self._changed(row, _STRONG) for row in self.rows]
        numbers = [self._changed(row, _NUMBERS) for row in self.rows]
        words = [self._changed(row, _WORDS) for row in self.rows]
        slight = [self._changed(row, _SLIGHT) for row in self.rows]
        made = [
            strong[:1],
            [*numbers, *reversed(numbers)],
            [*words, *strong],
            swapped,
            [*slight[::-1], *self.rows],
            strong,
            words,
            numbers[-1:],
            slight,
            [*self.rows, *swapped],
            self.rows[1:],
            self.rows[-1:],
            self.rows[:1],
            *self._with_gaps(),
        ]
        there = _set(self.rows)
        # The same rows again would not tell apart what looks at all of them.
        yield from (rows for rows in made if rows and _set(rows) != there)

    def _changed(self, row: Any, change: _Change) -> Any:
        if isinstance(row, dict):
            return {name: self._cell(cell, name, change) for name, cell in row.items()}
        if isinstance(row, list):
            return [self._cell(cell, place, change) for place, cell in enumerate(row)]
        return self._cell(row, 0, change)

    def _cell(self, cell: Any, key: Any, change: _Change) -> Any:
        if isinstance(cell, (dict, list)):
            return self._changed(cell, change)
        # Before the numbers: to Python, True is an int.
        if isinstance(cell, bool):
            return not cell
        if isinstance(cell, str) and change.text is not None and not self._is_known(key):
            return change.text(cell)
        if isinstance(cell, (int, float)) and change.number is not None and not self._is_known(key):
            number = change.number(cell)
            if isinstance(cell, float):
                return number
            return int(number) if int(number) != cell else cell + 1
        others = [one for one in self._values.get(self._key(key), ()) if one != cell]
        return others[0] if others else cell

    def _with_gaps(self) -> Iterator[list[Any]]:
        row = self.rows[0]
        if not isinstance(row, (dict, list)):
            return
        for key in [key for key, _ in _cells(row)][:_NULLS]:
            gap = row.copy()
            gap[key] = None
            yield [gap]

    def _key(self, key: Any) -> Any:
        if isinstance(key, int) and key < len(self._names):
            return self._names[key]
        return key

    def _is_known(self, key: Any) -> bool:
        return self._key(key) in self._known


def _cells(row: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(row, dict):
        return row.items()
    return enumerate(row) if isinstance(row, list) else [(0, row)]


def _set(rows: Iterable[Any]) -> set[str]:
    return {json.dumps(row, sort_keys=True, default=str) for row in rows}


def _of_json(body: bytes, signature: Signature | None) -> Iterator[bytes]:
    content = json.loads(body)
    rows, names, rebuilt = _located(content, signature)
    if rows:
        for other in _SampleTable(rows, names, signature).variants():
            yield json.dumps(rebuilt(other), ensure_ascii=False).encode()


def _located(
    content: Any, signature: Signature | None
) -> tuple[list[Any], Sequence[str], Callable[[list[Any]], Any]]:
    """Return the rows of a JSON body, their columns' names, and what puts others in their place."""
    names = signature.names if signature is not None else ()
    if isinstance(content, list):
        return content, names, lambda rows: rows
    member = next((name for name in _ROWS if isinstance(content, dict) and name in content), None)
    if member is None:
        return [content], names, lambda rows: rows[0]
    inside = content[member]
    if member == "dataframe_split":
        names = inside.get("columns", names)
        return inside["data"], names, lambda rows: {**content, member: {**inside, "data": rows}}
    if isinstance(inside, dict):
        columns = {name: one if isinstance(one, list) else [one] for name, one in inside.items()}
        records = [
            dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)
        ]
        return records, names, lambda rows: {**content, member: _by_column(rows)}
    rows = inside if isinstance(inside, list) else [inside]
    return rows, names, lambda rows: {**content, member: rows}


def _by_column(rows: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _of_json_lines(body: bytes, signature: Signature | None) -> Iterator[bytes]:
    rows = [json.loads(line) for line in body.decode("utf-8-sig").splitlines() if line.strip()]
    names = signature.names if signature is not None else ()
    for other in _SampleTable(rows, names, signature).variants() if rows else ():
        yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in other).encode()


def _of_csv(body: bytes, signature: Signature | None) -> Iterator[bytes]:
    lines = [line for line in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline="")) if line]
    rows = [[_read(cell) for cell in line] for line in lines]
    # A first line without numbers may be one of names; it stays, whatever it is.
    has_head = len(rows) > 1 and all(isinstance(cell, str) for cell in rows[0])
    head = lines[:1] if has_head else []
    names = head[0] if head else signature.names if signature is not None else ()
    for other in _SampleTable(rows[len(head) :], names, signature).variants() if rows else ():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*head, *other])
        yield text.getvalue().encode()


def _read(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def _of_text(body: bytes, _: Signature | None) -> Iterator[bytes]:
    rows: list[Any] = [line for line in body.decode("utf-8-sig").splitlines() if line.strip()]
    for other in _SampleTable(rows, (), None).variants() if rows else ():
        yield "".join(f"{row}\n" for row in other).encode()


def _of_npy(body: bytes, _: Signature | None) -> Iterator[bytes]:
    import numpy as np

    array = np.load(io.BytesIO(body), allow_pickle=False)
    for (other,) in _of_arrays([array]):
        buffer = io.BytesIO()
        np.save(buffer, other, allow_pickle=False)
        yield buffer.getvalue()


def _of_npz(body: bytes, _: Signature | None) -> Iterator[bytes]:
    import numpy as np

    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for others in _of_arrays(list(arrays.values())):
        buffer = io.BytesIO()
        np.savez(buffer, **dict(zip(arrays, others, strict=True)))
        yield buffer.getvalue()


def _of_arrays(arrays: list[Any]) -> Iterator[list[Any]]:
    import numpy as np

    def changed(array: Any, factor: float, more: float) -> Any:
        if array.dtype.kind not in "iuf":
            return array[::-1]
        return (array * factor + more).astype(array.dtype)

    if any(array.ndim == 0 or not len(array) for array in arrays):
        return
    other = [changed(array, 2, 1) for array in arrays]
    slight = [changed(array, 1.1, 0) for array in arrays]
    yield [array[:1] for array in other]
    yield [np.concatenate([array, array[::-1]]) for array in other]
    yield slight
    yield other
    yield [array[-1:] for array in arrays]
    yield [np.concatenate(pair) for pair in zip(slight, arrays, strict=True)]


def _of_parquet(body: bytes, signature: Signature | None) -> Iterator[bytes]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        return
    table = parquet.read_table(pa.BufferReader(body))
    rows = table.to_pylist()
    for other in _SampleTable(rows, table.column_names, signature).variants() if rows else ():
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(other, table.schema), buffer)
        yield buffer.getvalue()


def _of_image(body: bytes, _: Signature | None) -> Iterator[bytes]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        return
    with Image.open(io.BytesIO(body)) as image:
        kind = image.format or "PNG"
        pixels = image.convert("L" if image.mode in ("1", "L", "I;16") else "RGB")
    quarter = (max(1, pixels.width // 2), max(1, pixels.height // 2))
    for other in (ImageOps.invert(pixels), ImageOps.flip(pixels), pixels.crop((0, 0, *quarter))):
        buffer = io.BytesIO()
        other.save(buffer, kind)
        yield buffer.getvalue()


_MAKERS: Mapping[str, Callable[[bytes, Signature | None], Iterator[bytes]]] = {
    media_types.JSON: _of_json,
    media_types.JSON_LINES: _of_json_lines,
    media_types.CSV: _of_csv,
    media_types.TEXT: _of_text,
    media_types.NPY: _of_npy,
    media_types.NPZ: _of_npz,
    media_types.PARQUET: _of_parquet,
    media_types.JPEG: _of_image,
    media_types.PNG: _of_image,
}
