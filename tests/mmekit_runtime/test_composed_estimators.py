"""Models that are made of several: what each of them says of a column holds for all."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.feature_selection import SelectFromModel
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.tree import DecisionTreeRegressor

import mmekit
from tests.mmekit_runtime.serving import Plain, Serving, ask

ROWS = 40
RANDOM = np.random.default_rng(0)
NUMBERS = ["age", "fare"]
TABLE = pd.DataFrame({"age": RANDOM.normal(40, 10, ROWS), "fare": RANDOM.normal(20, 5, ROWS)})
TARGET = (TABLE["fare"] > 20).astype(int)


POSTAL = pd.DataFrame(
    {
        "zip": RANDOM.choice(["01", "02", "10"], ROWS),
        "country": RANDOM.choice(["NA", "NO"], ROWS),
        "age": TABLE["age"] / 40,
        "vip": RANDOM.choice([True, False], ROWS),
    }
)
POSTAL_TARGET = (POSTAL["zip"] == "01").astype(int) + (POSTAL["country"] == "NA")


def encoded(encoder, *further) -> ColumnTransformer:
    return ColumnTransformer(
        [("texts", make_pipeline(*further, encoder), ["zip", "country"])], remainder="passthrough"
    )


LENIENT = OneHotEncoder(handle_unknown="ignore")
POSTAL_MODELS = {
    "imputer first": lambda: make_pipeline(
        encoded(LENIENT, SimpleImputer(strategy="most_frequent")), LogisticRegression()
    ),
    "imputer first, strict": lambda: make_pipeline(
        encoded(OneHotEncoder(), SimpleImputer(strategy="constant", fill_value="?")),
        LogisticRegression(),
    ),
    "voting, each with its columns": lambda: VotingClassifier(
        [("one", make_pipeline(ColumnTransformer([("a", "passthrough", ["age"])]),
                               LogisticRegression())),
         ("other", make_pipeline(ColumnTransformer([("z", LENIENT, ["zip", "country"])]),
                                 LogisticRegression()))]
    ),
    "stacked": lambda: StackingClassifier(
        [("one", make_pipeline(ColumnTransformer([("a", "passthrough", ["age"])]),
                               LogisticRegression())),
         ("other", make_pipeline(encoded(LENIENT), LogisticRegression()))], cv=2
    ),
    "frozen": lambda: FrozenEstimator(
        make_pipeline(encoded(LENIENT), LogisticRegression()).fit(POSTAL, POSTAL_TARGET)
    ),
    "sliced by name": lambda: make_pipeline(
        ColumnTransformer([("z", LENIENT, slice("zip", "country")),
                           ("n", "passthrough", slice("age", None))]), LogisticRegression()
    ),
    "by place from behind": lambda: make_pipeline(
        ColumnTransformer([("z", LENIENT, [-4, -3]), ("n", "passthrough", [2])]),
        LogisticRegression(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POSTAL_MODELS)
@pytest.mark.parametrize("signed", [None, False, True])
def test_a_postal_code_and_namibia_are_texts_in_every_format(tmp_path, name, signed):
    model = POSTAL_MODELS[name]().fit(POSTAL, POSTAL_TARGET)
    handler = Serving(model)
    if signed is not None:
        signature = mmekit.signature(POSTAL, model=model if signed else None)
        (tmp_path / "signature.json").write_bytes(signature.to_json())
    handler.prepare(tmp_path)
    expected = model.predict(POSTAL).tolist()

    for body, content_type in [
        (POSTAL.to_csv(index=False).encode(), "text/csv"),
        (POSTAL.to_csv(index=False, header=False).encode(), "text/csv"),
        ({"instances": POSTAL.to_dict("records")}, "application/json"),
        (POSTAL.to_parquet(), "application/x-parquet"),
    ]:
        reply = ask(handler, body, content_type)
        assert reply.status == 200, reply.body
        assert json.loads(reply.body)["predictions"] == expected


def test_a_category_never_seen_is_refused_behind_an_imputer_too():
    handler = Serving(POSTAL_MODELS["imputer first, strict"]().fit(POSTAL, POSTAL_TARGET))

    reply = ask(handler, {"instances": [{**POSTAL.iloc[0].to_dict(), "zip": "99"}]})

    assert reply.status == 400
    assert b"'01', '02', '10'" in reply.body


@pytest.mark.parametrize(
    "model",
    [
        StackingRegressor([("t", HistGradientBoostingRegressor()), ("l", Ridge())], cv=2),
        StackingRegressor([("t", HistGradientBoostingRegressor())], cv=2, passthrough=True),
        make_pipeline(SelectFromModel(DecisionTreeRegressor(random_state=0)), Ridge()),
        make_pipeline(SimpleImputer(missing_values=-1.0), Ridge()),
        make_pipeline(ColumnTransformer([("i", SimpleImputer(), [0])], remainder="passthrough"),
                      Ridge()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("serve", [Plain, Serving])
def test_a_gap_that_reaches_an_estimator_without_is_400(model, serve):
    for table in (TABLE[NUMBERS], TABLE[NUMBERS].to_numpy()):
        handler = serve(model.fit(table, TARGET))

        assert ask(handler, {"instances": [[41.0, None]]}).status == 400


@pytest.mark.parametrize("flag", [True, "True"])
def test_a_column_of_truth_values_takes_them_in_every_format(flag):
    table = pd.DataFrame({"vip": POSTAL["vip"], "boolean": POSTAL["vip"].astype("boolean")})
    linear = LinearRegression().fit(table.astype(float), TARGET)
    encoded = make_pipeline(OneHotEncoder(), LinearRegression()).fit(table, TARGET)
    body = {"instances": [{"vip": flag, "boolean": flag}]}

    for model in (linear, encoded):
        handler = Serving(model)
        if flag is True:
            assert ask(handler, body).status == 200
        else:
            assert ask(handler, body).status == 400
            assert ask(handler, b"vip,boolean\nTrue,False\n", "text/csv").status == 200


def test_a_function_gets_numbers_where_nobody_knows_the_type():
    model = make_pipeline(FunctionTransformer(np.log1p), LinearRegression())
    model.fit(TABLE[NUMBERS].abs(), TARGET)
    handler = Serving(model)
    expected = model.predict(pd.DataFrame({"age": [41], "fare": [20.5]})).tolist()

    for body, content_type in [
        ({"instances": [[41, 20.5]]}, "application/json"),
        (b"fare,age\n20.5,41\n", "text/csv"),
    ]:
        assert json.loads(ask(handler, body, content_type).body)["predictions"] == expected


def test_a_signature_without_the_model_leaves_it_to_the_model_whether_it_wants_a_frame(tmp_path):
    model = make_pipeline(ColumnTransformer([("a", "passthrough", ["age"])]), LinearRegression())
    handler = Serving(model.fit(TABLE[NUMBERS], TARGET))
    (tmp_path / "signature.json").write_bytes(mmekit.signature(TABLE[NUMBERS]).to_json())
    handler.prepare(tmp_path)

    assert ask(handler, {"instances": [[41, 20]]}).status == 200


def test_numbers_are_not_taken_for_the_places_of_categories(tmp_path):
    import lightgbm
    import xgboost

    sizes = pd.Categorical(RANDOM.choice([3, 1, 2], ROWS), [3, 1, 2])
    table = pd.DataFrame({"age": TABLE["age"], "size": sizes})
    target = sizes.astype(int) * 10.0
    boosted = xgboost.XGBRegressor(n_estimators=3, enable_categorical=True).fit(table, target)
    lit = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1, min_child_samples=1)
    lit.fit(table, target)
    rows = {"instances": table.astype(object).to_numpy().tolist()}

    # XGBoost forgets what its categories were, and LightGBM does not.
    assert ask(Serving(boosted), rows).status == 400
    assert b"mmekit.signature" in ask(Serving(boosted), rows).body
    for one in (lit, pickle.loads(pickle.dumps(lit))):  # noqa: S301  its own
        reply = ask(Serving(one), rows)
        assert json.loads(reply.body)["predictions"] == pytest.approx(lit.predict(table).tolist())
    signature = mmekit.signature(table, model=boosted)
    (tmp_path / "signature.json").write_bytes(signature.to_json())
    handler = Serving(boosted)
    handler.prepare(tmp_path)
    reply = ask(handler, rows)
    assert json.loads(reply.body)["predictions"] == pytest.approx(boosted.predict(table).tolist())
