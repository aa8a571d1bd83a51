"""A model, whatever it is: rows in, one answer for each of them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


class Model(Protocol):
    """What each of them is."""

    def predict(self, rows: list[Any]) -> list[Any]:
        """Return an answer for each row."""


class _ScikitLearn:
    def __init__(self, file: Path) -> None:
        import joblib

        self._model = joblib.load(file)

    def predict(self, rows: list[Any]) -> list[Any]:
        return self._model.predict(np.asarray(rows, dtype=np.float64)).tolist()


class _CatBoost:
    def __init__(self, file: Path) -> None:
        from catboost import CatBoostClassifier

        self._model = CatBoostClassifier().load_model(str(file))

    def predict(self, rows: list[Any]) -> list[Any]:
        # As in model_packages/catboost_classifier.
        found = self._model.predict_proba(np.asarray(rows, dtype=np.float64), thread_count=1)
        return found.tolist()


class _SetFit:
    def __init__(self, folder: Path) -> None:
        from setfit import SetFitModel

        self._model = SetFitModel.from_pretrained(str(folder), local_files_only=True)

    def predict(self, rows: list[Any]) -> list[Any]:
        # As in model_packages/setfit_classifier.
        found = self._model.predict_proba(list(rows), as_numpy=True, show_progress_bar=False)
        return [self._model.labels[best] for best in found.argmax(axis=1)]


def load(folder: Path) -> Model:
    """Load what training left in a folder."""
    for name, kind in (("model.joblib", _ScikitLearn), ("model.cbm", _CatBoost)):
        if (folder / name).is_file():
            return kind(folder / name)
    return _SetFit(folder / "setfit")
