"""How predictions become answers, in the format that Accept prefers."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest

from mmekit_runtime import Prediction, RequestError
from mmekit_runtime.encoding import encode


def test_what_is_no_finite_number_is_null_in_json_and_empty_or_inf_in_csv():
    values = np.array([1.0, np.nan, np.inf, -np.inf])

    assert encode(Prediction(values), "") == (
        b'{"predictions": [1.0, null, null, null]}',
        "application/json",
    )
    assert encode(Prediction(values), "text/csv")[0] == b'1.0\n""\ninf\n-inf\n'


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("text/*", "text/csv"),
        ("image/png, text/csv;q=0.5, application/x-npy;q=0.9", "application/x-npy"),
        ("application/jsonlines", "application/jsonlines"),
        ("text/csv;q=often", "text/csv"),
        ("text/csv;q=0, */*", "application/json"),
    ],
)
def test_the_answer_has_the_format_that_accept_prefers(accept, content_type):
    assert encode(Prediction([1, 2]), accept)[1] == content_type


def test_an_accept_without_any_known_format_is_406():
    with pytest.raises(RequestError) as raised:
        encode(Prediction([1]), "image/png")

    assert raised.value.status == 406


def test_probabilities_are_in_every_format():
    prediction = Prediction(np.array(["a", "b"]), np.array([[0.75, 0.25], [0.5, 0.5]]), ["a", "b"])

    assert json.loads(encode(prediction, "")[0]) == {
        "predictions": ["a", "b"],
        "probabilities": [[0.75, 0.25], [0.5, 0.5]],
        "classes": ["a", "b"],
    }
    assert encode(prediction, "text/csv")[0] == b"a,0.75,0.25\nb,0.5,0.5\n"
    lines = encode(prediction, "application/jsonlines")[0].splitlines()
    assert json.loads(lines[1]) == {"prediction": "b", "probabilities": [0.5, 0.5]}
    array = np.load(io.BytesIO(encode(prediction, "application/x-npy")[0]))
    assert array.tolist() == [[0.75, 0.25], [0.5, 0.5]]


def test_several_outputs_have_probabilities_each():
    values = np.array([[1, 0], [2, 1]])
    outputs = [np.array([[0.0, 1, 0], [0, 0, 1]]), np.array([[1.0, 0], [0, 1]])]
    prediction = Prediction(values, outputs, [[0, 1, 2], [0, 1]])

    assert json.loads(encode(prediction, "")[0])["probabilities"] == [
        [[0, 1, 0], [1, 0]],
        [[0, 0, 1], [0, 1]],
    ]
    assert encode(prediction, "text/csv")[0].splitlines()[0] == b"1,0,0.0,1.0,0.0,1.0,0.0"
    with pytest.raises(RequestError, match="differ in their number of classes"):
        encode(prediction, "application/x-npy")


def test_probabilities_may_be_plain_lists():
    prediction = Prediction(["a", "b"], [[0.75, 0.25], [0.5, 0.5]])

    assert json.loads(encode(prediction, "")[0])["probabilities"] == [
        [0.75, 0.25],
        [0.5, 0.5],
    ]
    assert json.loads(encode(prediction.slice(1, 2), "")[0])["probabilities"] == [[0.5, 0.5]]


def test_labels_as_npy_need_no_pickle():
    body, _ = encode(Prediction(np.array(["x", "yy"], dtype=object)), "application/x-npy")

    assert np.load(io.BytesIO(body), allow_pickle=False).tolist() == ["x", "yy"]


@pytest.mark.parametrize(
    "values",
    [
        [1.5, "a"],
        ["a", None],
        [True, None],
        [1 << 60, None],
        pd.DataFrame({"a": [1.5], "b": ["x"]}),
        [{"a": 1}],
    ],
)
def test_an_npy_of_several_kinds_would_make_texts_of_numbers_and_is_406(values):
    with pytest.raises(RequestError) as refused:
        encode(Prediction(values), "application/x-npy")

    assert refused.value.status == 406


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.5, None, np.inf], [1.5, np.nan, np.inf]),
        (pd.DataFrame({"a": [1, 2], "b": [0.5, None]}, dtype=object), [[1, 0.5], [2, np.nan]]),
        (["a", "bc"], ["a", "bc"]),
        (np.array(["a", "bc"], dtype=object), ["a", "bc"]),
    ],
)
def test_an_npy_holds_numbers_with_nan_for_missing_ones_or_texts(values, expected):
    body, _ = encode(Prediction(values), "application/x-npy")

    np.testing.assert_array_equal(np.load(io.BytesIO(body)), np.array(expected))
