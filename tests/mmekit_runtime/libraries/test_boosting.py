"""Boosters answer what the estimators of their libraries say that saved them."""

from __future__ import annotations

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost

import mmekit
from mmekit.errors import ModelLoadError


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    table = pd.DataFrame({"size": random.normal(size=80), "age": random.normal(size=80)})
    table.loc[::7, "age"] = np.nan
    # Not the order of the alphabet: a code taken from that would be another city's.
    cities = random.choice(["Oslo", "Rome", "Bern"], 80)
    table["city"] = pd.Categorical(cities, categories=["Rome", "Oslo", "Bern"])
    return table


@pytest.fixture(scope="module")
def labels(table):
    effect = table["size"] + table["city"].map({"Rome": 2.0, "Oslo": -2.0, "Bern": 0.0}).astype(
        float
    )
    return np.digitize(effect, [-0.5, 1.0])


def numbers(table):
    return table[["size", "age"]]


def instances(table):
    return [
        {name: None if value != value else value for name, value in row.items()}  # noqa: PLR0124
        for row in table.to_dict("records")
    ]


XGBOOST = {"n_estimators": 8, "max_depth": 3, "tree_method": "hist", "n_jobs": 1}
LIGHTGBM = {"n_estimators": 8, "min_child_samples": 3, "verbose": -1, "n_jobs": 1}


@pytest.mark.parametrize("name", ["model.ubj", "model.json"])
@pytest.mark.parametrize("classes", [2, 3])
def test_xgboost_s_classifier_answers_labels(
    artifacts, served, asked, table, labels, name, classes
):
    model = xgboost.XGBClassifier(**XGBOOST).fit(numbers(table), labels % classes)
    model.save_model(artifacts / name)
    rows = instances(numbers(table))
    answer = asked(served(f'XGBoostHandler("{name}")'), rows, probabilities=True)
    assert answer["predictions"] == model.predict(numbers(table)).tolist()
    assert np.allclose(answer["probabilities"], model.predict_proba(numbers(table)))
    assert answer["classes"] == list(range(classes))


def test_xgboost_s_regression_and_ranking_are_as_they_are(artifacts, served, asked, table):
    rows = numbers(table)
    for model in (
        xgboost.XGBRegressor(**XGBOOST).fit(rows, rows["size"]),
        xgboost.XGBRanker(**XGBOOST).fit(rows, rows["size"] > 0, qid=np.repeat([0, 1], 40)),
        xgboost.XGBRegressor(booster="gblinear", n_estimators=4).fit(rows, rows["size"]),
    ):
        model.save_model(artifacts / "model.ubj")
        handler = served('XGBoostHandler("model.ubj")')
        answer = asked(handler, instances(rows))
        assert np.allclose(answer["predictions"], model.predict(rows), rtol=1e-6)
    refused = asked(handler, instances(rows), status=400, probabilities=True)
    assert "XGBoost with reg:squarederror" in refused["expected"]


def test_several_labels_of_xgboost_have_probabilities_each(artifacts, served, asked, table):
    rows = numbers(table)
    several = np.column_stack([rows["size"] > 0, rows["size"] > 1]).astype(int)
    model = xgboost.XGBClassifier(**XGBOOST).fit(rows, several)
    model.save_model(artifacts / "model.ubj")
    answer = asked(served('XGBoostHandler("model.ubj")'), instances(rows), probabilities=True)
    assert answer["predictions"] == model.predict(rows).tolist()
    positive = np.array(answer["probabilities"])[..., 1]
    assert np.allclose(positive, model.predict_proba(rows))


def test_a_training_that_stopped_early_answers_with_its_best_iteration(
    artifacts, served, asked, table, labels
):
    rows = numbers(table)
    random = np.random.default_rng(1)
    model = xgboost.XGBClassifier(**XGBOOST | {"n_estimators": 60}, early_stopping_rounds=8)
    model.fit(rows, labels > 0, eval_set=[(rows, random.integers(0, 2, 80))], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    model.save_model(artifacts / "model.ubj")
    answer = asked(served('XGBoostHandler("model.ubj")'), instances(rows), probabilities=True)
    assert np.allclose(answer["probabilities"], model.predict_proba(rows))


def test_classes_are_called_what_model_py_says(artifacts, served, asked, table, labels):
    xgboost.XGBClassifier(**XGBOOST).fit(numbers(table), labels > 0).save_model(
        artifacts / "model.ubj"
    )
    model = served('XGBoostHandler("model.ubj", classes=("no", "yes"))')
    answer = asked(model, instances(numbers(table)), probabilities=True)
    assert set(answer["predictions"]) == {"no", "yes"}
    assert answer["classes"] == ["no", "yes"]
    with pytest.raises(ModelLoadError, match="has 2 classes, and model"):
        served('XGBoostHandler("model.ubj", classes=("no", "yes", "perhaps"))')


def test_xgboost_s_categories_need_their_order_in_training(artifacts, served, asked, table, labels):
    model = xgboost.XGBClassifier(**XGBOOST, enable_categorical=True).fit(table, labels)
    model.save_model(artifacts / "model.ubj")
    with pytest.raises(ModelLoadError, match=r"column city of model.ubj .* signature.json"):
        served('XGBoostHandler("model.ubj")')
    (artifacts / "signature.json").write_bytes(mmekit.signature(table, model=model).to_json())
    handler = served('XGBoostHandler("model.ubj")')
    answer = asked(handler, instances(table), probabilities=True)
    assert np.allclose(answer["probabilities"], model.predict_proba(table))
    refused = asked(handler, [{"size": 1, "age": 1, "city": "Paris"}], status=400)
    assert "one of 'Rome', 'Oslo', 'Bern'" in refused["expected"]


@pytest.mark.parametrize("classes", [2, 3])
def test_lightgbm_s_classifier_answers_labels_and_knows_its_categories(
    artifacts, served, asked, table, labels, classes
):
    model = lightgbm.LGBMClassifier(**LIGHTGBM).fit(table, labels % classes)
    model.booster_.save_model(artifacts / "model.txt")
    handler = served('LightGBMHandler("model.txt")')
    answer = asked(handler, instances(table), probabilities=True)
    assert answer["predictions"] == model.predict(table).tolist()
    assert np.allclose(answer["probabilities"], model.predict_proba(table))
    refused = asked(handler, [{"size": 1, "age": 1, "city": "Paris"}], status=400)
    assert "'Paris' in row 0, column city" in refused["received"]
    refused = asked(handler, [{"size": "Oslo", "age": 1, "city": "Oslo"}], status=400)
    assert "a number or nothing in the column size" in refused["expected"]


def test_lightgbm_s_regression_is_as_it_is(artifacts, served, asked, table):
    rows = numbers(table)
    model = lightgbm.LGBMRegressor(**LIGHTGBM).fit(rows, rows["size"])
    model.booster_.save_model(artifacts / "model.txt")
    answer = asked(served('LightGBMHandler("model.txt")'), instances(rows))
    assert np.allclose(answer["predictions"], model.predict(rows))


def test_categories_of_lightgbm_that_no_tree_uses_are_told_by_the_signature(
    artifacts, served, asked, table, labels
):
    single = pd.Categorical(["same"] * len(table))
    wide = table.assign(only=single)
    model = lightgbm.LGBMClassifier(**LIGHTGBM).fit(wide, labels)
    model.booster_.save_model(artifacts / "model.txt")
    with pytest.raises(ModelLoadError, match="2 columns of categories, and does not say which"):
        served('LightGBMHandler("model.txt")')
    (artifacts / "signature.json").write_bytes(mmekit.signature(wide).to_json())
    answer = asked(served('LightGBMHandler("model.txt")'), instances(wide))
    assert answer["predictions"] == model.predict(wide).tolist()
