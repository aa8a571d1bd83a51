"""What predict may return, and how it is answered."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse

from mmekit_runtime import Handler, Prediction, Request


class Answering(Handler):
    """Answers what a function makes of the rows."""

    def __init__(self, predict) -> None:
        super().__init__()
        self._predict = predict

    def load(self, folder: Path) -> None:
        return None

    def predict(self, model: None, rows, parameters):
        return self._predict(rows)


def ask(predict, *rows: list[list[float]], accept: str = ""):
    handler = Answering(predict)
    handler.prepare(Path())
    return handler.answer([Request(json.dumps(one).encode(), accept=accept) for one in rows])


def answers(predict, *rows: list[list[float]]) -> list[object]:
    replies = ask(predict, *rows)
    assert [reply.status for reply in replies] == [200] * len(rows), replies[0].body
    return [json.loads(reply.body) for reply in replies]


@pytest.mark.parametrize(
    ("predict", "expected"),
    [
        (lambda rows: rows[:, 0], [[1.0], [3.0, 5.0]]),
        (lambda rows: list(rows[:, 0]), [[1.0], [3.0, 5.0]]),
        (lambda rows: tuple(rows[:, 0]), [[1.0], [3.0, 5.0]]),
        (lambda rows: (value for value in rows[:, 0]), [[1.0], [3.0, 5.0]]),
        (lambda rows: pd.Series(rows[:, 0]), [[1.0], [3.0, 5.0]]),
        (lambda rows: pl.Series(rows[:, 0]), [[1.0], [3.0, 5.0]]),
        (lambda rows: pd.Categorical(["a"] * len(rows)), [["a"], ["a", "a"]]),
        (lambda rows: pd.Index(rows[:, 0].astype(int)), [[1], [3, 5]]),
        (lambda rows: np.ma.masked_equal(rows[:, 0], 3), [[1.0], [None, 5.0]]),
        (lambda rows: scipy.sparse.csr_matrix(rows[:, :1]), [[[1.0]], [[3.0], [5.0]]]),
        (
            lambda rows: pd.DataFrame({"low": rows[:, 0], "n": rows[:, 1].astype(int)}),
            [[{"low": 1.0, "n": 2}], [{"low": 3.0, "n": 4}, {"low": 5.0, "n": 6}]],
        ),
        (
            lambda rows: pl.DataFrame({"low": rows[:, 0]}),
            [[{"low": 1.0}], [{"low": 3.0}, {"low": 5.0}]],
        ),
        (
            lambda rows: (rows[:, 0], rows[:, 1] / 10),  # mean and standard deviation
            [[[1.0, 0.2]], [[3.0, 0.4], [5.0, 0.6]]],
        ),
        (
            lambda rows: {"mean": rows[:, 0], "std": list(rows[:, 1])},
            [
                [{"mean": 1.0, "std": 2.0}],
                [{"mean": 3.0, "std": 4.0}, {"mean": 5.0, "std": 6.0}],
            ],
        ),
        (
            lambda rows: [["a"] * int(row[0]) for row in rows],
            [[["a"]], [["a"] * 3, ["a"] * 5]],
        ),
        (
            lambda rows: [{"score": np.float32(0.5), "n": np.int64(row[1])} for row in rows],
            [[{"score": 0.5, "n": 2}], [{"score": 0.5, "n": 4}, {"score": 0.5, "n": 6}]],
        ),
        (
            lambda rows: (
                [{"span": (np.int32(0), 1), "of": {np.str_("x"): np.array([1])}}] * len(rows)
            ),
            [[{"span": [0, 1], "of": {"x": [1]}}], [{"span": [0, 1], "of": {"x": [1]}}] * 2],
        ),
    ],
)
def test_whatever_holds_a_prediction_a_row_is_answered_row_by_row(predict, expected):
    found = answers(predict, [[1, 2]], [[3, 4], [5, 6]])

    assert [one["predictions"] for one in found] == expected


@pytest.mark.parametrize(
    ("predict", "said"),
    [
        (lambda rows: "x" * len(rows), "str"),
        (lambda rows: 3.0, "float"),
        (lambda rows: np.float64(3), "3.0"),
        (lambda rows: None, "NoneType"),
        (lambda rows: {1, 2}, "set"),
        (lambda rows: rows[:1, 0], "answered 1 of 2 rows"),
        (lambda rows: (rows[:, 0], rows[:1, 0]), "tuple"),
        (lambda rows: {"a": rows[:, 0], "b": [1]}, "1 of 2 rows|1, 2"),
        (lambda rows: Prediction(rows[:, 0], others={"std": [1.0]}), "1 of 2 rows in std"),
        (lambda rows: Prediction(rows[:, 0], others={"predictions": rows}), "cannot be called"),
        (lambda rows: pd.DataFrame(rows, columns=["a", "a"]), "two columns of one name"),
        (lambda rows: [b"bytes"] * len(rows), "bytes"),
        (lambda rows: [object()] * len(rows), "object"),
    ],
)
def test_what_holds_no_prediction_a_row_is_an_error_and_never_an_answer(predict, said):
    (reply,) = ask(predict, [[1, 2], [3, 4]])

    assert reply.status == 424
    error = json.loads(reply.body)["error"]
    assert any(part in error for part in said.split("|")), error


def test_classes_come_with_probabilities_as_a_frame():
    def predict(rows):
        frame = pd.DataFrame({"ham": rows[:, 0], "spam": rows[:, 1]})
        return Prediction(["ham"] * len(rows), frame)

    assert answers(predict, [[0.25, 0.75]], [[1, 0], [0.5, 0.5]]) == [
        {"predictions": ["ham"], "probabilities": [[0.25, 0.75]], "classes": ["ham", "spam"]},
        {
            "predictions": ["ham", "ham"],
            "probabilities": [[1.0, 0.0], [0.5, 0.5]],
            "classes": ["ham", "spam"],
        },
    ]


@pytest.mark.parametrize("rows", [[[0.25, 0.75]], [[0.25, 0.75], [1, 0]], [[0, 1]] * 3])
def test_a_tuple_of_labels_and_probabilities_stands_for_a_prediction(rows):
    def predict(given):
        return given.argmax(axis=1), given, ["ham", "spam"]

    (answer,) = answers(predict, rows)

    assert answer["predictions"] == [int(row[1] > row[0]) for row in rows]
    assert answer["probabilities"] == rows
    assert answer["classes"] == ["ham", "spam"]


def test_further_outputs_have_names_in_every_format():
    def predict(rows):
        return Prediction(rows[:, 0], others={"std": rows[:, 1], "range": rows})

    (as_json,) = answers(predict, [[1, 2], [3, 4]])
    assert as_json == {
        "predictions": [1.0, 3.0],
        "std": [2.0, 4.0],
        "range": [[1.0, 2.0], [3.0, 4.0]],
    }
    (lines,) = ask(predict, [[1, 2], [3, 4]], accept="application/jsonlines")
    assert json.loads(lines.body.splitlines()[1]) == {
        "prediction": 3.0,
        "std": 4.0,
        "range": [3.0, 4.0],
    }
    (table,) = ask(predict, [[1, 2], [3, 4]], accept="text/csv")
    assert table.body.decode().splitlines() == [
        "prediction,std,range_0,range_1",
        "1.0,2.0,1.0,2.0",
        "3.0,4.0,3.0,4.0",
    ]
    (refused,) = ask(predict, [[1, 2]], accept="application/x-npy")
    assert refused.status == 406


def test_a_frame_is_csv_with_a_header_and_npy_without():
    def predict(rows):
        return pd.DataFrame({"low, at best": rows[:, 0], "high": rows[:, 1]})

    (table,) = ask(predict, [[1, 2], [3, 4]], accept="text/csv")
    assert list(csv.reader(io.StringIO(table.body.decode()))) == [
        ["low, at best", "high"],
        ["1.0", "2.0"],
        ["3.0", "4.0"],
    ]
    (array,) = ask(predict, [[1, 2], [3, 4]], accept="application/x-npy")
    assert np.load(io.BytesIO(array.body)).tolist() == [[1, 2], [3, 4]]


def test_what_is_missing_is_null_wherever_it_is():
    row = {
        "nan": float("nan"),
        "infinity": np.float32("inf"),
        "na": pd.NA,
        "nat": pd.NaT,
        "none": None,
        "day": dt.date(2026, 3, 1),
        "moment": pd.Timestamp("2026-03-01T12:00"),
        "numpy": np.datetime64("2026-03-01T12:00"),
        "price": Decimal("1.5"),
        "nested": [np.nan, {"x": -np.inf}],
    }

    (answer,) = answers(lambda rows: [row], [[1, 2]])

    assert answer["predictions"] == [
        {
            "nan": None,
            "infinity": None,
            "na": None,
            "nat": None,
            "none": None,
            "day": "2026-03-01",
            "moment": "2026-03-01T12:00:00",
            "numpy": "2026-03-01T12:00",
            "price": 1.5,
            "nested": [None, {"x": None}],
        }
    ]


def test_a_column_of_whole_numbers_with_a_gap_is_answered_as_it_is():
    frame = pd.DataFrame({"n": pd.array([1, None], "Int64"), "t": ["a", None]})

    (answer,) = answers(lambda rows: frame, [[1, 2], [3, 4]])

    assert answer["predictions"] == [{"n": 1, "t": "a"}, {"n": None, "t": None}]


def test_moments_are_iso_8601_and_no_counts_of_nanoseconds():
    moments = np.array(["2026-03-01T12:00", "NaT"], dtype="datetime64[ns]")

    (answer,) = answers(lambda rows: moments, [[1, 2], [3, 4]])

    assert answer["predictions"] == ["2026-03-01T12:00:00.000000000", None]
