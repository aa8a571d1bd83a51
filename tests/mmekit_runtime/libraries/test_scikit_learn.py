"""SklearnHandler answers what the estimator itself says."""

from __future__ import annotations

import pickle

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import make_column_transformer
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

from mmekit.errors import ModelLoadError
from mmekit_runtime.libraries.scikit_learn import HARMLESS
from tests import skops_files


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    rows = random.normal(size=(60, 3))
    return rows, np.where(rows[:, 0] > 0, "up", "down")


@pytest.fixture
def joblib_of(artifacts, served):
    def load(model):
        joblib.dump(model, artifacts / "model.joblib")
        return served('SklearnHandler("model.joblib")')

    return load


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("model.joblib", joblib.dump),
        ("small.joblib", lambda model, path: joblib.dump(model, path, compress=3)),
        ("model.pkl", lambda model, path: path.write_bytes(pickle.dumps(model))),
        ("model.pickle", lambda model, path: path.write_bytes(pickle.dumps(model, protocol=2))),
        ("model.cloudpkl", lambda model, path: path.write_bytes(cloudpickle.dumps(model))),
        ("model.skops", skops_files.dump),
    ],
)
def test_every_way_of_saving_is_read(artifacts, served, asked, data, name, save):
    rows, labels = data
    model = LogisticRegression().fit(rows, labels)
    save(model, artifacts / name)
    answer = asked(served(f'SklearnHandler("{name}")'), rows.tolist())
    assert answer == {"predictions": model.predict(rows).tolist()}


def test_probabilities_come_with_the_labels_that_predict_says(joblib_of, asked, data):
    rows, labels = data
    model = KNeighborsClassifier(4).fit(rows, labels)  # draws are decided by predict alone
    answer = asked(joblib_of(model), rows.tolist(), probabilities=True)
    assert answer["predictions"] == model.predict(rows).tolist()
    assert answer["probabilities"] == model.predict_proba(rows).tolist()
    assert answer["classes"] == ["down", "up"]


def test_probabilities_of_a_model_without_are_refused(joblib_of, asked, data):
    model = joblib_of(LinearSVC().fit(*data))
    answer = asked(model, [[1, 2, 3]], status=400, probabilities=True)
    assert "LinearSVC" in answer["expected"]
    assert asked(model, [[9, 2, 3]]) == {"predictions": ["up"]}


@pytest.mark.parametrize("kind", [MultiOutputClassifier, ClassifierChain])
def test_several_outputs_have_probabilities_each(joblib_of, asked, data, kind):
    rows, labels = data
    several = np.column_stack([labels == "up", rows[:, 1] > 0]).astype(int)
    model = kind(LogisticRegression()).fit(rows, several)
    answer = asked(joblib_of(model), rows[:5].tolist(), probabilities=True)
    said = model.predict_proba(rows[:5])
    positive = np.column_stack([one[:, 1] for one in said]) if isinstance(said, list) else said
    assert answer["predictions"] == model.predict(rows[:5]).tolist()
    assert np.allclose(np.array(answer["probabilities"])[..., 1], positive)
    assert answer["classes"] == [[0, 1], [0, 1]]


def test_a_regressor_an_outlier_detector_and_clusters_predict(tmp_path, joblib_of, asked, data):
    rows, _ = data
    for model in (
        Ridge().fit(rows, rows[:, 0]),
        IsolationForest(n_estimators=5, random_state=0).fit(rows),
        KMeans(2, n_init=1, random_state=0).fit(rows),
    ):
        answer = asked(joblib_of(model), rows.tolist())
        assert np.allclose(answer["predictions"], model.predict(rows))


def test_a_transformer_transforms(joblib_of, asked, data):
    rows, _ = data
    model = StandardScaler().fit(rows)
    assert np.allclose(asked(joblib_of(model), rows.tolist())["predictions"], model.transform(rows))


def test_clusters_that_cannot_be_asked_again_do_not_load(joblib_of, data):
    with pytest.raises(ModelLoadError, match="DBSCAN, which has neither predict nor transform"):
        joblib_of(DBSCAN().fit(data[0]))


def test_a_pipeline_that_counts_words_takes_texts(joblib_of, asked):
    texts = ["late parcel", "wrong invoice", "parcel lost", "invoice twice"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit(texts, ["delivery", "billing"] * 2)
    served = joblib_of(model)
    assert asked(served, texts) == {"predictions": ["delivery", "billing"] * 2}
    lines = served.invoke("late parcel\nwrong invoice\n", content_type="text/plain")
    assert lines.json() == {"predictions": ["delivery", "billing"]}


def test_a_pipeline_fitted_on_a_frame_is_asked_by_name(joblib_of, asked):
    table = pd.DataFrame({"age": [20.0, np.nan, 60, 70], "city": ["Oslo", "Rome", "Oslo", "Rome"]})
    model = make_pipeline(
        make_column_transformer((SimpleImputer(), ["age"]), (OneHotEncoder(), ["city"])),
        LogisticRegression(),
    ).fit(table, ["a", "a", "b", "b"])
    served = joblib_of(model)
    records = [{"city": "Rome", "age": 21}, {"city": "Oslo", "age": None}]
    expected = model.predict(pd.DataFrame(records, columns=["age", "city"])).tolist()
    assert asked(served, records) == {"predictions": expected}
    refused = asked(served, [{"city": "Paris", "age": 1}], status=400)
    assert "'Paris' in row 0, column city" in refused["received"]


def test_names_of_numbers_need_no_pandas_and_no_warning(joblib_of, asked):
    table = pd.DataFrame({"a": [1.0, 2, 3], "b": [3.0, 1, 2]})
    model = Ridge().fit(table, [1, 2, 3])
    # Warnings are errors here, and scikit-learn warns of arrays without names.
    answer = asked(joblib_of(model), [{"b": 1, "a": 5}])
    assert np.allclose(answer["predictions"], model.predict(pd.DataFrame({"a": [5], "b": [1]})))


def test_trees_refuse_what_float32_cannot_hold(joblib_of, asked, data):
    served = joblib_of(RandomForestClassifier(3).fit(*data))
    assert "3.4e+38" in asked(served, [[1e39, 0, 0]], status=400)["expected"]


def test_a_forest_answers_on_one_thread(artifacts, data):
    from mmekit_runtime import SklearnHandler

    model = make_pipeline(StandardScaler(), RandomForestClassifier(3, n_jobs=-1)).fit(*data)
    joblib.dump(model, artifacts / "model.joblib")
    loaded = SklearnHandler("model.joblib").load(artifacts)
    assert loaded[-1].n_jobs == 1


def test_types_that_skops_does_not_know_are_named_in_model_py(artifacts, served, asked):
    skops_files.dump(DecisionTreeRegressor().fit([[1.0], [3.0]], [2, 6]), artifacts / "model.skops")
    with pytest.raises(ModelLoadError, match=r'trusted=\("sklearn.tree._tree.Tree",\)'):
        served('SklearnHandler("model.skops")')
    model = served('SklearnHandler("model.skops", trusted=("sklearn.tree._tree.Tree",))')
    assert asked(model, [[3]]) == {"predictions": [6.0]}


def test_a_type_that_only_holds_a_value_need_not_be_named(artifacts, served, asked):
    skops_files.dump(SimpleImputer().fit([[1.0], [3.0]]), artifacts / "model.skops")
    assert skops_files.untrusted(artifacts / "model.skops") == ["numpy.dtype"]
    assert asked(served('SklearnHandler("model.skops")'), [[None]]) == {"predictions": [[2.0]]}


def test_what_a_newer_skops_trusts_by_itself_an_older_one_is_told_to():
    from skops.io import _trusted_types as trusted

    newer = {
        *getattr(trusted, "SKLEARN_INTERNAL_TYPE_NAMES", ()),
        *getattr(trusted, "NUMPY_RANDOM_BIT_GENERATOR_TYPE_NAMES", ()),
    }
    assert newer <= set(HARMLESS)
