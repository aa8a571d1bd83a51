"""Any table comes back in any format as the one that the model was trained on, or is refused."""

from __future__ import annotations

import datetime as dt
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmekit
from mmekit_runtime import Request, TableHandler

JSON, CSV = "application/json", "text/csv; header=present"
PARQUET, ARROW = "application/x-parquet", "application/vnd.apache.arrow.stream"


class Returning(TableHandler):
    """Keeps the table that predict got."""

    frame = True

    def load(self, folder: Path) -> None:
        return None

    def predict(self, model: None, table, parameters):
        self.table = table
        return list(range(len(table)))


# Names and texts that have a meaning elsewhere.
NAMES = [
    "a", "A", "a ", " a", "a,b", 'q"x', "x;y", "ø", "日本", "true", "1", "0", "1.5", "NA", "null",
    "text", "features", "inputs", "f0", "x1", "index", "Unnamed: 0", "two\nlines", "\u2028", "inf",
]  # fmt: skip
TEXTS = [
    "Oslo", "01", "1", "1.0", "true", "NA", "a,b", 'say "x"', "two\nlines", "cr\r\nlf", " lead",
    "trail ", "  ", "ø日本", "1e5", "-", "\u2028", "null", "None", "nan", "inf", "1_0", "a", "\t",
    "b\ufeff", "\x0c", "+1", "2026-01-01",
]  # fmt: skip
NUMBERS = [0.1, 1.5, -2.25, 1e30, 3.0, 1e-300, 123456789.123456789, 0.30000000000000004]
WHOLE = [0, 1, 100, (1 << 60) + 1, -(1 << 63), (1 << 63) - 1]
TIMES = ["2026-03-01T12:00:00", "1999-12-31T23:59:59", "2024-02-29T00:00:00"]

# What a column holds, whether it may have gaps, and how pandas makes one of it.
KINDS = {
    "float64": (NUMBERS, True, lambda cells: pd.Series(cells, dtype="float64")),
    "float32": ([0.1, 2.7, 3.0], True, lambda cells: pd.Series(cells, dtype="float32")),
    "int64": (WHOLE, False, lambda cells: pd.Series(cells, dtype="int64")),
    "uint8": ([0, 7, 255], False, lambda cells: pd.Series(cells, dtype="uint8")),
    "Int64": (WHOLE, True, lambda cells: pd.Series(cells, dtype="Int64")),
    "Float32": ([0.1, 2.7], True, lambda cells: pd.Series(cells, dtype="Float32")),
    "bool": ([True, False], False, lambda cells: pd.Series(cells, dtype=bool)),
    "boolean": ([True, False], True, lambda cells: pd.Series(cells, dtype="boolean")),
    "bool objects": ([True, False], True, lambda cells: pd.Series(cells, dtype=object)),
    "str": (TEXTS, True, lambda cells: pd.Series(cells, dtype="str")),
    "string": (TEXTS, True, lambda cells: pd.Series(cells, dtype="string")),
    "text objects": (TEXTS, True, lambda cells: pd.Series(cells, dtype=object)),
    "category": (TEXTS, True, lambda cells: pd.Series(pd.Categorical(cells, TEXTS[::-1]))),
    "ordered": ([3, 1, 2], True, lambda cells: pd.Series(pd.Categorical(cells, [3, 1, 2], True))),
    "moments": (TIMES, True, lambda cells: pd.to_datetime(pd.Series(cells, dtype=object))),
    "seconds": (TIMES, True, lambda cells: pd.Series(cells, dtype="datetime64[s]")),
    "zoned": (
        TIMES,
        True,
        lambda cells: pd.to_datetime(pd.Series(cells, dtype=object)).dt.tz_localize("Europe/Oslo"),
    ),
    "dates": ([dt.date(1980, 1, 2), dt.date(2026, 5, 6)], True,
              lambda cells: pd.Series(cells, dtype=object)),
    "times": ([dt.time(1, 2), dt.time(23, 59, 59, 123)], True,
              lambda cells: pd.Series(cells, dtype=object)),
}  # fmt: skip


@st.composite
def tables(draw) -> pd.DataFrame:
    count = draw(st.integers(1, 4))
    columns = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)):
        cells, has_gaps, make = KINDS[draw(st.sampled_from(sorted(KINDS)))]
        some = st.sampled_from(cells)
        one = st.one_of(st.none(), some) if has_gaps and draw(st.booleans()) else some
        columns[name] = make(draw(st.lists(one, min_size=count, max_size=count)))
    return pd.DataFrame(columns)


def plain(value: object) -> object:
    if pd.isna(value):
        return None
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value


def bodies_of(table: pd.DataFrame, order: list[str]):
    columns = {name: [plain(one) for one in table[name].astype(object)] for name in order}
    rows = [list(row) for row in zip(*(columns[name] for name in table.columns), strict=True)]
    records = [dict(zip(order, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    split = {"columns": order, "data": [list(one.values()) for one in records]}
    for content in (rows, {"instances": records}, {"inputs": columns}, {"dataframe_split": split}):
        yield json.dumps(content).encode(), JSON
    lines = "\n".join(json.dumps(one, ensure_ascii=False) for one in records)
    yield lines.encode(), "application/jsonlines"
    for quoting in (0, 1):
        for end, encoding in (("\n", "utf-8"), ("\r\n", "utf-8-sig")):
            options = {"index": False, "quoting": quoting, "lineterminator": end}
            yield table[order].to_csv(**options).encode(encoding), CSV
    yield table.to_csv(index=False, header=False).encode(), "text/csv; header=absent"
    yield table[order].to_parquet(), PARQUET
    stored, streamed = io.BytesIO(), io.BytesIO()
    frame = pl.from_pandas(table[order])
    frame.write_parquet(stored)
    frame.write_ipc_stream(streamed)
    yield stored.getvalue(), PARQUET
    yield streamed.getvalue(), ARROW


def check(table: pd.DataFrame, order: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "signature.json").write_bytes(mmekit.signature(table).to_json())
        handler = Returning()
        handler.prepare(Path(folder))
    requests = [Request(*body) for body in bodies_of(table, order)]

    for request in requests:
        reply = handler.answer([request])[0]
        assert reply.status == 200, (request, reply.body)
        pd.testing.assert_frame_equal(handler.table, table, check_exact=True)

    batch = handler.answer(requests)
    assert [json.loads(reply.body)["predictions"] for reply in batch] == [
        [place * len(table) + row for row in range(len(table))] for place in range(len(requests))
    ]


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables(), st.randoms())
def test_a_table_is_the_same_in_every_format(table, random):
    check(table, random.sample(list(table.columns), len(table.columns)))


@pytest.mark.thorough
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables(), st.randoms())
def test_many_tables_are_the_same_in_every_format(table, random):
    check(table, random.sample(list(table.columns), len(table.columns)))
