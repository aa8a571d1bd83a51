"""`mme init`: an artefact becomes a package that answers as the library does."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

import mmekit
from mmekit.errors import PackageError
from mmekit.scaffold import Wishes, init
from mmekit.testing import load_handler
from mmekit_runtime import Signature

FEATURES = """
from sklearn.base import BaseEstimator


class Oldest(BaseEstimator):
    def __init__(self, years):
        self.years = years

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return (X["age"] > self.years).to_numpy()
"""


@pytest.fixture
def example(here, customers):
    table, left = customers
    table.assign(left=left).to_csv(here / "customers.csv", index=False)
    return here / "customers.csv"


def test_a_pipeline_becomes_three_lines_that_answer_as_it_does(
    here, saved, initialise, example, pipeline, customers
):
    made = initialise(saved(pipeline), example=example)
    assert made.package == Path("model_packages/made")
    assert (made.package / "model.py").read_text() == (
        'from mmekit_runtime import SklearnHandler\n\nhandle = SklearnHandler("model.joblib")\n'
    )
    assert (made.package / "requirements.txt").read_text().split() == [
        "joblib",
        "scikit-learn==1.7.2",
        f"pandas=={pd.__version__}",
    ]
    assert "option.modelName=made" in (made.package / "serving.properties").read_text()
    assert made.left_out == ("left",)
    assert made.inspected.runs_code
    with load_handler(made.package, made.artifacts) as model:
        other = {"city": "Rome", "income": 1000.5, "age": 70.5}
        expected = pipeline.predict(pd.DataFrame([other])).tolist()
        answer = model.invoke(json.dumps({"instances": [other]}))
        assert answer.json() == {"predictions": expected}
        sample = (made.package / "sample_request.json").read_bytes()
        answer = json.loads((made.package / "sample_response.json").read_text())
        assert model.invoke(sample).json() == answer
        assert answer["predictions"] == pipeline.predict(customers[0].head(2)).tolist()


def test_whole_numbers_and_full_columns_of_an_example_are_chance(
    saved, initialise, example, pipeline
):
    signature = initialise(saved(pipeline), example=example).signature
    columns = {column.name: column for column in signature.inputs}
    assert columns["age"].type == "double"
    assert columns["age"].missing
    assert columns["city"].known == ("Oslo", "Rome")
    assert [column.type for column in signature.outputs] == ["string"]


@pytest.mark.thorough
def test_the_test_of_the_package_passes_and_is_not_packed(here, saved, initialise, customers):
    from sklearn.linear_model import Ridge

    table, _ = customers
    made = initialise(saved(Ridge().fit(table[["age"]], table["age"])))
    assert made.sample.made_up
    # In a process of its own: the package's test has a fixture of the plugin.
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(made.test)],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in ran.stdout, ran.stdout
    packed = mmekit_pack(made)
    assert not [name for name in packed.files if name.startswith(("test_", "sample_"))]
    assert "signature.json" in packed.files


def mmekit_pack(made):
    from mmekit.archive import pack

    return pack(made.package, made.artifacts, Path("made.tar.gz"))


def test_without_an_example_the_sample_is_made_of_what_the_model_tells(saved, initialise, pipeline):
    made = initialise(saved(pipeline))
    assert made.sample.made_up
    assert made.sample.instances[0] == {"age": 0.0, "income": 0.0, "city": "Oslo"}
    assert len(made.answer["predictions"]) == 2


def test_texts_and_arrays_have_samples_too(here, saved, initialise):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = pd.DataFrame({"text": ["late parcel", "wrong bill"], "intent": ["d", "b"]})
    texts.to_csv("texts.csv", index=False)
    model = make_pipeline(CountVectorizer(), LogisticRegression())
    model.fit(texts["text"], texts["intent"])
    made = initialise(saved(model), example=here / "texts.csv", target="intent")
    assert made.sample.instances == ("late parcel", "wrong bill")
    assert made.answer == {"predictions": ["d", "b"]}
    assert made.signature is None
    wide = LogisticRegression().fit(np.eye(4), [0, 1, 0, 1])
    np.save("rows.npy", np.eye(4))
    made = init(Wishes("wide", saved(wide), example=here / "rows.npy"))
    assert made.answer == {"predictions": wide.predict(np.eye(4)[:2]).tolist()}


def test_names_of_the_example_are_taken_for_a_model_that_knows_none(here, saved, initialise):
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[1.0, 0], [0, 1], [1, 1]], [10, 1, 11])
    Path("rows.csv").write_text("tens,ones\n2,3\n")
    made = initialise(saved(model), example=here / "rows.csv")
    with load_handler(made.package, made.artifacts) as served:
        answer = served.invoke("ones,tens\n4,5.5\n", content_type="text/csv")
        assert np.allclose(answer.json()["predictions"], [59])
    assert "pandas" not in (made.package / "requirements.txt").read_text()


def test_code_of_one_s_own_travels_in_the_package(here, initialise, customers, monkeypatch):
    folder = here / "training"
    folder.mkdir()
    (folder / "oldest.py").write_text(FEATURES)
    monkeypatch.syspath_prepend(folder)
    from oldest import Oldest

    (here / "model.pkl").write_bytes(pickle.dumps(Oldest(50)))
    monkeypatch.undo()
    monkeypatch.chdir(here)
    del sys.modules["oldest"]
    customers[0].to_csv("rows.csv", index=False)
    with pytest.raises(PackageError, match="imports the module oldest") as caught:
        initialise(here / "model.pkl", example=here / "rows.csv")
    assert "--code oldest.py" in caught.value.remedy
    code = (folder / "oldest.py",)
    made = initialise(here / "model.pkl", example=here / "rows.csv", code=code)
    assert (made.package / "oldest.py").read_text() == FEATURES
    assert made.signature.frame
    assert made.answer == {
        "predictions": (customers[0]["age"][:2] > 50).tolist(),
    }
    del sys.modules["oldest"]


def test_a_class_of_main_is_told_where_to_put_it(here):
    script = (
        "import joblib\n"
        "class Doubling:\n"
        "    def predict(self, rows): return rows\n"
        "joblib.dump(Doubling(), 'model.joblib')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=here, check=True)
    with pytest.raises(PackageError, match="asks for Doubling of __main__") as caught:
        init(Wishes("made", here / "model.joblib"))
    assert "features.py" in caught.value.remedy
    assert not (here / "model_packages").exists()


def test_a_pickle_becomes_a_skops_file_where_its_answers_stay(saved, initialise, example, pipeline):
    made = initialise(saved(pipeline), example=example, convert_to_skops=True)
    assert [entry.name for entry in sorted(made.artifacts.iterdir())] == [
        "model.skops",
        "signature.json",
    ]
    assert not made.inspected.runs_code
    assert made.placed == "converted"
    assert "joblib" not in (made.package / "requirements.txt").read_text()
    with pytest.raises(PackageError, match="cannot be compared") as caught:
        init(Wishes("blind", saved(pipeline), convert_to_skops=True))
    assert "--example" in caught.value.remedy


def test_a_type_that_skops_does_not_know_is_for_the_user_to_trust(here, saved, initialise):
    from sklearn.tree import DecisionTreeRegressor

    path = saved(DecisionTreeRegressor().fit([[1.0], [3.0]], [2, 6]))
    Path("rows.csv").write_text("1\n3\n")
    wishes = {"example": here / "rows.csv", "convert_to_skops": True}
    with pytest.raises(PackageError, match=r"does not know: sklearn.tree._tree.Tree") as caught:
        initialise(path, **wishes)
    assert "--trust sklearn.tree._tree.Tree" in caught.value.remedy
    made = initialise(path, **wishes, trusted=("sklearn.tree._tree.Tree",))
    assert 'trusted=("sklearn.tree._tree.Tree",)' in (made.package / "model.py").read_text()
    assert made.answer == {"predictions": [2.0, 6.0]}
    with pytest.raises(PackageError, match=r"does not know: sklearn.tree._tree.Tree"):
        init(Wishes("again", made.artifacts / "model.skops"))


def test_skops_is_offered_where_it_can_hold_the_model(saved, initialise):
    from sklearn.linear_model import LinearRegression

    made = initialise(saved(LinearRegression().fit([[1.0], [2.0]], [1, 2])))
    assert made.skops_types == ()


def test_a_package_that_is_there_is_left_alone(here, saved, initialise):
    from sklearn.linear_model import LinearRegression

    path = saved(LinearRegression().fit([[1.0], [2.0]], [1, 2]))
    made = initialise(path)
    (made.package / "model.py").write_text("mine")
    with pytest.raises(PackageError, match="a package already"):
        initialise(path)
    assert (made.package / "model.py").read_text() == "mine"
    initialise(path, force=True)
    assert "SklearnHandler" in (made.package / "model.py").read_text()


def test_an_artefact_stays_where_it_is_or_is_linked(here, saved, initialise):
    from sklearn.linear_model import LinearRegression

    path = saved(LinearRegression().fit([[1.0], [2.0]], [1, 2]))
    made = initialise(path, link=True)
    assert made.placed == "linked"
    assert (made.artifacts / "model.joblib").resolve() == path
    (here / "trained").mkdir()
    path = path.rename(here / "trained" / "model.joblib")
    joblib.dump([1], here / "trained" / "split.pkl")
    made = init(Wishes("stays", path, artifacts=here / "trained"))
    assert made.placed == "left"
    assert "also holds split.pkl" in made.notes[0]


def test_what_training_wrote_down_counts_more_than_the_example(here, saved, initialise):
    from sklearn.linear_model import LinearRegression

    table = pd.DataFrame({"a": [1.0, 2.0, 4.0]})
    (here / "trained").mkdir()
    path = saved(LinearRegression().fit(table, [1, 2, 4]), "trained/model.joblib")
    (here / "trained" / "signature.json").write_bytes(
        mmekit.signature(table, pd.Series([1.0], name="price")).to_json()
    )
    made = initialise(path)
    assert made.signature.outputs[0].name == "price"
    assert Signature.read(made.artifacts) == made.signature


@pytest.mark.parametrize(
    ("held", "what"),
    [([1, 2], "holds a list, which has neither predict nor transform"), (b"bytes", "a bytes")],
)
def test_a_pickle_of_something_else_is_refused(here, saved, initialise, held, what):
    with pytest.raises(PackageError, match=what):
        initialise(saved(held))


def test_an_example_that_the_model_cannot_answer_is_said_to_be_one(
    here, saved, initialise, pipeline
):
    Path("rows.csv").write_text("age,income,city\n1,2,Paris\n")
    with pytest.raises(PackageError, match=r"model itself fails on the example: .*Paris") as caught:
        initialise(saved(pipeline), example=here / "rows.csv")
    assert "Parquet" in caught.value.remedy
    assert not (here / "model_packages").exists()


def test_a_name_that_no_endpoint_takes_is_refused(here, saved):
    with pytest.raises(PackageError, match="name consists of"):
        init(Wishes("a/b", here))


def test_the_version_that_wrote_the_model_is_the_one_asked_for(here, saved, initialise):
    from sklearn.linear_model import LinearRegression

    state = pickle.dumps(LinearRegression().fit([[1.0], [2.0]], [1, 2]))
    (here / "model.pkl").write_bytes(state.replace(b"1.7.2", b"1.7.1"))
    with pytest.warns(UserWarning, match=r"1\.7\.1"):
        made = initialise(here / "model.pkl")
    assert "scikit-learn==1.7.1" in (made.package / "requirements.txt").read_text()
    assert any("1.7.1" in note for note in made.notes)


def test_a_module_called_model_would_take_the_place_of_the_package_s(here, monkeypatch):
    (here / "model.py").write_text(FEATURES)
    script = "import joblib, model; joblib.dump(model.Oldest(50), 'oldest.joblib')"
    subprocess.run([sys.executable, "-c", script], cwd=here, check=True)
    monkeypatch.delitem(sys.modules, "model", raising=False)
    with pytest.raises(PackageError, match=r"model\.py is the name of a file"):
        init(Wishes("made", here / "oldest.joblib"))
    sys.modules.pop("model", None)


def test_pixels_are_a_sample_of_npy(here, initialise):
    import torch

    torch.jit.script(torch.nn.Flatten()).save("model.pt")
    np.save("rows.npy", np.ones((2, 3, 40, 40)))
    made = initialise(here / "model.pt", example=here / "rows.npy")
    sample = made.package / "sample_request.npy"
    assert np.load(sample).shape == (2, 3, 40, 40)
    with load_handler(made.package, made.artifacts) as model:
        answer = model.invoke(sample.read_bytes(), content_type="application/x-npy")
        assert answer.json() == made.answer


def test_a_library_that_is_not_installed_is_named(here):
    # As a pickle of a machine that has it: nothing but the name is looked at.
    (here / "model.pkl").write_bytes(b"\x80\x04clightgbm_of_tomorrow.sklearn\nRegressor\n.")
    with pytest.raises(PackageError, match="module lightgbm_of_tomorrow, which does not exist"):
        init(Wishes("made", here / "model.pkl"))


def test_a_parameter_that_nobody_reads_is_refused(saved, initialise):
    from sklearn.linear_model import LinearRegression

    made = initialise(saved(LinearRegression().fit([[1.0], [2.0]], [1, 2])))
    with load_handler(made.package, made.artifacts) as model:
        body = json.dumps({"instances": [[1]], "parameters": {"probabilites": True}})
        assert model.invoke(body).status == 400
