"""setfit_classifier: sentences in, intents out."""

from __future__ import annotations

import json

import pytest

from mmekit.testing import agree, read_sample

# Libraries of the sentence model warn of their own deprecations.
pytestmark = pytest.mark.filterwarnings("default")

TEXTS = ["Where is my parcel?", "I forgot my password, and the mail never comes."]
EXPECTED = {"predictions": ["delivery", "account"]}


@pytest.fixture
def model(setfit_classifier):
    return setfit_classifier


def test_the_sample_request_gets_the_sample_answer(model, packages):
    sample = read_sample(packages / "setfit_classifier")
    answer = model.invoke(sample.body, content_type=sample.content_type)
    assert answer.status == 200
    assert agree(answer.json(), sample.answer)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps({"instances": TEXTS})),
        ("application/json", json.dumps({"inputs": TEXTS})),
        ("application/json", json.dumps(TEXTS)),
        ("text/plain", "\n".join(TEXTS)),
        ("text/plain; charset=utf-8", "\r\n".join(TEXTS) + "\r\n\r\n"),
        ("text/csv", "\n".join(f'"{text}"' for text in TEXTS)),
        ("text/csv", "text\n" + "\n".join(f'"{text}"' for text in TEXTS)),
        ("application/jsonlines", "\n".join(json.dumps({"text": text}) for text in TEXTS)),
    ],
)
def test_every_content_type_carries_two_sentences(model, content_type, body):
    answer = model.invoke(body, content_type=content_type)
    assert answer.status == 200, answer.text
    assert answer.json() == EXPECTED


def test_one_sentence_gets_one_label(model):
    assert model.invoke(json.dumps({"inputs": TEXTS[0]})).json() == {"predictions": ["delivery"]}


def test_probabilities_on_request(model):
    answer = model.invoke(
        "\n".join(TEXTS), content_type="text/plain", attributes="probabilities=true"
    ).json()
    assert answer["classes"] == ["account", "billing", "delivery", "returns"]
    for label, row in zip(answer["predictions"], answer["probabilities"], strict=True):
        assert sum(row) == pytest.approx(1)
        assert answer["classes"][row.index(max(row))] == label


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", "", 400),
        ("application/json", '{"instances": [1, 2]}', 400),
        ("application/json", '{"instances": []}', 400),
        ("text/plain", "\n \n", 400),
        ("audio/wav", "RIFF", 415),
    ],
)
def test_what_is_no_text_is_refused(model, content_type, body, status):
    answer = model.invoke(body, content_type=content_type)
    assert answer.status == status
    assert answer.json()["expected"]
    assert answer.json()["received"]
