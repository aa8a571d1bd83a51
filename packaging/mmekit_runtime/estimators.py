"""What an estimator tells of the columns that it takes: names, values, and gaps.

scikit-learn's estimators are asked for ``feature_names_in_``, the ``categories_`` of their encoders
and their tags (sklearn.utils.get_tags, from 1.6 on); pipelines and column transformers are walked
through. Nothing of a library is imported here: whoever has a model has its library.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmekit_runtime.bodies import MISSING_CELLS
from mmekit_runtime.signature import Column, Signature

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# What becomes of a missing value in a step.
_STOPS, _PASSES, _FAILS = "stops", "passes", "fails"

_ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder")
_IMPUTERS = ("SimpleImputer", "KNNImputer", "IterativeImputer")
_VECTORIZERS = ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")
_BOOSTERS = ("xgboost", "lightgbm", "catboost")
# These hand a frame on as it is, or to somebody's own code.
_TAKES_FRAMES = ("FunctionTransformer",)


def names_of(model: Any) -> tuple[str, ...] | None:
    """Return what the columns were called that a model was trained on; None when nobody knows.

    >>> names_of(object())
    """
    steps = getattr(model, "steps", None)
    if isinstance(steps, list):
        real = [step for _, step in steps if step is not None and step != "passthrough"]
        return names_of(real[0]) if real else None
    for name in ("feature_names_in_", "feature_names_", "feature_names", "feature_name_"):
        found = _attribute(model, name)
        if found is None or isinstance(found, str) or not hasattr(found, "__len__"):
            continue
        names = tuple(found)
        if names and all(isinstance(one, str) for one in names):
            return None if _are_made_up(model, names) else tuple(str(one) for one in names)
    asked = getattr(model, "feature_name", None)  # a lightgbm.Booster
    if callable(asked) and type(model).__module__.startswith("lightgbm"):
        names = tuple(asked())
        return None if _are_made_up(model, names) else names
    return None


def takes_missing(model: Any) -> bool | None:
    """Whether a model is known to take missing values, in any column; None when nobody knows."""
    width = _attribute(model, "n_features_in_")
    names = names_of(model) or tuple(map(str, range(width if isinstance(width, int) else 1)))
    states = {fact.missing for fact in _facts(model, names).values()}
    if states == {_STOPS}:
        return True
    return None if None in states and _FAILS not in states else False


def signature_of(model: Any) -> Signature | None:
    """Return what a model tells of its columns; None when it does not even know their names.

    Types are those that it cannot do without: a number where it computes with one, a text where it
    knows texts, ``any`` elsewhere. `mmekit.signature` tells more, from the training's table.
    """
    names = names_of(model)
    if names is None:
        return None
    facts = _facts(model, names)
    columns = tuple(_column(name, facts.get(name, _Fact())) for name in names)
    return Signature(columns, frame=wants_frame(model))


def wants_frame(model: Any, *, is_named: bool = False) -> bool:
    """Whether a model selects columns by name, or may, and so wants a pandas DataFrame.

    ``is_named`` says that its columns had names, of a model that does not know them itself.
    """
    return (is_named or names_of(model) is not None) and _wants_frame(model)


@dataclass(frozen=True)
class _Fact:
    """What is known of a column: its type, its values, and what becomes of a missing one."""

    type: str = "any"
    known: tuple[Any, ...] | None = None
    missing: str | None = None
    missing_is: str = "nan"
    used: bool = True
    present: tuple[str, ...] = ()
    categories: tuple[Any, ...] | None = None

    def then(self, state: str | None) -> _Fact:
        """Return the fact after a further step, which is told what that does with a gap."""
        if self.missing != _PASSES:
            return self
        return replace(self, missing=state)


def _column(name: str, fact: _Fact) -> Column:
    return Column(
        name,
        fact.type,
        required=fact.used,
        dtype=None if fact.categories is None else "category",
        categories=fact.categories,
        known=fact.known,
        missing=fact.missing == _STOPS or not fact.used,
        missing_is=fact.missing_is,
        present=fact.present,
    )


def _facts(model: Any, names: Sequence[str]) -> dict[str, _Fact]:  # noqa: PLR0911  a kind of estimator each
    """Return what a step tells of each of the columns that it gets."""
    kind = type(model).__name__
    steps = getattr(model, "steps", None)
    if isinstance(steps, list) and kind.endswith("Pipeline"):
        return _of_pipeline([step for _, step in steps], names)
    if kind == "ColumnTransformer":
        return _of_column_transformer(model, names)
    if kind == "FeatureUnion":
        return _worst([_facts(one, names) for _, one in model.transformer_list], names)
    inner = _inner(model)
    if inner:
        facts = _worst([_facts(one, names) for one in inner], names)
        if hasattr(model, "get_support"):
            # It only chooses columns, and hands them on as they are.
            return {name: _passed_on(fact) for name, fact in facts.items()}
        return facts
    if kind == "SimpleImputer":
        return _of_imputer(model, names)
    if kind in _ENCODERS and hasattr(model, "categories_"):
        return dict(zip(names, map(_of_encoder(model), model.categories_), strict=False))
    if kind in _VECTORIZERS:
        return dict.fromkeys(names, _Fact("string", missing=_FAILS))
    if type(model).__module__.partition(".")[0] in _BOOSTERS:
        return _of_booster(model, names)
    fact = _Fact(_type_of(model), missing=_gap_in(model))
    return dict.fromkeys(names, fact)


def _of_pipeline(steps: list[Any], names: Sequence[str]) -> dict[str, _Fact]:
    facts: dict[str, _Fact] = dict.fromkeys(names, _Fact(missing=_PASSES))
    first = same = True
    for step in steps:
        if step is None or step == "passthrough":
            continue
        if first:
            facts, first = _facts(step, names), False
            same = _keeps_columns(step)
            continue
        if same:
            told = _facts(step, names)
            facts = {name: _further(facts[name], told[name]) for name in facts if name in told}
            same = _keeps_columns(step)
        # After the first step columns are others; what is left of a gap meets the worst of it.
        states = {fact.missing for fact in _facts(step, ("",)).values()}
        state = next((one for one in (_FAILS, None, _PASSES, _STOPS) if one in states), None)
        is_numeric = _type_of(step) == "double"
        facts = {
            name: (
                replace(fact, type="double")
                if is_numeric and fact.type == "any" and fact.missing == _PASSES and fact.used
                else fact
            ).then(state)
            for name, fact in facts.items()
        }
    return facts


def _of_column_transformer(model: Any, names: Sequence[str]) -> dict[str, _Fact]:
    facts: dict[str, list[_Fact]] = {name: [] for name in names}
    for _, transformer, selected in getattr(model, "transformers_", model.transformers):
        chosen = _chosen(selected, names)
        if isinstance(transformer, str):
            if transformer == "passthrough":
                found = dict.fromkeys(chosen, _Fact(missing=_PASSES))
            else:
                continue
        else:
            found = _facts(transformer, chosen)
        for name, fact in found.items():
            if name in facts:
                facts[name].append(fact)
    return {
        name: _joined(several) if several else _Fact(used=False) for name, several in facts.items()
    }


def _chosen(selected: Any, names: Sequence[str]) -> list[str]:
    if isinstance(selected, str):
        return [selected]
    if isinstance(selected, slice):
        start, stop = selected.start, selected.stop
        # A slice of labels includes the last, as pandas has it.
        start = names.index(start) if isinstance(start, str) else start
        stop = names.index(stop) + 1 if isinstance(stop, str) else stop
        return list(names[start : stop : selected.step])
    if hasattr(selected, "tolist"):
        selected = selected.tolist()
    if isinstance(selected, int):
        selected = [selected]
    if not isinstance(selected, (list, tuple)):
        return []
    if selected and all(isinstance(one, bool) for one in selected):
        return [name for name, one in zip(names, selected, strict=False) if one]
    return [
        str(one) if isinstance(one, str) else names[one]
        for one in selected
        if isinstance(one, str) or -len(names) <= one < len(names)
    ]


def _worst(several: list[dict[str, _Fact]], names: Iterable[str]) -> dict[str, _Fact]:
    return {name: _joined([facts.get(name, _Fact()) for facts in several]) for name in names}


def _joined(facts: list[_Fact]) -> _Fact:
    """Return what holds of a column that several steps get."""
    facts = [fact for fact in facts if fact.used] or facts
    if len(facts) == 1:
        return facts[0]
    types = {fact.type for fact in facts} - {"any"}
    known = next((fact.known for fact in facts if fact.known is not None), None)
    states = {fact.missing for fact in facts}
    state = next((one for one in (_FAILS, None, _PASSES, _STOPS) if one in states), None)
    gap = next((fact.missing_is for fact in facts if fact.missing_is != "nan"), "nan")
    kind = types.pop() if len(types) == 1 else "any"
    return _Fact(kind, known, state, gap, any(fact.used for fact in facts), _present(*facts))


def _present(*facts: _Fact) -> tuple[str, ...]:
    return tuple(sorted({text for fact in facts for text in fact.present}))


def _passed_on(fact: _Fact) -> _Fact:
    return replace(fact, missing=_PASSES) if fact.missing == _STOPS else fact


def _further(fact: _Fact, told: _Fact) -> _Fact:
    """Return a fact with what the next step tells of the same column."""
    return replace(
        fact,
        type=told.type if fact.type == "any" else fact.type,
        known=told.known if fact.known is None else fact.known,
        present=_present(fact, told),
    )


def _keeps_columns(model: Any) -> bool:
    """Whether a step hands its columns on in their places, with values that were there before."""
    if type(model).__name__ == "FunctionTransformer":
        return model.func is None
    if type(model).__name__ != "SimpleImputer" or model.add_indicator:
        return False
    statistics = _attribute(model, "statistics_")
    # A column that was empty in training is left out.
    return statistics is not None and all(one == one for one in statistics)  # noqa: PLR0124


def _of_imputer(model: Any, names: Sequence[str]) -> dict[str, _Fact]:
    statistics = _attribute(model, "statistics_")
    kind, state = _type_of(model), _gap_in(model)
    gap = "none" if model.missing_values is None else "nan"
    values = [None] * len(names) if statistics is None else list(statistics)
    return {
        name: _Fact("string" if isinstance(value, str) else kind, missing=state, missing_is=gap)
        for name, value in zip(names, values, strict=False)
    }


def _of_encoder(model: Any) -> Any:
    is_strict = getattr(model, "handle_unknown", "error") == "error"
    # An ordinal encoder leaves a gap what it is, unless it is told a number for it.
    encoded = getattr(model, "encoded_missing_value", 0)
    after = _PASSES if encoded != encoded else _STOPS  # noqa: PLR0124
    if type(model).__name__ == "TargetEncoder":
        is_strict, after = False, _STOPS

    def fact(categories: Any) -> _Fact:
        values = [value.item() if hasattr(value, "item") else value for value in categories]
        is_sayable = all(isinstance(value, (str, int, float, type(None))) for value in values)
        there = [value for value in values if value is not None and value == value]  # noqa: PLR0124
        kind = "any"
        if there and all(isinstance(value, str) for value in there):
            kind = "string"
        takes = not is_strict or len(there) < len(values)
        return _Fact(
            kind,
            tuple(there) if is_strict and is_sayable else None,
            after if takes else _FAILS,
            "none" if None in values else "nan",
            present=tuple(value for value in there if value in MISSING_CELLS),
        )

    return fact


def _of_booster(model: Any, names: Sequence[str]) -> dict[str, _Fact]:
    """Return the facts of XGBoost, LightGBM and CatBoost, which take gaps in numbers."""
    if type(model).__module__.startswith("catboost"):
        categories = set(_called(model, "get_cat_feature_indices"))
        texts = set(_called(model, "get_text_feature_indices"))
        return {
            name: _Fact("any", missing=_FAILS)
            if place in categories
            else _Fact("string", missing=_FAILS)
            if place in texts
            else _Fact("double", missing=_STOPS)
            for place, name in enumerate(names)
        }
    number = _Fact("double", missing=_STOPS)
    # XGBoost keeps the places of categories, and not what they were: none can be taken for one.
    unknown = _Fact("any", known=(), missing=_STOPS)
    types = _attribute(model, "feature_types") or _attribute(
        _attribute(model, "_Booster"), "feature_types"
    )
    if isinstance(types, (list, tuple)) and len(types) == len(names):
        return {
            name: unknown if kind == "c" else number
            for name, kind in zip(names, types, strict=True)
        }
    booster = _attribute(model, "booster_") or model
    categories = _attribute(booster, "pandas_categorical")
    if not categories:
        return dict.fromkeys(names, number)
    places = _places_of_categories(_attribute(booster, "params") or {})
    if len(places) != len(categories):
        return dict.fromkeys(names, unknown)
    found = {
        names[place]: replace(unknown, known=None, categories=tuple(values))
        for place, values in zip(places, categories, strict=True)
    }
    return {name: found.get(name, number) for name in names}


def _places_of_categories(parameters: Mapping[str, Any]) -> list[int]:
    """Return which columns LightGBM has for categories, after its training or from its file."""
    places = parameters.get("categorical_column", parameters.get("categorical_feature"))
    return sorted(place for place in places or () if isinstance(place, int))


def _type_of(model: Any) -> str:
    """Return ``double`` for an estimator of scikit-learn that computes with every column."""
    kind, module = type(model).__name__, type(model).__module__
    if kind == "SimpleImputer":
        found = getattr(model, "statistics_", None)
        return "any" if found is None or found.dtype.kind not in "iuf" else "double"
    if not module.startswith("sklearn.") or kind.startswith("Dummy") or kind in _TAKES_FRAMES:
        return "any"
    tags = _input_tags(model)
    if (
        tags is None
        or tags.categorical
        or tags.string
        or getattr(model, "is_categorical_", None) is not None
    ):
        return "any"
    return "double"


def _gap_in(model: Any) -> str | None:  # noqa: PLR0911  a kind of estimator each
    """Return what becomes of a missing value in a single estimator; None when nobody knows."""
    kind, module = type(model).__name__, type(model).__module__
    if kind in _IMPUTERS:
        return _STOPS if _is_gap(model.missing_values) else _FAILS
    if kind == "MissingIndicator" or kind.startswith("Dummy"):
        return _STOPS
    if kind == "FunctionTransformer":
        # What a column transformer puts in the place of "passthrough" has no function.
        return _PASSES if model.func is None and not model.validate else None
    if not module.startswith("sklearn."):
        return None
    tags = _input_tags(model)
    if tags is None:
        return None
    if not tags.allow_nan:
        return _FAILS
    return _STOPS if hasattr(model, "predict") else _PASSES


def _wants_frame(model: Any) -> bool:  # noqa: PLR0911  a kind of estimator each
    kind, module = type(model).__name__, type(model).__module__
    if _is_set_to_frames(model):
        return True
    steps = getattr(model, "steps", None)
    if isinstance(steps, list) and kind.endswith("Pipeline"):
        real = [step for _, step in steps if step is not None and step != "passthrough"]
        # What comes after the first gets an array, unless one is set to hand frames on.
        return bool(real) and (_wants_frame(real[0]) or any(map(_is_set_to_frames, real)))
    if kind == "ColumnTransformer":
        return any(
            _selects_by_name(selected)
            or (not isinstance(transformer, str) and _wants_frame(transformer))
            for _, transformer, selected in getattr(model, "transformers_", ())
        )
    if kind == "FeatureUnion":
        return any(_wants_frame(one) for _, one in model.transformer_list)
    inner = _inner(model)
    if inner:
        return any(map(_wants_frame, inner))
    if kind in _TAKES_FRAMES or getattr(model, "is_categorical_", None) is not None:
        return True
    library = module.partition(".")[0]
    if library in _BOOSTERS:
        return any(fact.type != "double" for fact in _facts(model, names_of(model) or ()).values())
    return library != "sklearn"


def _selects_by_name(selected: Any) -> bool:
    if isinstance(selected, str) or callable(selected):
        return True
    if hasattr(selected, "tolist"):
        selected = selected.tolist()
    return isinstance(selected, (list, tuple)) and any(isinstance(one, str) for one in selected)


def _is_set_to_frames(model: Any) -> bool:
    return getattr(model, "_sklearn_output_config", {}).get("transform") in ("pandas", "polars")


def _is_gap(value: Any) -> bool:
    is_nan = isinstance(value, float) and value != value  # noqa: PLR0124
    return value is None or is_nan or type(value).__name__ == "NAType"


def _inner(model: Any) -> list[Any]:
    """Return the estimators that a search, a multi-output or a stack hands its rows to."""
    if not type(model).__module__.startswith("sklearn."):
        return []
    for name in ("best_estimator_", "regressor_", "estimator_"):
        found = _attribute(model, name)
        if found is not None and hasattr(found, "get_params"):
            return [found]
    if type(model).__name__ == "FrozenEstimator":
        return [model.estimator]
    several = _attribute(model, "estimators_")
    if type(model).__name__ in (
        "MultiOutputClassifier",
        "MultiOutputRegressor",
        "OneVsRestClassifier",
    ):
        return several[:1] if several else []
    if type(model).__name__ in (
        "VotingClassifier",
        "VotingRegressor",
        "StackingClassifier",
        "StackingRegressor",
    ):
        found = [one for one in several or () if not isinstance(one, str)]
        return [*found, model.final_estimator_] if getattr(model, "passthrough", False) else found
    calibrated = _attribute(model, "calibrated_classifiers_")
    return [calibrated[0].estimator] if calibrated else []


def _input_tags(model: Any) -> Any:
    utils = sys.modules.get("sklearn.utils")
    get_tags = getattr(utils, "get_tags", None)
    if get_tags is None:
        return None
    try:
        return get_tags(model).input_tags
    except Exception:  # noqa: BLE001  an estimator of somebody's own may have none
        return None


def _attribute(model: Any, name: str) -> Any:
    try:
        return getattr(model, name, None)
    except Exception:  # noqa: BLE001  some are computed, and raise when there is nothing to compute
        return None


def _called(model: Any, name: str) -> Iterable[Any]:
    try:
        return list(getattr(model, name)())
    except Exception:  # noqa: BLE001
        return []


def _are_made_up(model: Any, names: Sequence[str]) -> bool:
    """Whether names are those that LightGBM and CatBoost give to columns without."""
    prefix = "" if type(model).__module__.startswith("catboost") else "Column_"
    return list(names) == [f"{prefix}{place}" for place in range(len(names))]
