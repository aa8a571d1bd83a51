"""setfit_onnx: the answers of setfit_classifier from a process that never imports torch."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmekit.testing import load_handler, read_sample

# Libraries of the sentence model warn of their own deprecations.
pytestmark = pytest.mark.filterwarnings("default")

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "model_packages" / "setfit_onnx"


@pytest.fixture(scope="module")
def artifacts(setfit_classifier, tmp_path_factory):
    """Return what notebook 7 makes of a SetFit model."""
    folder = str(ROOT / "notebooks" / "networks")
    sys.path.insert(0, folder)
    try:
        import sentences
    finally:
        sys.path.remove(folder)
    artifacts = tmp_path_factory.mktemp("artifacts")
    sentences.export(setfit_classifier.folder / "setfit", artifacts)
    return artifacts


@pytest.fixture(scope="module")
def model(artifacts):
    with load_handler(PACKAGE, artifacts) as model:
        yield model


@pytest.fixture(scope="module")
def texts():
    with (ROOT / "notebooks" / "data" / "support_requests.csv").open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)][::8]


def test_the_sample_request_gets_the_sample_answer(model):
    sample = read_sample(PACKAGE)
    answer = model.invoke(sample.body, content_type=sample.content_type)
    assert (answer.status, answer.json()) == (200, sample.answer)


@pytest.mark.parametrize("kind", ["many", "long"])
def test_labels_and_probabilities_are_those_of_setfit(model, setfit_classifier, texts, kind):
    # A long one has more words than the sentence model reads.
    body = json.dumps([*texts, ""] if kind == "many" else " ".join(texts * 5))
    answers = [
        one.invoke(body, attributes="probabilities=true").json()
        for one in (model, setfit_classifier)
    ]
    assert answers[0]["predictions"] == answers[1]["predictions"]
    assert answers[0]["classes"] == answers[1]["classes"]
    assert np.allclose(answers[0]["probabilities"], answers[1]["probabilities"], atol=1e-5)


def test_a_sentence_is_answered_alike_alone_and_among_others(model, texts):
    together = model.invoke(json.dumps(texts), attributes="probabilities=true").json()
    alone = model.invoke(json.dumps(texts[:1]), attributes="probabilities=true").json()
    assert np.allclose(together["probabilities"][0], alone["probabilities"][0], atol=1e-5)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [("", "application/json", 400), ("[1]", "application/json", 400), ("x", "audio/wav", 415)],
)
def test_what_is_no_text_is_refused(model, body, content_type, status):
    assert model.invoke(body, content_type=content_type).status == status


def test_nothing_imports_torch(artifacts):
    code = f"""
import sys
from mmekit.testing import load_handler
with load_handler({str(PACKAGE)!r}, {str(artifacts)!r}) as model:
    assert model.invoke('["Where is my parcel?"]').json() == {{"predictions": ["delivery"]}}
print(*sorted({{"torch", "transformers", "setfit", "sklearn"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
