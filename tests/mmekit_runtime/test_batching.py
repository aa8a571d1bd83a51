"""Which requests one call answers, and that each gets its own answer all the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse

from mmekit_runtime import Handler, Parameters, Prediction, Request
from mmekit_runtime.batching import joined, kind_of, row_count


class Decoding(Handler):
    """Decodes in a way of its own, and remembers with how many rows it was called."""

    def __init__(self, decode, predict) -> None:
        super().__init__()
        self._decode, self._predict = decode, predict
        self.calls: list[int] = []

    def load(self, folder: Path) -> None:
        return None

    def decode(self, body: bytes, content_type: str):
        content = json.loads(body)
        return self._decode(content["rows"]), Parameters.read(content.get("parameters", {}))

    def predict(self, model: None, rows, parameters: Parameters):
        self.calls.append(1)
        return self._predict(rows)


def ask(handler: Handler, *bodies: object) -> list[object]:
    handler.prepare(Path())
    requests = [Request(json.dumps(body).encode()) for body in bodies]
    return [json.loads(reply.body) for reply in handler.answer(requests)]


DECODINGS = {
    "array": (np.array, lambda rows: rows[:, 0] * 2),
    "list": (list, lambda rows: [row[0] * 2 for row in rows]),
    "pandas": (
        lambda rows: pd.DataFrame(rows, columns=["a", "b"]),
        lambda rows: rows["a"].to_numpy() * 2,
    ),
    "polars": (
        lambda rows: pl.DataFrame(rows, schema=["a", "b"], orient="row"),
        lambda rows: rows["a"].to_numpy() * 2,
    ),
    "sparse": (scipy.sparse.csr_matrix, lambda rows: rows.toarray()[:, 0] * 2),
    "sparse array": (scipy.sparse.csc_array, lambda rows: rows.toarray()[:, 0] * 2),
    "dict": (
        lambda rows: {"a": np.array(rows)[:, 0], "b": [row[1] for row in rows]},
        lambda rows: rows["a"] * 2 + 0 * len(rows["b"]),
    ),
    "tuple": (
        lambda rows: (np.array(rows), [str(row) for row in rows]),
        lambda rows: rows[0][:, 0] * 2,
    ),
}


@pytest.mark.parametrize("name", DECODINGS)
def test_what_can_be_joined_is_answered_by_one_call(name):
    handler = Decoding(*DECODINGS[name])

    answers = ask(handler, {"rows": [[1, 2]]}, {"rows": [[3, 4], [5, 6]]}, {"rows": [[7, 8]]})

    assert [answer["predictions"] for answer in answers] == [[2], [6, 10], [14]]
    assert len(handler.calls) == 1


class Frames(pd.DataFrame):
    """A frame of somebody's own."""


@pytest.mark.parametrize(
    "decode",
    [
        lambda rows: pd.Series([row[0] for row in rows]),
        Frames,
        lambda rows: pd.DataFrame(rows, index=[f"row {place}" for place in range(len(rows))]),
        np.ma.MaskedArray,
        lambda rows: (row for row in rows),
        lambda rows: {"a": np.array(rows), "b": pd.Series([row[0] for row in rows])},
        lambda rows: ([1], [1, 2]),
        lambda rows: {row[0] for row in rows},
        lambda rows: np.array(len(rows)),
    ],
)
def test_everything_else_is_answered_alone(decode):
    handler = Decoding(decode, lambda _: [0])

    # One prediction for each of two requests, of one row each.
    answers = ask(handler, {"rows": [[1, 2]]}, {"rows": [[3, 4]]})

    assert len(handler.calls) >= 2
    assert all("predictions" in answer or answer["code"] == 424 for answer in answers)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros((1, 2)), np.zeros((1, 3))),
        (np.zeros((1, 2)), np.zeros((1, 2), dtype=np.int64)),
        (np.zeros((1, 2)), [[0.0, 0.0]]),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
        (pd.DataFrame({"a": [1], "b": [1]}), pd.DataFrame({"b": [1], "a": [1]})),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1.5]})),
        (
            pd.DataFrame({"a": pd.Categorical(["x"], ["x", "y"])}),
            pd.DataFrame({"a": pd.Categorical(["x"], ["y", "x"])}),
        ),
        (pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [1.5]})),
        (pl.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]})),
        (scipy.sparse.csr_matrix([[1.0]]), scipy.sparse.csc_matrix([[1.0]])),
        ({"a": [1], "b": [1]}, {"b": [1], "a": [1]}),
        ((np.zeros(1),), (np.zeros(1), np.zeros(1))),
    ],
)
def test_rows_of_two_kinds_are_never_joined(one, other):
    assert kind_of(one) is not None
    assert kind_of(one) != kind_of(other)


def test_a_joined_frame_has_the_types_and_the_index_of_one_frame():
    parts = [
        pd.DataFrame({"a": pd.Categorical([x], ["x", "y"]), "b": pd.array([n], "Int64")})
        for x, n in (("x", 1), ("y", None))
    ]

    together = joined(parts)

    pd.testing.assert_frame_equal(
        together,
        pd.DataFrame(
            {"a": pd.Categorical(["x", "y"], ["x", "y"]), "b": pd.array([1, None], "Int64")}
        ),
    )


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ({"a": [1, 2], "b": np.zeros((2, 3))}, 2),
        ({"a": [1, 2], "b": [1]}, None),
        ({}, None),
        ((pd.DataFrame({"a": [1, 2]}),), 2),
        (scipy.sparse.csr_matrix((3, 2)), 3),
        ("ab", None),
        (iter([1]), None),
    ],
)
def test_rows_are_counted_where_it_is_known_how(rows, count):
    assert row_count(rows) == count


def with_weights(rows) -> np.ndarray:
    return np.array(rows)


class Weighted(Decoding):
    """Turns a parameter into an array."""

    def decode(self, body: bytes, content_type: str):
        rows, parameters = super().decode(body, content_type)
        weights = np.array(parameters.others["weights"])
        return rows, Parameters(others={"weights": weights})

    def predict(self, model: None, rows, parameters: Parameters):
        self.calls.append(len(rows))
        return rows @ parameters.others["weights"]


def test_parameters_that_hold_an_array_keep_requests_apart_or_together():
    handler = Weighted(np.array, None)
    bodies = [
        {"rows": [[1, 2]], "parameters": {"weights": weights}}
        for weights in ([1, 0], [0, 1], [1, 0], [0.5, 0.5])
    ]

    answers = ask(handler, *bodies)

    assert [answer["predictions"] for answer in answers] == [[1], [2], [1], [1.5]]
    assert handler.calls == [2, 1, 1]


class Refusing:
    """Does not say whether it equals another."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("cannot say")

    __hash__ = None


def test_parameters_that_cannot_be_compared_keep_requests_apart():
    class Odd(Weighted):
        def decode(self, body: bytes, content_type: str):
            rows, _ = Decoding.decode(self, body, content_type)
            return rows, Parameters(others={"odd": Refusing()})

        def predict(self, model: None, rows, parameters: Parameters):
            self.calls.append(len(rows))
            return rows[:, 0]

    handler = Odd(np.array, None)

    answers = ask(handler, {"rows": [[1, 2]]}, {"rows": [[3, 4]]})

    assert [answer["predictions"] for answer in answers] == [[1], [3]]
    assert handler.calls == [1, 1]


def test_true_is_not_one_where_a_parameter_says_so():
    class Naming(Decoding):
        def predict(self, model: None, rows, parameters: Parameters):
            return [type(parameters.others["top"]).__name__ for _ in rows]

    handler = Naming(np.array, None)

    answers = ask(
        handler,
        {"rows": [[1, 2]], "parameters": {"top": 1}},
        {"rows": [[1, 2]], "parameters": {"top": True}},
        {"rows": [[1, 2]], "parameters": {"top": 1.0}},
    )

    assert [answer["predictions"] for answer in answers] == [["int"], ["bool"], ["float"]]


def test_parameters_that_a_handler_does_not_read_keep_no_requests_apart():
    class Reading(Decoding):
        reads = ("top",)

        def predict(self, model: None, rows, parameters: Parameters):
            self.calls.append(len(rows))
            return [dict(parameters.others)] * len(rows)

    handler = Reading(np.array, None)
    handler.prepare(Path())
    requests = [
        Request(b'{"rows": [[1, 2]]}', attributes={"trace": str(place), "top": "3"})
        for place in range(5)
    ]

    replies = handler.answer(requests)

    assert handler.calls == [5]
    assert {reply.body for reply in replies} == {b'{"predictions": [{"top": "3"}]}'}
    refused = handler.answer([Request(b'{"rows": [[1, 2]], "parameters": {"tpo": 3}}')])[0]
    assert refused.status == 400
    assert b"tpo" in refused.body


def test_a_sliced_answer_is_cut_by_place_and_not_by_label():
    handler = Decoding(
        np.array,
        lambda rows: Prediction(
            pd.Series(rows[:, 0], index=[0.5 * place for place in range(len(rows))]),
            others={"name": pd.DataFrame({"n": rows[:, 1]}, index=range(10, 10 + len(rows)))},
        ),
    )

    answers = ask(handler, {"rows": [[1, 2]]}, {"rows": [[3, 4], [5, 6]]})

    assert answers == [
        {"predictions": [1], "name": [{"n": 2}]},
        {"predictions": [3, 5], "name": [{"n": 4}, {"n": 6}]},
    ]
