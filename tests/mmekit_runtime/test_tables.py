"""Tables: whatever order and format a request has, a model gets what it was trained on."""

from __future__ import annotations

import datetime as dt
import io
import json
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

import mmekit
import mmekit.errors
from mmekit_runtime import Handler, Request, Signature, TableHandler

if TYPE_CHECKING:
    from pathlib import Path

TRAINED = pd.DataFrame(
    {
        "age": [41.0, np.nan, 30.0],
        "rooms": [3, 4, 5],
        "floor": pd.array([1, None, 2], "Int64"),
        "city": ["Oslo", "Bergen", None],
        "vip": [True, False, True],
        "heating": pd.Categorical(["gas", "wood", None], ["wood", "gas", "oil"], ordered=True),
        "seen": pd.to_datetime(["2026-03-01T12:00", "2026-03-02T00:00", None]),
        "born": [dt.date(1980, 1, 2), None, dt.date(1990, 5, 6)],
        "at": [dt.time(12, 30), dt.time(8), dt.time(9)],
    }
)


class Returning(TableHandler):
    """Keeps the table that predict got."""

    def load(self, folder: Path) -> None:
        return None

    def predict(self, model: None, table, parameters):
        self.table = table
        return list(range(len(table)))


@pytest.fixture
def handler(tmp_path):
    (tmp_path / "signature.json").write_bytes(mmekit.signature(TRAINED).to_json())
    handler = Returning()
    handler.prepare(tmp_path)
    return handler


def ask(handler: Handler, body: object, content_type: str = "application/json"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return handler.answer([Request(data, content_type)])[0]


def plain(value):
    if pd.isna(value):
        return None
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value


NAMES = list(TRAINED.columns)
ROWS = [[plain(value) for value in row] for row in TRAINED.astype(object).to_numpy()]
RECORDS = [dict(zip(reversed(NAMES), reversed(row), strict=True)) for row in ROWS]


def csv_of(frame: pd.DataFrame, **options) -> bytes:
    return frame.to_csv(index=False, **options).encode()


def parquet_of() -> bytes:
    return TRAINED[NAMES[::-1]].to_parquet()


def arrow_stream() -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pandas(TRAINED)
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def arrow_file() -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pandas(TRAINED)
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


BODIES = {
    "records": ({"instances": RECORDS}, "application/json"),
    "rows": ({"instances": ROWS}, "application/json"),
    "a list": (RECORDS, "application/json"),
    "inputs": ({"inputs": RECORDS}, ""),
    "columns": (
        {"inputs": {name: [row[name] for row in RECORDS] for name in sorted(NAMES)}},
        "application/json",
    ),
    "split": (
        {"dataframe_split": {"columns": NAMES[::-1], "data": [row[::-1] for row in ROWS]}},
        "application/json",
    ),
    "split with an index": (
        {"dataframe_split": {"index": [7, 8, 9], "columns": NAMES, "data": ROWS}},
        "application/json",
    ),
    "dataframe_records": ({"dataframe_records": RECORDS}, "application/json"),
    "lines of objects": (
        "\n".join(map(json.dumps, RECORDS)).encode(),
        "application/jsonlines",
    ),
    "lines of lists": ("\n".join(map(json.dumps, ROWS)).encode(), "application/jsonlines"),
    "csv": (csv_of(TRAINED[NAMES[::-1]]), "text/csv"),
    "csv with NA": (csv_of(TRAINED, na_rep="NA"), "text/csv; header=present"),
    "csv without a header": (csv_of(TRAINED, header=False), "text/csv"),
    "csv said to have none": (csv_of(TRAINED, header=False), "text/csv; header=absent"),
    "parquet": (parquet_of(), "application/x-parquet"),
    "arrow stream": (arrow_stream(), "application/vnd.apache.arrow.stream"),
    "arrow file": (arrow_file(), "application/vnd.apache.arrow.file"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_model_gets_the_table_it_was_trained_on_in_every_format(handler, name):
    reply = ask(handler, *BODIES[name])

    assert reply.status == 200, reply.body
    pd.testing.assert_frame_equal(handler.table, TRAINED)


def test_requests_in_different_formats_are_one_call_and_keep_their_order(handler):
    requests = [
        Request(body if isinstance(body, bytes) else json.dumps(body).encode(), content_type)
        for body, content_type in BODIES.values()
    ]

    replies = handler.answer(requests)

    assert [json.loads(reply.body)["predictions"] for reply in replies] == [
        [3 * place, 3 * place + 1, 3 * place + 2] for place in range(len(BODIES))
    ]
    pd.testing.assert_frame_equal(
        handler.table, pd.concat([TRAINED] * len(BODIES), ignore_index=True)
    )


def record(**changes) -> dict[str, object]:
    return {"instances": [ROWS[0] and {**RECORDS[0], **changes}]}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"age": "41"}, ["number", "'41'", "row 0", "age"]),
        ({"age": 1e999}, ["finite", "age"]),
        ({"age": [1]}, ["number", "age"]),
        ({"rooms": None}, ["missing value", "rooms"]),
        ({"rooms": 3.5}, ["whole number", "3.5", "rooms"]),
        ({"rooms": 1 << 63}, ["whole number from", "rooms"]),
        ({"floor": "2"}, ["whole number", "floor"]),
        ({"city": 7}, ["a text", "int 7", "city"]),
        ({"city": "\ud800"}, ["Unicode", "city"]),
        ({"vip": "yes"}, ["true or false", "vip"]),
        ({"vip": 2}, ["true or false", "vip"]),
        ({"heating": "coal"}, ["'wood', 'gas', 'oil'", "'coal'", "heating"]),
        ({"seen": 1772366400000}, ["ISO 8601", "seen"]),
        ({"seen": "yesterday"}, ["ISO 8601", "seen"]),
        ({"seen": "2026-02-30"}, ["ISO 8601", "seen"]),
        ({"seen": "2026-03-01T12:00+02:00"}, ["ISO 8601", "seen"]),
        ({"born": "2026-03-01T12:00"}, ["date", "born"]),
        ({"at": "25:00"}, ["time of day", "at"]),
        ({"agee": 41}, ["also agee"]),
    ],
)
def test_what_does_not_fit_is_400_and_names_column_row_value_and_what_was_expected(
    handler, changes, parts
):
    reply = ask(handler, record(**changes))

    assert reply.status == 400
    for part in parts:
        assert part in json.loads(reply.body)["message"]


@pytest.mark.parametrize(
    ("body", "content_type", "received"),
    [
        ({"instances": [{"age": 1}]}, "application/json", "none called rooms"),
        ({"instances": [RECORDS[0], {"age": 1}]}, "application/json", "in record 1"),
        ({"instances": [RECORDS[0], 7]}, "application/json", "record 1 that is int 7"),
        ({"instances": [[1, 2]]}, "application/json", "row 0 of 2"),
        ({"instances": [ROWS[0], ROWS[0][:-1]]}, "application/json", "row 1 of 8"),
        ({"instances": []}, "application/json", "no record"),
        ({"instances": [], "inputs": []}, "application/json", "several"),
        ({"inputs": {name: [] for name in NAMES}}, "application/json", "no record"),
        (
            {"inputs": {name: [1] * (1 + (name == "age")) for name in NAMES}},
            "application/json",
            "age of 2",
        ),
        ({"dataframe_split": {"columns": NAMES, "data": [[1]]}}, "application/json", "row 0"),
        ({"dataframe_split": {"columns": NAMES}}, "application/json", "object"),
        (b"age,rooms\n1,2\n", "text/csv", "none called floor"),
        (b"a,b\n1,2\n", "text/csv", "also a, b"),
        (csv_of(TRAINED.rename(columns={"age": "rooms"})), "text/csv", "rooms twice"),
        (csv_of(TRAINED.reset_index()), "text/csv", "also index"),
        (csv_of(TRAINED) + b"1,2\n", "text/csv", "row 4 has 2"),
        (b'"age', "text/csv", "not CSV"),
        (b"PAR1 and no more", "application/x-parquet", "pyarrow"),
        (b"no arrow", "application/vnd.apache.arrow.stream", "pyarrow"),
        (TRAINED.drop(columns="age").to_parquet(), "application/x-parquet", "none called age"),
        (b"<x/>", "application/xml", "application/xml"),
    ],
)
def test_columns_that_do_not_fit_are_refused_by_name(handler, body, content_type, received):
    reply = ask(handler, body, content_type)

    assert reply.status in (400, 415)
    assert received in json.loads(reply.body)["received"]


def test_frames_of_polars_and_of_pandas_arrive_alike(handler):
    sink = io.BytesIO()
    frame = TRAINED.drop(columns="heating")
    pl.from_pandas(frame).with_columns(
        pl.Series("heating", ["gas", "wood", None], dtype=pl.Categorical)
    ).write_parquet(sink)

    assert ask(handler, sink.getvalue(), "application/x-parquet").status == 200
    pd.testing.assert_frame_equal(handler.table, TRAINED)


def numeric(tmp_path, frame: pd.DataFrame, **options) -> Returning:
    (tmp_path / "signature.json").write_bytes(mmekit.signature(frame, **options).to_json())
    handler = Returning()
    handler.prepare(tmp_path)
    return handler


def test_a_table_of_numbers_is_an_array_in_every_format(tmp_path):
    frame = pd.DataFrame({"b": [1.5, 2.5], "a": [3, 4], "c": [True, False]})
    handler = numeric(tmp_path, frame)
    npz = io.BytesIO()
    np.savez(npz, **{name: frame[name].to_numpy() for name in ("a", "b", "c")})
    npy = io.BytesIO()
    np.save(npy, frame.to_numpy(dtype=float))
    fields = io.BytesIO()
    np.save(fields, frame[["c", "a", "b"]].to_records(index=False))

    for body, content_type in [
        ({"instances": frame.to_dict("records")}, "application/json"),
        ({"instances": frame.to_numpy(dtype=float).tolist()}, "application/json"),
        (csv_of(frame[["a", "b", "c"]]), "text/csv"),
        (npz.getvalue(), "application/x-npz"),
        (npy.getvalue(), "application/x-npy"),
        (fields.getvalue(), "application/x-npy"),
        (frame.to_parquet(), "application/x-parquet"),
    ]:
        assert ask(handler, body, content_type).status == 200
        assert isinstance(handler.table, np.ndarray)
        assert handler.table.dtype == np.float64
        assert handler.table.tolist() == [[1.5, 3, 1], [2.5, 4, 0]]


def test_a_whole_number_that_a_float_cannot_hold_stays_what_it_is(tmp_path):
    big = (1 << 60) + 1
    frame = pd.DataFrame({"id": [1, 2], "gap": pd.array([1, None], "Int64"), "city": ["a", "b"]})
    handler = numeric(tmp_path, frame)

    for body, content_type in [
        ({"instances": [{"id": big, "gap": big, "city": "x"}, {"id": 1, "gap": None, "city": "x"}]},
         "application/json"),
        (f"id,gap,city\n{big},{big},x\n1,,x\n".encode(), "text/csv"),
    ]:  # fmt: skip
        assert ask(handler, body, content_type).status == 200
        assert handler.table["id"].tolist() == [big, 1]
        assert handler.table["gap"][0] == big
        assert handler.table["gap"][1] is pd.NA


def test_na_is_namibia_where_the_model_knows_it(tmp_path):
    frame = pd.DataFrame({"country": pd.Categorical(["NA", "NO"]), "n": [1.0, 2.0]})
    handler = numeric(tmp_path, frame)

    assert ask(handler, b"country,n\nNA,1\n", "text/csv").status == 200
    assert handler.table["country"].tolist() == ["NA"]


def test_categories_keep_their_places_however_few_of_them_come(tmp_path):
    frame = pd.DataFrame({"size": pd.Categorical([1, 2, 3], [3, 1, 2]), "n": [1.0, 2.0, 3.0]})
    handler = numeric(tmp_path, frame)

    for body, content_type in [
        ({"instances": [{"n": 1, "size": 2}]}, "application/json"),
        (b"n,size\n1,2\n", "text/csv"),
    ]:
        assert ask(handler, body, content_type).status == 200
        assert handler.table["size"].cat.codes.tolist() == [2]
        assert handler.table["size"].cat.categories.tolist() == [3, 1, 2]
    assert ask(handler, {"instances": [{"n": 1, "size": True}]}).status == 400
    assert ask(handler, {"instances": [{"n": 1, "size": "2"}]}).status == 400


@pytest.mark.parametrize("gap", [None, np.nan])
def test_a_missing_text_is_what_it_was_in_training(tmp_path, gap):
    column = pd.Series(["a", gap, "b"], dtype=object)
    handler = numeric(tmp_path, pd.DataFrame({"text": column, "n": [1.0, 2.0, 3.0]}))

    assert ask(handler, {"instances": [{"text": None, "n": 1}]}).status == 200
    found = handler.table["text"][0]
    assert found is None if gap is None else np.isnan(found)


def test_times_with_a_zone_are_the_same_moments(tmp_path):
    frame = pd.DataFrame({"at": pd.to_datetime(["2026-03-01T12:00"]).tz_localize("Europe/Oslo")})
    handler = numeric(tmp_path, frame)

    for text in ("2026-03-01T12:00:00+01:00", "2026-03-01T11:00Z", "2026-03-01T13:00:00+0200"):
        assert ask(handler, {"instances": [{"at": text}]}).status == 200
        pd.testing.assert_frame_equal(handler.table, frame)
    assert ask(handler, {"instances": [{"at": "2026-03-01T12:00:00"}]}).status == 400
    assert ask(handler, frame.to_parquet(), "application/x-parquet").status == 200
    pd.testing.assert_frame_equal(handler.table, frame)


def test_a_signature_says_the_same_after_it_was_written():
    found = mmekit.signature(TRAINED, pd.Series([1, 0, 1], name="sold"))

    again = Signature.from_json(found.to_json())

    assert again == found
    assert again.to_json() == found.to_json()
    assert [(one.name, one.type) for one in again.outputs] == [("sold", "long")]


def test_a_signature_is_one_that_mlflow_reads():
    from mlflow.types import Schema

    content = json.loads(mmekit.signature(TRAINED).to_json())

    schema = Schema.from_json(json.dumps(content["inputs"]))

    assert schema.input_names() == NAMES


@pytest.mark.filterwarnings("ignore:Hint. Inferred schema contains integer")
def test_a_signature_of_mlflow_is_read(tmp_path):
    from mlflow.models import infer_signature

    frame = TRAINED[["age", "rooms", "city", "vip"]].fillna({"city": "Rome"})
    (tmp_path / "signature.json").write_text(json.dumps(infer_signature(frame).to_dict()))
    handler = Returning()
    handler.prepare(tmp_path)

    reply = ask(handler, {"instances": [{"city": "Oslo", "rooms": 3, "vip": True}]})

    assert reply.status == 200, reply.body
    assert handler.table["rooms"].tolist() == [3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "no inputs"),
        ('{"inputs": [{"type": "decimal", "name": "a"}]}', "decimal"),
        ('{"inputs": [{"type": "long", "name": "a"}, {"type": "long", "name": "a"}]}', "one name"),
        ('{"inputs": [3]}', "list of objects"),
        ('{"inputs": [], "mmekit": {"format": 9}}', "version"),
    ],
)
def test_a_signature_that_cannot_be_read_fails_the_load(tmp_path, text, said):
    (tmp_path / "signature.json").write_text(text)

    with pytest.raises(ValueError, match=said):
        Returning().prepare(tmp_path)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1 + 2j]}),
        pd.DataFrame({"a": pd.to_timedelta([1], "s")}),
        pd.DataFrame(),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame({"a": pd.Categorical([dt.date(2026, 3, 1)])}),
    ],
)
def test_what_no_request_can_say_is_refused_when_the_signature_is_made(frame):
    with pytest.raises(mmekit.errors.PackageError):
        mmekit.signature(frame)


def test_a_parquet_file_of_equal_values_is_refused_before_it_is_unpacked(handler):
    rows = 50_000_000
    table = pa.table({"age": pa.nulls(rows), "rooms": pa.nulls(rows)})
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    assert len(sink.getvalue()) < 1 << 20

    reply = ask(handler, sink.getvalue(), "application/x-parquet")

    assert reply.status == 400
    assert b"unpacks to" in reply.body


def test_decimals_of_parquet_are_numbers(tmp_path):
    trained = pd.DataFrame({"price": [1.5], "rooms": [3]})
    (tmp_path / "signature.json").write_bytes(mmekit.signature(trained).to_json())
    handler = Returning()
    handler.prepare(tmp_path)
    table = pa.table({"price": [Decimal("2.25")], "rooms": [Decimal("4.00")]})
    sink = io.BytesIO()
    parquet.write_table(table, sink)

    assert ask(handler, sink.getvalue(), "application/x-parquet").status == 200

    assert np.asarray(handler.table).tolist() == [[2.25, 4.0]]


def test_a_record_that_is_in_no_list_is_called_so(handler):
    reply = ask(handler, {"instances": TRAINED[["age", "rooms"]].to_dict("records")[0]})
    assert reply.status == 400
    assert b"a record that is in no list" in reply.body
