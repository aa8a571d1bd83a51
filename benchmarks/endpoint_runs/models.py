"""Small models of four classes, trained here and packed with and without worker slots."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.archive import pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

CLASSES = ("ridge", "extra trees", "multi-output tree", "logistic regression")

# The first answer of a process says so: nothing else in an answer tells a client that it was cold.
_MODEL = '''"""Numbers in, a prediction out; the first answer of each process is marked."""

import joblib

from mmekit_runtime import Handler


class Small(Handler):
    first = True

    def load(self, folder):
        return joblib.load(folder / "model.joblib")

    def predict(self, model, rows, parameters):
        return model.predict(rows)

    def encode(self, prediction, accept):
        body, content_type = super().encode(prediction, accept)
        if self.first:
            self.first = False
            content_type += "; cold=1"
        return body, content_type


handle = Small()
'''
_PROPERTIES = "engine=Python\nminWorkers=1\nmaxWorkers={most}\nreserved_memory_mb=0\n"


@dataclass(frozen=True)
class SmallModel:
    """A trained model.

    Attributes
    ----------
    archive
        Its model.tar.gz.
    request
        The body of a request with one row.
    """

    name: str
    archive: Path
    request: bytes


def small_models(work: Path, *, worker_slots: bool = True) -> list[SmallModel]:
    """Train and pack one model of each class."""
    return [small_model(name, work, worker_slots=worker_slots) for name in CLASSES]


def small_model(name: str, work: Path, *, worker_slots: bool = True) -> SmallModel:
    """Train and pack a model of one class.

    Parameters
    ----------
    work
        Gets a folder of the model's own.
    worker_slots
        False: one worker of the plain engine.
    """
    import joblib

    folder = work / f"{name.replace(' ', '-')}-{'slots' if worker_slots else 'plain'}"
    package, artifacts = folder / "package", folder / "artifacts"
    package.mkdir(parents=True)
    artifacts.mkdir()
    model, row = _TRAINING[name]()
    joblib.dump(model, artifacts / "model.joblib", compress=3)
    request = json.dumps({"instances": [row.tolist()]}).encode()
    (package / "model.py").write_text(_MODEL)
    (package / "serving.properties").write_text(_PROPERTIES.format(most=16 if worker_slots else 1))
    (package / "sample_request.json").write_bytes(request)
    archive = folder / "model.tar.gz"
    pack(package, artifacts, archive, worker_slots=worker_slots)
    shutil.rmtree(package)
    return SmallModel(name, archive, request)


def _ridge() -> tuple[object, np.ndarray]:
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge

    values, target = load_diabetes(return_X_y=True)
    return Ridge().fit(values, target), values[0]


def _extra_trees() -> tuple[object, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import ExtraTreesClassifier

    values, digits = load_digits(return_X_y=True)
    forest = ExtraTreesClassifier(n_estimators=10, max_depth=8, random_state=0)
    return forest.fit(values, digits), values[0]


def _multi_output_tree() -> tuple[object, np.ndarray]:
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.tree import DecisionTreeClassifier

    values, digits = load_digits(return_X_y=True)
    labels = np.column_stack([digits, digits % 2])
    return DecisionTreeClassifier(max_depth=8, random_state=0).fit(values, labels), values[0]


def _logistic() -> tuple[object, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    values, digits = load_digits(return_X_y=True)
    return LogisticRegression(max_iter=50, tol=0.1).fit(values / 16, digits), values[0] / 16


_TRAINING: dict[str, Callable[[], tuple[object, np.ndarray]]] = dict(
    zip(CLASSES, (_ridge, _extra_trees, _multi_output_tree, _logistic), strict=True)
)
