"""CatBoostHandler answers what CatBoost says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def catboost():
    """Return the library, imported here: it takes long in each process that collects the tests."""
    import catboost

    return catboost


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    table = pd.DataFrame({"size": random.normal(size=80), "city": random.choice(["a", "b"], 80)})
    table["rooms"] = random.integers(1, 4, 80)
    table.loc[::9, "size"] = np.nan
    return table


QUIET = {"iterations": 8, "verbose": False, "allow_writing_files": False, "thread_count": 1}


def instances(table):
    return [
        {name: None if value != value else value for name, value in row.items()}  # noqa: PLR0124
        for row in table.to_dict("records")
    ]


@pytest.mark.parametrize("classes", [["no", "yes"], ["low", "mid", "high"]])
def test_a_classifier_answers_the_names_of_its_classes(
    artifacts, served, asked, catboost, table, classes
):
    labels = np.array(classes)[np.arange(80) % len(classes)]
    model = catboost.CatBoostClassifier(**QUIET, cat_features=["city", "rooms"])
    model.fit(table, labels).save_model(artifacts / "model.cbm")
    answer = asked(served('CatBoostHandler("model.cbm")'), instances(table), probabilities=True)
    assert answer["predictions"] == model.predict(table).ravel().tolist()
    assert np.allclose(answer["probabilities"], model.predict_proba(table))
    assert answer["classes"] == sorted(classes)


@pytest.mark.parametrize("loss", ["RMSE", "Poisson"])
def test_a_regressor_answers_numbers(artifacts, served, asked, catboost, table, loss):
    model = catboost.CatBoostRegressor(**QUIET, cat_features=["city"], loss_function=loss)
    model.fit(table, np.abs(table["size"].fillna(0))).save_model(artifacts / "model.cbm")
    handler = served('CatBoostHandler("model.cbm")')
    assert np.allclose(asked(handler, instances(table))["predictions"], model.predict(table))
    assert (
        "CatBoost" in asked(handler, instances(table), status=400, probabilities=True)["expected"]
    )


def test_several_labels_have_probabilities_each(artifacts, served, asked, catboost, table):
    rows = table[["size", "rooms"]]
    several = np.column_stack([rows["rooms"] > 1, rows["rooms"] > 2]).astype(int)
    model = catboost.CatBoostClassifier(**QUIET, loss_function="MultiLogloss")
    model.fit(rows, several).save_model(artifacts / "model.cbm")
    answer = asked(served('CatBoostHandler("model.cbm")'), instances(rows), probabilities=True)
    assert answer["predictions"] == model.predict(rows).tolist()
    positive = np.array(answer["probabilities"])[..., 1]
    assert np.allclose(positive, model.predict_proba(rows))
