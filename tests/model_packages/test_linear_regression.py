"""linear_regression: one number in, one number out, any number of records."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from mmekit.testing import agree, read_sample

EXPECTED = [204.0718667550341, 132.8872190291942]


@pytest.fixture
def model(linear_regression):
    return linear_regression


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


def npz(array):
    buffer = io.BytesIO()
    np.savez(buffer, np.asarray(array))
    return buffer.getvalue()


def test_the_sample_request_gets_the_sample_answer(model, packages):
    sample = read_sample(packages / "linear_regression")
    answer = model.invoke(sample.body, content_type=sample.content_type)
    assert answer.status == 200
    assert answer.content_type == "application/json"
    assert agree(answer.json(), sample.answer)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"instances": [[0.05], [-0.02]]}'),
        ("application/json", b'{"inputs": [[0.05], [-0.02]]}'),
        ("application/json", b"[[0.05], [-0.02]]"),
        ("application/json", b'{"instances": [0.05, -0.02]}'),
        ("application/json; charset=utf-8", b"[0.05, -0.02]"),
        ("text/csv", b"0.05\n-0.02\n"),
        ("text/csv", b"bmi\r\n0.05\r\n-0.02\r\n"),
        ("text/csv; header=present", b"bmi\n0.05\n-0.02"),
        ("application/jsonlines", b"[0.05]\n[-0.02]\n"),
        ("application/x-npy", npy([[0.05], [-0.02]])),
        ("application/x-npz", npz([[0.05], [-0.02]])),
    ],
)
def test_every_content_type_carries_two_records(model, content_type, body):
    answer = model.invoke(body, content_type=content_type)
    assert answer.status == 200, answer.text
    assert agree(answer.json(), {"predictions": EXPECTED})


def test_one_record_gets_one_prediction(model):
    assert agree(model.invoke("[[0.05]]").json(), {"predictions": EXPECTED[:1]})


def test_a_thousand_records_get_a_thousand_predictions(model):
    answer = model.invoke(
        npy(np.linspace(-0.1, 0.2, 1000).reshape(-1, 1)), content_type="application/x-npy"
    )
    assert len(answer.json()["predictions"]) == 1000


def read_json_lines(answer):
    return [json.loads(line)["prediction"] for line in answer.text.splitlines()]


@pytest.mark.parametrize(
    ("accept", "read"),
    [
        ("application/json", lambda answer: answer.json()["predictions"]),
        ("text/csv", lambda answer: [float(line) for line in answer.text.splitlines()]),
        ("application/jsonlines", read_json_lines),
        ("application/x-npy", lambda answer: np.load(io.BytesIO(answer.body)).tolist()),
    ],
)
def test_the_answer_has_the_format_that_accept_names(model, accept, read):
    answer = model.invoke("0.05\n-0.02", content_type="text/csv", accept=accept)
    assert answer.content_type == accept
    assert agree(read(answer), EXPECTED)


@pytest.mark.parametrize("accept", [None, "*/*", "application/*"])
def test_a_client_that_asks_for_nothing_gets_json(model, accept):
    assert model.invoke("[0.05]", accept=accept).content_type == "application/json"


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"", 400),
        ("application/json", b"{not json", 400),
        ("application/json", b'{"rows": [[1]]}', 400),
        ("application/json", b'{"instances": []}', 400),
        ("application/json", b'{"instances": [[0.05, 0.02]]}', 400),
        ("application/json", b'{"instances": [[0.05], [0.02, 0.03]]}', 400),
        ("application/json", b'{"instances": [["heavy"]]}', 400),
        ("application/json", b'{"instances": [[NaN]]}', 400),
        ("application/json", b'{"instances": [[Infinity]]}', 400),
        ("text/csv", b"0.05,0.02\n", 400),
        ("text/csv", b"0.05\nmuch\n", 400),
        ("text/csv", b"\xff\xfe", 400),
        ("application/x-npy", b"not an array", 400),
        ("application/x-npy", npy(np.zeros((2, 2))), 400),
        ("image/png", b"\x89PNG", 415),
    ],
)
def test_a_bad_request_is_told_what_was_expected_and_what_came(model, content_type, body, status):
    answer = model.invoke(body, content_type=content_type)
    assert answer.status == status
    content = answer.json()
    assert content["code"] == status
    assert content["expected"]
    assert content["received"]
    assert "\n" not in answer.message
    assert model.invoke("[0.05]").ok, "the model lives on"
