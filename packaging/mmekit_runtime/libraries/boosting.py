"""Boosted trees in the formats of their libraries: XGBoost, LightGBM and CatBoost.

The files of the first two hold trees and the names of columns, and no estimator of scikit-learn
around them. What its ``predict`` would answer is worked out here from the objective.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_runtime.libraries.probabilities import no_probabilities, of_two_classes_each
from mmekit_runtime.messages import Parameters, Prediction, RequestError
from mmekit_runtime.signature import Signature
from mmekit_runtime.tables import TableHandler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_EVEN = 0.5
_SHOWN = 10
"""Of the categories that training knew, in a refusal."""


class BoosterHandler(TableHandler):
    """What the handlers of XGBoost and LightGBM have in common.

    Their files hold no names of classes: a classifier answers 0 to k - 1, or what ``classes``
    names. A column of categories needs their order in training (from the file where LightGBM has
    written it there, else from signature.json): without it the model is not loaded.

    Parameters
    ----------
    file
        The model's file, by its name among the artefacts.
    classes
        The names of the classes, in the order of their numbers.
    """

    frame = False
    reads = ()
    library = ""

    def __init__(self, file: str, *, classes: Sequence[Any] | None = None) -> None:
        super().__init__()
        self.file = file
        self.classes = None if classes is None else list(classes)
        self.objective = ""
        self.categories = Categories({}, ())

    def scores(self, model: Any, numbers: Any) -> Any:
        """Return what the library itself says for rows of numbers."""
        raise NotImplementedError

    def predict(self, model: Any, table: Any, parameters: Parameters) -> Any:
        """Answer labels for a classifier, and what the library says for everything else."""
        scores = np.asarray(self.scores(model, self.categories.coded(table)))
        if self.objective in self.binary:
            if scores.ndim == 1:
                scores = np.column_stack([1 - scores, scores])
            else:  # a label a column
                return self._several(scores, parameters)
        elif self.objective not in self.multiclass:
            if parameters.probabilities:
                raise no_probabilities(f"{self.library} with {self.objective or 'no objective'}")
            return scores
        numbers = scores.argmax(axis=1)
        classes = list(range(scores.shape[1])) if self.classes is None else self.classes
        labels = numbers if self.classes is None else [classes[number] for number in numbers]
        return Prediction(labels, scores, classes) if parameters.probabilities else labels

    binary: frozenset[str] = frozenset()
    multiclass: frozenset[str] = frozenset()

    def _several(self, scores: Any, parameters: Parameters) -> Any:
        labels = (scores > _EVEN).astype(int)
        if not parameters.probabilities:
            return labels
        each = [np.column_stack([1 - column, column]) for column in scores.T]
        return Prediction(labels, each, [[0, 1] for _ in each])

    def _check_classes(self, count: int) -> None:
        if self.classes is not None and len(self.classes) != count:
            raise ValueError(
                f"{self.file} has {count} classes, and model.py names {len(self.classes)}"
            )


class XGBoostHandler(BoosterHandler):
    """A model that XGBoost saved as JSON or UBJSON.

    A model saved from ``xgboost.XGBClassifier`` and its like answers with its best iteration, where
    training stopped early, and any other with all of its trees: as the library does.
    """

    library = "XGBoost"
    binary = frozenset({"binary:logistic"})
    multiclass = frozenset({"multi:softprob"})

    def load(self, folder: Path) -> Any:
        """Return the booster, which uses one thread."""
        import xgboost

        booster = xgboost.Booster(params={"nthread": 1}, model_file=str(folder / self.file))
        learner = json.loads(booster.save_config())["learner"]
        self.objective = learner["objective"]["name"]
        self._linear = learner["gradient_booster"]["name"] == "gblinear"
        self._rounds = (0, 0)
        best = booster.attr("best_iteration")
        if best is not None and booster.attr("scikit_learn") is not None:
            self._rounds = (0, int(best) + 1)
        self._check_classes(max(2, int(learner["learner_model_param"]["num_class"])))
        kinds = booster.feature_types or []
        places = [place for place, kind in enumerate(kinds) if kind == "c"]
        self.categories = _of_training(places, booster.feature_names or [], folder, self.file)
        return booster

    def scores(self, model: Any, numbers: Any) -> Any:
        """Return the booster's prediction."""
        if not self._linear:
            return model.inplace_predict(
                numbers, iteration_range=self._rounds, validate_features=False
            )
        import xgboost

        return model.predict(xgboost.DMatrix(numbers, nthread=1), validate_features=False)


class LightGBMHandler(BoosterHandler):
    """A model that LightGBM saved as text."""

    library = "LightGBM"
    binary = frozenset({"binary"})
    multiclass = frozenset({"multiclass", "multiclassova"})

    def load(self, folder: Path) -> Any:
        """Return the booster."""
        import lightgbm

        booster = lightgbm.Booster(model_file=str(folder / self.file))
        content = booster.dump_model(num_iteration=1)
        self.objective = str(content.get("objective") or "").partition(" ")[0]
        self._check_classes(max(2, content["num_class"]))
        self.categories = _of_lightgbm(booster, folder, self.file)
        return booster

    def scores(self, model: Any, numbers: Any) -> Any:
        """Return the booster's prediction."""
        return model.predict(numbers, num_threads=1, validate_features=False)


def _of_training(places: list[int], names: Sequence[str], folder: Path, file: str) -> Categories:
    """Return the categories that signature.json names for those columns."""
    if not places:
        return Categories({}, names)
    signature = Signature.read(folder)
    columns = () if signature is None else signature.inputs
    by_name = {column.name: column.categories for column in columns}
    found = {}
    for place in places:
        name = names[place] if place < len(names) else str(place)
        categories = by_name.get(name)
        if categories is None:
            raise ValueError(
                f"column {name} of {file} holds categories, and their order in training is in no "
                "signature.json: write one with mmekit.signature(X), X being the training's "
                "DataFrame"
            )
        found[place] = categories
    return Categories(found, names)


def lightgbm_categories(booster: Any) -> dict[int, list[Any]] | None:
    """Return the categories of a LightGBM model's columns, which its file names in their order.

    The file does not say which columns they are of, but which columns of the training's table were
    no numbers. None where the two do not tell the same number of columns: one that no tree could
    use is not among the latter.
    """
    listed = booster.pandas_categorical or []
    infos = booster.dump_model(num_iteration=1)["feature_infos"]
    names = booster.feature_name()
    places = [place for place, name in enumerate(names) if infos.get(name, {}).get("values")]
    if not listed:
        return {}
    return dict(zip(places, listed, strict=True)) if len(places) == len(listed) else None


def _of_lightgbm(booster: Any, folder: Path, file: str) -> Categories:
    names = booster.feature_name()
    found = lightgbm_categories(booster)
    if found is not None:
        return Categories(found, names)
    signature = Signature.read(folder)
    columns = () if signature is None else signature.inputs
    places = [place for place, column in enumerate(columns) if column.categories is not None]
    listed = booster.pandas_categorical
    if [list(columns[place].categories or ()) for place in places] == listed:
        return Categories(dict(zip(places, listed, strict=True)), names)
    raise ValueError(
        f"{file} has {len(listed)} columns of categories, and does not say which: signature.json "
        "has to, as mmekit.signature(X) writes it, X being the training's DataFrame"
    )


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


class Categories:
    """The numbers of the categories of some columns of a table.

    Parameters
    ----------
    columns
        For each such column its place and its categories, in the order of training.
    names
        The names of all columns, for refusals.
    """

    def __init__(self, columns: Mapping[int, Sequence[Any]], names: Sequence[str]) -> None:
        self._codes = {
            place: {value: float(code) for code, value in enumerate(values)}
            for place, values in columns.items()
        }
        self._names = names

    def coded(self, table: Any) -> NDArray[np.float64]:
        """Return a table of numbers: NaN for what is missing.

        Raises
        ------
        RequestError
            400 for a category that training did not know.
        """
        rows = np.asarray(table)
        if not self._codes and rows.dtype == np.float64:
            return rows
        numbers = np.empty(rows.shape, dtype=np.float64)
        for place in range(rows.shape[1]):
            codes = self._codes.get(place)
            column = rows[:, place]
            if codes is None and column.dtype == np.float64:
                numbers[:, place] = column
            else:
                numbers[:, place] = [
                    self._number(value, row, place)
                    if codes is None
                    else self._code(codes, value, row, place)
                    for row, value in enumerate(column)
                ]
        return numbers

    def _number(self, value: Any, row: int, place: int) -> float:
        if value is None:
            return np.nan
        if not isinstance(value, (int, float, np.number, np.bool_)):
            raise RequestError(
                400,
                f"a number in the column {self._name(place)}",
                f"{value!r} in row {row}, column {self._name(place)}",
            )
        return float(value)

    def _code(self, codes: Mapping[Any, float], value: Any, row: int, place: int) -> float:
        if value is None or value != value:  # noqa: PLR0124  NaN alone differs from itself
            return np.nan
        try:
            return codes[value]
        except (KeyError, TypeError):
            known = ", ".join(map(repr, list(codes)[:_SHOWN]))
            more = f" and {len(codes) - _SHOWN} more" if len(codes) > _SHOWN else ""
            raise RequestError(
                400,
                f"one of {known}{more} in the column {self._name(place)}",
                f"{value!r} in row {row}, column {self._name(place)}",
            ) from None

    def _name(self, place: int) -> str:
        return self._names[place] if place < len(self._names) else str(place)
