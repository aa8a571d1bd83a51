"""Bodies that could be taken for something else: each means one thing, or is 400."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression

import mmekit
from mmekit_runtime import Reply, Request, TableHandler
from tests.mmekit_runtime.serving import Plain, ask

if TYPE_CHECKING:
    from pathlib import Path

PARQUET = "application/x-parquet"


class Returning(TableHandler):
    """Keeps the tables that predict got."""

    frame = True

    def load(self, folder: Path) -> None:
        self.tables: list[pd.DataFrame] = []

    def predict(self, model: None, table, parameters):
        self.tables.append(table)
        return list(range(len(table)))

    @property
    def table(self) -> pd.DataFrame:
        """The last of them."""
        return self.tables[-1]


@pytest.fixture
def serving(tmp_path):
    def serving(trained: object, **changes) -> Returning:
        (tmp_path / "signature.json").write_bytes(mmekit.signature(trained).to_json())
        handler = Returning()
        for name, value in changes.items():
            setattr(handler, name, value)
        handler.prepare(tmp_path)
        return handler

    return serving


def refusal(reply: Reply) -> str:
    assert reply.status == 400, reply.body
    return json.loads(reply.body)["message"]


# Headers.


def test_a_first_line_of_numbers_that_are_names_too_is_asked_about(serving):
    handler = serving(np.array([[0.0, 1.0], [2.0, 3.0]]))  # columns called 0 and 1

    for body in (b"0,1\n5,6\n", b"1,0\n5,6\n"):
        assert "header=present or text/csv; header=absent" in refusal(
            ask(handler, body, "text/csv")
        )
    assert ask(handler, b"1,0\n5,6\n", "text/csv; header=absent").status == 200
    assert handler.table.to_numpy().tolist() == [[1, 0], [5, 6]]
    assert ask(handler, b"1,0\n5,6\n", 'text/csv; header="present"').status == 200
    assert handler.table.to_numpy().tolist() == [[6, 5]]


@pytest.mark.parametrize("body", [b"0,0\n5,6\n", b"0,7\n5,6\n", b"0,NA\n5,6\n"])
def test_a_first_line_of_numbers_that_cannot_be_the_names_is_a_row(serving, body):
    handler = serving(np.array([[0.0, 1.0], [np.nan, np.nan]]))

    assert ask(handler, body, "text/csv").status == 200
    assert len(handler.table) == 2


def test_truth_values_are_no_header(serving):
    handler = serving(pd.DataFrame({"a": [True, False], "b": [True, False]}))

    assert ask(handler, b"True,False\nfalse,true\n", "text/csv").status == 200
    assert handler.table.to_numpy().tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("names", [("x0", "x1"), ("f0", "f1")])
def test_names_that_only_look_made_up_are_names(names):
    frame = pd.DataFrame([[1.0, 4], [2, 1], [3, 7], [4, 3]], columns=list(names))
    handler = Plain(LinearRegression().fit(frame, frame[names[0]] * 10 + frame[names[1]]))

    reply = ask(handler, f"{names[1]},{names[0]}\n2,1\n".encode(), "text/csv")

    assert json.loads(reply.body)["predictions"] == pytest.approx([12])


# Rows.


@pytest.mark.parametrize("body", [b"a\n1\n\n3\n", b"1\n\n3\n", b"a\n1\n\n", b"\n1\n"])
def test_a_blank_line_in_a_single_column_may_be_a_row_and_is_asked_about(serving, body):
    handler = serving(pd.DataFrame({"a": [1.0, np.nan]}))

    assert "blank line" in refusal(ask(handler, body, "text/csv"))
    assert ask(handler, b'a\n1\n""\n3\n', "text/csv").status == 200
    assert len(handler.table) == 3


def test_a_member_that_comes_twice_is_refused(serving):
    handler = serving(pd.DataFrame({"a": [1.0], "b": [1.0]}))

    for body, content_type in [
        (b'{"instances": [{"a": 1, "b": 2, "a": 3}]}', "application/json"),
        (b'{"a": 1, "b": 2, "a": 3}\n', "application/jsonlines"),
        (b'{"instances": [[1, 2]], "instances": [[3, 4]]}', "application/json"),
    ]:
        assert "twice" in refusal(ask(handler, body, content_type))


@pytest.mark.parametrize(
    "content",
    [
        {"instances": [[1, 2]], "parameters": {"probabilities": True}, "params": {"other": 1}},
        {"instances": [[1, 2]], "parameters": []},
        {"instances": [[1, 2]], "params": False},
    ],
)
def test_parameters_are_one_object(serving, content):
    assert "param" in refusal(ask(serving(pd.DataFrame({"a": [1.0], "b": [1.0]})), content))


def test_columns_of_lists_are_not_laid_side_by_side():
    frame = pd.DataFrame({"a": [1.0, 2], "b": [1.0, 3]})
    handler = Plain(LinearRegression().fit(frame, frame["a"]))

    assert "column a" in refusal(ask(handler, {"inputs": {"a": [[1, 2]], "b": [[]]}}))


# Cells.


@pytest.mark.parametrize("unit", ["ns", "us", "s"])
def test_a_moment_is_no_number(serving, unit):
    handler = serving(pd.DataFrame({"a": [1.0]}))
    moments = pd.DataFrame({"a": pd.to_datetime(["2026-03-01"]).astype(f"datetime64[{unit}]")})
    npy = io.BytesIO()
    np.save(npy, moments["a"].to_numpy())

    assert "a number" in refusal(ask(handler, moments.to_parquet(), PARQUET))
    assert "a number" in refusal(ask(handler, npy.getvalue(), "application/x-npy"))


def test_a_moment_of_npy_is_one(serving):
    frame = pd.DataFrame({"a": pd.to_datetime(["2026-03-01"]).astype("datetime64[ns]")})
    npy = io.BytesIO()
    np.save(npy, frame["a"].to_numpy())
    handler = serving(frame)

    assert ask(handler, npy.getvalue(), "application/x-npy").status == 200
    pd.testing.assert_frame_equal(handler.table, frame)


def test_a_zone_in_parquet_is_one_as_in_json(serving):
    naive = pd.DataFrame({"at": pd.to_datetime(["2026-07-01T12:00"])})
    aware = pd.DataFrame({"at": naive["at"].dt.tz_localize("Europe/Oslo")})

    assert "without a zone" in refusal(ask(serving(naive), aware.to_parquet(), PARQUET))
    assert "with their zone" in refusal(ask(serving(aware), naive.to_parquet(), PARQUET))


@pytest.mark.parametrize(
    "text",
    ["9999-03-01T12:00:00.123456789", "2026-03-01T12:00+99:00", "2026-03-01T12:00+01:75"],
)
def test_a_time_that_there_cannot_be_is_refused(serving, text):
    moments = pd.to_datetime(["2026-03-01T12:00"]).astype("datetime64[ns]")
    zoned = moments.tz_localize("Europe/Oslo") if "+" in text else moments

    assert "at" in refusal(ask(serving(pd.DataFrame({"at": zoned})), {"instances": [[text]]}))


def test_whole_numbers_of_npz_are_truth_values_as_those_of_json(serving):
    frame = pd.DataFrame({"vip": [True, False], "city": ["a", "b"]})
    npz = io.BytesIO()
    np.savez(npz, vip=np.array([1, 0]), city=np.array(["a", "b"]))
    handler = serving(frame)

    assert ask(handler, npz.getvalue(), "application/x-npz").status == 200
    pd.testing.assert_frame_equal(handler.table, frame)


def test_line_ends_and_blanks_within_a_cell_are_its_own(serving):
    handler = serving(pd.DataFrame({"a": ["x", None], "b": ["x", "y"]}))

    assert ask(handler, b'a,b\r\n"one\r\ntwo",  \r\n', "text/csv").status == 200
    assert handler.table.to_numpy().tolist() == [["one\r\ntwo", "  "]]


def test_texts_that_look_like_missing_ones_are_those_of_the_training(serving):
    handler = serving(pd.DataFrame({"country": ["NA", "NO", None], "n": [1.0, 2, 3]}))

    assert ask(handler, b"country,n\nNA,1\n,2\nnull,3\n", "text/csv").status == 200
    assert handler.table["country"].isna().tolist() == [False, True, True]


def test_an_empty_cell_that_may_be_a_value_or_none_is_refused(serving):
    handler = serving(pd.DataFrame({"a": ["", "x", None], "n": [1.0, 2, 3]}))

    assert "both" in refusal(ask(handler, b"a,n\n,1\n", "text/csv"))
    assert ask(handler, b"a,n\nx,1\n", "text/csv").status == 200


def test_a_category_of_single_precision_is_the_number_as_written(serving):
    singles = np.array([0.1, 2.7], dtype="float32")
    handler = serving(pd.DataFrame({"a": pd.Categorical([1.0, 2.0]), "b": singles}))

    assert ask(handler, b"a,b\n1,0.1\n2.0,2.7\n", "text/csv").status == 200
    assert handler.table["b"].to_numpy().tolist() == singles.tolist()


@pytest.mark.parametrize("frame", [True, False])
def test_numbers_of_single_precision_are_rounded_as_in_training(serving, frame):
    handler = serving(pd.DataFrame({"a": np.array([0.1], "float32"), "b": [0.1]}), frame=frame)

    assert ask(handler, {"instances": [[0.1, 0.1]]}).status == 200
    assert np.asarray(handler.table).tolist() == [[float(np.float32(0.1)), 0.1]]


@pytest.mark.parametrize("digits", [b"1" + b"0" * 400, b"-1" + b"0" * 4000])
def test_a_whole_number_of_any_length_is_400(serving, digits):
    handler = serving(pd.DataFrame({"a": [1]}))

    assert "a whole number" in refusal(ask(handler, b'{"instances": [[' + digits + b"]]}"))
    assert "a whole number" in refusal(ask(handler, digits + b"\n", "text/csv"))


def test_a_large_number_beside_a_gap_is_a_number():
    frame = pd.DataFrame({"a": np.arange(30.0), "b": np.arange(30.0)})
    handler = Plain(HistGradientBoostingRegressor(max_iter=1).fit(frame, frame["a"]))

    assert ask(handler, {"instances": [[1e30, None]]}).status == 200


# Batches.


@pytest.mark.parametrize("column", ["whole", "truth"])
def test_a_gap_in_one_request_does_not_change_the_types_of_another(serving, column):
    trained = pd.DataFrame({"whole": [1, 2], "truth": [True, False], "n": [1.0, 2.0]})
    handler = serving(trained, missing=True)
    full = {"whole": 3, "truth": True, "n": 1}

    replies = handler.answer(
        [
            Request(json.dumps({"instances": [record]}).encode())
            for record in (full, {**full, column: None}, full)
        ]
    )

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert sorted(len(table) for table in handler.tables) == [1, 2]
    pd.testing.assert_series_equal(
        next(table for table in handler.tables if len(table) == 2).dtypes, trained.dtypes
    )


@pytest.mark.parametrize(
    "content",
    [{"\ud800": 1}, {"dataframe_split": {"columns": ["\ud800", "\ud800"], "data": [[1, 2]]}}],
)
def test_half_a_character_in_a_name_is_400_for_its_own_request_alone(serving, content):
    handler = serving(pd.DataFrame({"a": [1.0], "b": [1.0]}))

    replies = handler.answer(
        [Request(json.dumps(content).encode()), Request(b'{"instances": [[1, 2]]}')]
    )

    assert [reply.status for reply in replies] == [400, 200]
    assert "ud800" in refusal(replies[0])


# Costs.


def test_many_unknown_names_are_said_in_short(serving):
    handler = serving(pd.DataFrame({"a": [1.0], "b": [1.0]}))
    names = [f"c{place}" for place in range(50_000)]

    for body, content_type in [
        ({"inputs": {name: [1] for name in names}}, "application/json"),
        (f"a,{','.join(names)}\n{'1,' * len(names)}1\n".encode(), "text/csv"),
    ]:
        assert len(refusal(ask(handler, body, content_type))) < 1000


def test_a_charset_that_is_not_read_is_415(serving):
    handler = serving(pd.DataFrame({"a": ["x"], "b": ["y"]}))

    assert ask(handler, b"\xc3\xb8,\xf8\n", "text/csv; charset=ISO-8859-1").status == 415
    assert ask(handler, "ø,ø\n".encode(), "text/csv; charset=UTF-8").status == 200


def arrow_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_a_long_text_that_comes_often_is_refused_before_it_is_unpacked(serving):
    handler = serving(pd.DataFrame({"a": ["x"]}))
    texts = pa.array(["x" * 100_000])
    table = pa.table({"a": pa.DictionaryArray.from_arrays(pa.array([0] * 3_000), texts)})
    sink = io.BytesIO()
    parquet.write_table(table, sink)

    for body, content_type in [
        (sink.getvalue(), PARQUET),
        (arrow_of(table), "application/vnd.apache.arrow.stream"),
    ]:
        assert len(body) < 1 << 20
        assert "unpacks to" in refusal(ask(handler, body, content_type))


def test_a_column_without_values_is_refused_before_it_is_unpacked(serving):
    body = arrow_of(pa.table({"a": pa.nulls(1 << 26)}))

    reply = ask(serving(pd.DataFrame({"a": ["x"]})), body, "application/vnd.apache.arrow.stream")

    assert "unpacks to" in refusal(reply)


def test_texts_of_polars_in_any_layout_are_texts(serving):
    frame = pl.DataFrame({"a": ["x", None, "y", "x"]})
    categories = frame.cast({"a": pl.Categorical})
    handler = serving(frame.to_pandas())

    for one in (frame, categories):
        sink, stream = io.BytesIO(), io.BytesIO()
        one.write_parquet(sink)
        one.write_ipc_stream(stream)
        for body, content_type in [
            (sink.getvalue(), PARQUET),
            (stream.getvalue(), "application/vnd.apache.arrow.stream"),
        ]:
            assert ask(handler, body, content_type).status == 200
            pd.testing.assert_frame_equal(handler.table, frame.to_pandas())
