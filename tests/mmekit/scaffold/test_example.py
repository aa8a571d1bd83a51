"""An example says names, types and rows, whatever format it is in."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mmekit.errors import PackageError
from mmekit.scaffold.example import features_of, read_example

TABLE = pd.DataFrame({"age": [41, 7], "city": ["Oslo", None]})
RECORDS = [{"age": 41, "city": "Oslo"}, {"age": 7, "city": None}]
SPLIT = {"columns": ["age", "city"], "data": [[41, "Oslo"], [7, None]]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "age,city\n41,Oslo\n7,\n"),
        ("rows.csv", ",age,city\n0,41,Oslo\n1,7,\n"),  # as DataFrame.to_csv writes its index
        ("rows.json", json.dumps(RECORDS)),
        ("rows.json", json.dumps({"instances": RECORDS})),
        ("rows.json", json.dumps({"dataframe_records": RECORDS})),
        ("rows.json", json.dumps({"dataframe_split": SPLIT})),
        ("rows.json", json.dumps(SPLIT)),
        ("rows.json", json.dumps({"inputs": {"age": [41, 7], "city": ["Oslo", None]}})),
        ("rows.jsonl", "".join(json.dumps(one) + "\n" for one in RECORDS)),
    ],
)
def test_every_format_is_the_same_table(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    example = read_example(tmp_path / name)
    assert example.names == ("age", "city")
    assert example.frame["age"].tolist() == [41, 7]
    assert example.frame["city"][0] == "Oslo"
    assert example.frame["city"].isna().tolist() == [False, True]


def test_parquet_keeps_its_types(tmp_path):
    table = TABLE.assign(day=pd.to_datetime(["2026-01-01", "2026-01-02"]))
    table["city"] = table["city"].astype("category")
    table.to_parquet(tmp_path / "rows")
    read = read_example(tmp_path / "rows").frame
    assert read.dtypes.equals(table.dtypes)


def test_rows_without_names_are_numbers_alone(tmp_path):
    (tmp_path / "rows.csv").write_text("1,2\n3,4\n")
    np.save(tmp_path / "rows.npy", [[1.0, 2.0], [3.0, 4.0]])
    (tmp_path / "rows.json").write_text("[[1, 2], [3, 4]]")
    for name in ("rows.csv", "rows.npy", "rows.json"):
        example = read_example(tmp_path / name)
        assert example.names == ()
        assert example.frame.to_numpy().tolist() == [[1, 2], [3, 4]]


def test_what_is_no_table_stays_rows(tmp_path):
    (tmp_path / "texts.json").write_text('["a", "b"]')
    assert read_example(tmp_path / "texts.json").rows == ("a", "b")
    (tmp_path / "pixels.json").write_text("[[[1, 2], [3, 4]]]")
    assert read_example(tmp_path / "pixels.json").rows == ([[1, 2], [3, 4]],)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "cannot be read"),
        (b"age\n", "no rows"),
        (b'{"age": {}}', "expected"),
        (b'{"age": [1, 2', "cannot be read"),
        (b"\0\1\2", "neither CSV nor Parquet nor JSON"),
    ],
)
def test_what_is_no_example_is_refused(tmp_path, content, what):
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(PackageError, match=what):
        read_example(tmp_path / "rows")


def read(tmp_path, text):
    (tmp_path / "rows.csv").write_text(text)
    return read_example(tmp_path / "rows.csv")


def test_the_model_s_columns_are_chosen_in_its_order(tmp_path):
    example = read(tmp_path, "b,target,a\n1,yes,2\n")
    chosen = features_of(example, ("a", "b"), 2, None, "rows.csv")
    assert chosen.names == ("a", "b")
    assert chosen.left_out == ("target",)
    with pytest.raises(PackageError, match=r"lacks columns .* with: c") as caught:
        features_of(example, ("a", "c"), 2, None, "rows.csv")
    assert "the model takes a, c" in caught.value.remedy


def test_a_model_without_names_takes_all_but_the_target(tmp_path):
    example = read(tmp_path, "a,b,label\n1,2,yes\n")
    assert features_of(example, None, 2, None, "").names == ("a", "b")
    assert features_of(example, None, 2, "a", "").names == ("b", "label")
    with pytest.raises(PackageError, match="has 3 columns, and the model takes 1") as caught:
        features_of(example, None, 1, None, "")
    assert "--target" in caught.value.remedy
    with pytest.raises(PackageError, match="no column price"):
        features_of(example, None, 2, "price", "")
