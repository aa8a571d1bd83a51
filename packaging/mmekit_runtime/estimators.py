"""What an estimator tells of the columns that it takes: names, values, and gaps.

scikit-learn's estimators are asked for ``feature_names_in_``, the ``categories_`` of their encoders
and their tags (sklearn.utils.get_tags, from 1.6 on); pipelines and column transformers are walked
through. Nothing of a library is imported here: whoever has a model has its library.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmekit_runtime.bodies import MISSING_CELLS
from mmekit_runtime.facts import (
    FAILS,
    PASSES,
    STOPS,
    Fact,
    column_of,
    further,
    joined,
    passed_on,
    worst,
)
from mmekit_runtime.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
    if states == {STOPS}:
        return True
    return None if None in states and FAILS not in states else False


def signature_of(model: Any) -> Signature | None:
    """Return what a model tells of its columns; None when it does not even know their names.

    Types are those that it cannot do without: a number where it computes with one, a text where it
    knows texts, ``any`` elsewhere. `mmekit.signature` tells more, from the training's table.
    """
    names = names_of(model)
    if names is None:
        return None
    facts = _facts(model, names)
    columns = tuple(column_of(name, facts.get(name, Fact())) for name in names)
    return Signature(columns, frame=wants_frame(model))


def texts_seen(model: Any, names: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return which texts encoders have seen in training that take others as well, by column."""
    return {name: fact.seen for name, fact in _facts(model, names).items() if fact.seen is not None}


def wants_frame(model: Any, *, is_named: bool = False) -> bool:
    """Whether a model selects columns by name, or may, and so wants a pandas DataFrame.

    ``is_named`` says that its columns had names, of a model that does not know them itself.
    """
    return (is_named or names_of(model) is not None) and _wants_frame(model)


def _facts(model: Any, names: Sequence[str]) -> dict[str, Fact]:  # noqa: PLR0911  a kind of estimator each
    """Return what a step tells of each of the columns that it gets."""
    kind = type(model).__name__
    steps = getattr(model, "steps", None)
    if isinstance(steps, list) and kind.endswith("Pipeline"):
        return _of_pipeline([step for _, step in steps], names)
    if kind == "ColumnTransformer":
        return _of_column_transformer(model, names)
    if kind == "FeatureUnion":
        return worst([_facts(one, names) for _, one in model.transformer_list], names)
    inner = _inner(model)
    if inner:
        facts = worst([_facts(one, names) for one in inner], names)
        if hasattr(model, "get_support"):
            # It only chooses columns, and hands them on as they are.
            return {name: passed_on(fact) for name, fact in facts.items()}
        return facts
    if kind == "SimpleImputer":
        return _of_imputer(model, names)
    if kind in _ENCODERS and hasattr(model, "categories_"):
        return dict(zip(names, map(_of_encoder(model), model.categories_), strict=False))
    if kind in _VECTORIZERS:
        return dict.fromkeys(names, Fact("string", missing=FAILS))
    if type(model).__module__.partition(".")[0] in _BOOSTERS:
        return _of_booster(model, names)
    fact = Fact(_type_of(model), missing=_gap_in(model))
    return dict.fromkeys(names, fact)


def _of_pipeline(steps: list[Any], names: Sequence[str]) -> dict[str, Fact]:
    facts: dict[str, Fact] = dict.fromkeys(names, Fact(missing=PASSES))
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
            facts = {name: further(facts[name], told[name]) for name in facts if name in told}
            same = _keeps_columns(step)
        # After the first step columns are others; what is left of a gap meets the worst of it.
        states = {fact.missing for fact in _facts(step, ("",)).values()}
        state = next((one for one in (FAILS, None, PASSES, STOPS) if one in states), None)
        is_numeric = _type_of(step) == "double"
        facts = {
            name: (
                replace(fact, type="double")
                if is_numeric and fact.type == "any" and fact.missing == PASSES and fact.used
                else fact
            ).then(state)
            for name, fact in facts.items()
        }
    return facts


def _of_column_transformer(model: Any, names: Sequence[str]) -> dict[str, Fact]:
    facts: dict[str, list[Fact]] = {name: [] for name in names}
    for _, transformer, selected in getattr(model, "transformers_", model.transformers):
        chosen = _chosen(selected, names)
        if isinstance(transformer, str):
            if transformer == "passthrough":
                found = dict.fromkeys(chosen, Fact(missing=PASSES))
            else:
                continue
        else:
            found = _facts(transformer, chosen)
        for name, fact in found.items():
            if name in facts:
                facts[name].append(fact)
    return {
        name: joined(several) if several else Fact(used=False) for name, several in facts.items()
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


def _keeps_columns(model: Any) -> bool:
    """Whether a step hands its columns on in their places, with values that were there before."""
    if type(model).__name__ == "FunctionTransformer":
        return model.func is None
    if type(model).__name__ != "SimpleImputer" or model.add_indicator:
        return False
    statistics = _attribute(model, "statistics_")
    # A column that was empty in training is left out.
    return statistics is not None and all(one == one for one in statistics)  # noqa: PLR0124


def _of_imputer(model: Any, names: Sequence[str]) -> dict[str, Fact]:
    statistics = _attribute(model, "statistics_")
    kind, state = _type_of(model), _gap_in(model)
    gap = "none" if model.missing_values is None else "nan"
    values = [None] * len(names) if statistics is None else list(statistics)
    return {
        name: Fact("string" if isinstance(value, str) else kind, missing=state, missing_is=gap)
        for name, value in zip(names, values, strict=False)
    }


def _of_encoder(model: Any) -> Any:
    is_strict = getattr(model, "handle_unknown", "error") == "error"
    # An ordinal encoder leaves a gap what it is, unless it is told a number for it.
    encoded = getattr(model, "encoded_missing_value", 0)
    after = PASSES if encoded != encoded else STOPS  # noqa: PLR0124
    if type(model).__name__ == "TargetEncoder":
        is_strict, after = False, STOPS

    def fact(categories: Any) -> Fact:
        values = [value.item() if hasattr(value, "item") else value for value in categories]
        is_sayable = all(isinstance(value, (str, int, float, type(None))) for value in values)
        there = [value for value in values if value is not None and value == value]  # noqa: PLR0124
        kind = "any"
        if there and all(isinstance(value, str) for value in there):
            kind = "string"
        takes = not is_strict or len(there) < len(values)
        return Fact(
            kind,
            tuple(there) if is_strict and is_sayable else None,
            after if takes else FAILS,
            "none" if None in values else "nan",
            present=tuple(value for value in there if value in MISSING_CELLS),
            seen=frozenset(there) if kind == "string" and not is_strict else None,
        )

    return fact


def _of_booster(model: Any, names: Sequence[str]) -> dict[str, Fact]:
    """Return the facts of XGBoost, LightGBM and CatBoost, which take gaps in numbers."""
    if type(model).__module__.startswith("catboost"):
        categories = set(_called(model, "get_cat_feature_indices"))
        texts = set(_called(model, "get_text_feature_indices"))
        return {
            name: Fact("any", missing=FAILS)
            if place in categories
            else Fact("string", missing=FAILS)
            if place in texts
            else Fact("double", missing=STOPS)
            for place, name in enumerate(names)
        }
    number = Fact("double", missing=STOPS)
    # XGBoost keeps the places of categories, and not what they were: none can be taken for one.
    unknown = Fact("any", known=(), missing=STOPS)
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
        return STOPS if _is_gap(model.missing_values) else FAILS
    if kind == "MissingIndicator" or kind.startswith("Dummy"):
        return STOPS
    if kind == "FunctionTransformer":
        # What a column transformer puts in the place of "passthrough" has no function.
        return PASSES if model.func is None and not model.validate else None
    if not module.startswith("sklearn."):
        return None
    tags = _input_tags(model)
    if tags is None:
        return None
    if not tags.allow_nan:
        return FAILS
    return STOPS if hasattr(model, "predict") else PASSES


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
