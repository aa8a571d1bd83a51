"""Boosted trees that CatBoost saved as cbm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.libraries.multilabel import of_two_classes_each
from mmekit_runtime.libraries.refusals import no_probabilities
from mmekit_runtime.messages import Parameters, Prediction
from mmekit_runtime.table_handler import TableHandler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class CatBoostHandler(TableHandler):
    """A model that CatBoost saved as cbm."""

    frame = False
    reads = ()

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def load(self, folder: Path) -> Any:
        """Return a CatBoostClassifier where the file has classes, a CatBoostRegressor otherwise."""
        import catboost

        path = str(folder / self.file)
        # The file does not say which of the two saved it; they differ in what predict answers.
        self._classes = list(np.asarray(catboost.CatBoost().load_model(path).classes_).tolist())
        kind = catboost.CatBoostClassifier if self._classes else catboost.CatBoostRegressor
        model = kind().load_model(path)
        self._words = tuple(model.get_cat_feature_indices())
        return model

    def predict(self, model: Any, table: Any, parameters: Parameters) -> Any:
        """Answer labels for a classifier, and numbers for everything else."""
        rows = _with_whole_words(np.asarray(table), self._words)
        # Workers are what fills the cores: threads of theirs would only wait for each other.
        answer = np.asarray(model.predict(rows, thread_count=1))
        if answer.ndim == 2 and answer.shape[1] == 1:  # noqa: PLR2004  MultiClass answers a column
            answer = answer[:, 0]
        if not parameters.probabilities:
            return answer
        if not self._classes:
            raise no_probabilities(type(model).__name__)
        probabilities = model.predict_proba(rows, thread_count=1)
        if answer.ndim == 1:
            return Prediction(answer, probabilities, self._classes)
        return of_two_classes_each(answer, probabilities.T)


def _with_whole_words(rows: Any, places: Sequence[int]) -> Any:
    """Write categories as CatBoost takes them: a whole number without a decimal point."""
    if not places:
        return rows
    words = rows.astype(object)
    for place in places:
        words[:, place] = [
            int(value) if isinstance(value, float) and value.is_integer() else value
            for value in words[:, place]
        ]
    return words
