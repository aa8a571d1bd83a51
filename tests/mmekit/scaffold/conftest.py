"""Artefacts of several libraries, made once, and `mme init` in a folder of its own."""

from __future__ import annotations

import joblib
import numpy as np
import pandas as pd
import pytest

from mmekit.scaffold import Wishes, init


@pytest.fixture(scope="session")
def customers():
    """Return a table of numbers, texts and gaps, and whether they left."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": random.integers(18, 90, 60),
            "income": random.normal(1000, 100, 60),
            "city": random.choice(["Oslo", "Rome"], 60),
        }
    )
    table.loc[::7, "income"] = np.nan
    return table, pd.Series(np.where(table["age"] > 50, "stays", "leaves"), name="left")


@pytest.fixture(scope="session")
def pipeline(customers):
    """Return a pipeline that selects columns by name."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer((numbers, ["age", "income"]), (OneHotEncoder(), ["city"]))
    return make_pipeline(columns, LogisticRegression()).fit(*customers)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def saved(here):
    """Return a function that saves a model by joblib, and returns the file."""

    def save(model, name="model.joblib"):
        joblib.dump(model, here / name)
        return here / name

    return save


@pytest.fixture
def initialise(here):
    def make(artifact, **wishes):
        return init(Wishes("made", artifact, **wishes))

    return make
