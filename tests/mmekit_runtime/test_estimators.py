"""What estimators tell of the columns that they take, and that models get what they need."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier

from mmekit_runtime.estimators import names_of, signature_of, takes_missing, wants_frame
from tests.mmekit_runtime.serving import Plain, Serving, ask

ROWS = 40
RANDOM = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "age": RANDOM.normal(40, 10, ROWS),
        "fare": RANDOM.normal(20, 5, ROWS),
        "city": RANDOM.choice(["Oslo", "Bergen", "Bodø"], ROWS),
        "note": RANDOM.choice(["late again", "on time", "never late"], ROWS),
    }
)
GAPS = TABLE.assign(
    age=TABLE["age"].where(TABLE.index % 5 > 0),
    city=TABLE["city"].astype(object).where(TABLE.index % 7 > 0, np.nan),
)
TARGET = (TABLE["fare"] > 20).astype(int)
NUMBERS = ["age", "fare"]


def mixed(*, strict: bool = False, by_name: bool = True) -> ColumnTransformer:
    encoder = OneHotEncoder(handle_unknown="error" if strict else "ignore")
    return ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(SimpleImputer(), StandardScaler()),
                NUMBERS if by_name else [0, 1],
            ),
            ("city", encoder, ["city"] if by_name else [2]),
            ("note", TfidfVectorizer(), "note" if by_name else 3),
        ]
    )


MODELS = {
    "by name": lambda: make_pipeline(mixed(), LogisticRegression()),
    "by place": lambda: make_pipeline(mixed(by_name=False), LogisticRegression()),
    "search": lambda: GridSearchCV(
        make_pipeline(mixed(), LogisticRegression()), {"logisticregression__C": [1.0]}, cv=2
    ),
    "selector": lambda: make_pipeline(
        ColumnTransformer(
            [
                ("numbers", SimpleImputer(), make_column_selector(dtype_include="number")),
                ("texts", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1,
                                         encoded_missing_value=-2), ["city", "note"]),
            ]
        ),
        DecisionTreeClassifier(random_state=0),
    ),
    "union": lambda: make_pipeline(
        FeatureUnion([("one", mixed()), ("other", mixed())]), LogisticRegression()
    ),
    "trees": lambda: make_pipeline(
        ColumnTransformer([("city", OrdinalEncoder(), ["city"])], remainder="drop"),
        HistGradientBoostingClassifier(),
    ),
    "frames": lambda: make_pipeline(
        ColumnTransformer([("age", "passthrough", NUMBERS)]).set_output(transform="pandas"),
        HistGradientBoostingClassifier(),
    ),
    "own function": lambda: make_pipeline(
        FunctionTransformer(lambda frame: frame[["age"]] * 2), HistGradientBoostingClassifier()
    ),
    "voting": lambda: VotingClassifier(
        [("one", make_pipeline(mixed(), LogisticRegression())),
         ("other", make_pipeline(mixed(), LogisticRegression(C=0.1)))]
    ),
    "dummy": DummyClassifier,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_pipeline_answers_records_as_it_answers_the_table_it_was_trained_on(name):
    model = MODELS[name]().fit(TABLE, TARGET)
    handler = Serving(model)
    records = TABLE.to_dict("records")
    shuffled = [dict(reversed(record.items())) for record in records]

    replies = [
        ask(handler, {"instances": shuffled}),
        ask(handler, {"instances": TABLE.to_numpy().tolist()}),
        ask(handler, TABLE[TABLE.columns[::-1]].to_csv(index=False).encode(), "text/csv"),
    ]

    for reply in replies:
        assert reply.status == 200, reply.body
        assert json.loads(reply.body)["predictions"] == model.predict(TABLE).tolist()


def test_gaps_are_taken_where_the_pipeline_fills_them():
    model = make_pipeline(mixed(), LogisticRegression()).fit(GAPS, TARGET)
    handler = Serving(model)
    records = json.loads(GAPS.to_json(orient="records"))

    reply = ask(handler, {"instances": records})

    assert json.loads(reply.body)["predictions"] == model.predict(GAPS).tolist()
    assert ask(handler, GAPS.to_csv(index=False).encode(), "text/csv").body == reply.body
    refused = ask(handler, {"instances": [{**records[0], "note": None}]})
    assert refused.status == 400
    assert "note" in json.loads(refused.body)["message"]


def test_a_category_never_seen_is_refused_where_the_model_would_fail():
    strict = Serving(make_pipeline(mixed(strict=True), LogisticRegression()).fit(TABLE, TARGET))
    record = {**TABLE.iloc[0].to_dict(), "city": "Rome"}

    refused = ask(strict, {"instances": [record]})

    assert refused.status == 400
    message = json.loads(refused.body)["message"]
    assert all(
        part in message for part in ("'Bergen', 'Bodø', 'Oslo'", "'Rome'", "row 0, column city")
    )
    lenient = Serving(make_pipeline(mixed(), LogisticRegression()).fit(TABLE, TARGET))
    assert ask(lenient, {"instances": [record]}).status == 200


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (HistGradientBoostingRegressor(), True),
        (make_pipeline(SimpleImputer(), Ridge()), True),
        (make_pipeline(StandardScaler(), KNNImputer(), PolynomialFeatures(), Ridge()), True),
        (make_pipeline(StandardScaler(), HistGradientBoostingRegressor()), True),
        (make_pipeline("passthrough", SimpleImputer(), Ridge()), True),
        (make_pipeline(StandardScaler(), Ridge()), False),
        (make_pipeline(PolynomialFeatures(), SimpleImputer(), Ridge()), False),
        (Ridge(), False),
        (DecisionTreeClassifier(), True),
        (TransformedTargetRegressor(make_pipeline(SimpleImputer(), Ridge())), True),
        (MultiOutputRegressor(HistGradientBoostingRegressor()), True),
        (GridSearchCV(make_pipeline(SimpleImputer(), Ridge()), {"ridge__alpha": [1]}, cv=2), True),
    ],
)
def test_models_that_take_missing_values_are_known(model, expected):
    target = TABLE[["fare", "age"]] if isinstance(model, MultiOutputRegressor) else TARGET
    model.fit(TABLE[NUMBERS], target)

    assert bool(takes_missing(model)) is expected
    reply = ask(Plain(model), {"instances": [[None, 20.0]]})
    assert reply.status == (200 if expected else 400)
    if expected:
        with_gap = model.predict(pd.DataFrame({"age": [np.nan], "fare": [20.0]}))
        assert json.loads(reply.body)["predictions"] == with_gap.tolist()


def test_xgboost_lightgbm_and_catboost_take_missing_values():
    import lightgbm
    import xgboost
    from catboost import CatBoostRegressor

    for model in (
        xgboost.XGBRegressor(n_estimators=3),
        lightgbm.LGBMRegressor(n_estimators=3, verbose=-1, min_child_samples=1),
        CatBoostRegressor(iterations=3, verbose=False, allow_writing_files=False),
    ):
        model.fit(TABLE[NUMBERS], TARGET)
        assert names_of(model) == ("age", "fare")
        assert takes_missing(model)
        assert [column.type for column in signature_of(model).inputs] == ["double", "double"]
        assert not wants_frame(model)


def test_names_that_a_library_made_up_are_none():
    import lightgbm
    import xgboost

    rows = TABLE[NUMBERS].to_numpy()
    assert names_of(lightgbm.LGBMRegressor(n_estimators=1, verbose=-1).fit(rows, TARGET)) is None
    assert names_of(xgboost.XGBRegressor(n_estimators=1).fit(rows, TARGET)) is None
    assert names_of(Ridge().fit(rows, TARGET)) is None
    assert names_of(Ridge().fit(TABLE[NUMBERS], TARGET)) == ("age", "fare")


@pytest.mark.parametrize(
    ("model", "frame"),
    [
        (Ridge(), False),
        (make_pipeline(SimpleImputer(), StandardScaler(), Ridge()), False),
        (ExtraTreesClassifier(n_estimators=2), False),
        (make_pipeline(ColumnTransformer([("n", StandardScaler(), [0, 1])]), Ridge()), False),
        (make_pipeline(ColumnTransformer([("n", StandardScaler(), ["age"])]), Ridge()), True),
        (make_pipeline(FunctionTransformer(lambda frame: frame), Ridge()), True),
    ],
)
def test_pandas_is_needed_where_columns_are_selected_by_name(model, frame):
    model.fit(TABLE[NUMBERS], TARGET)
    handler = Serving(model)

    assert ask(handler, {"instances": [{"fare": 20, "age": 41}]}).status == 200
    assert isinstance(handler.table, pd.DataFrame if frame else np.ndarray)
    assert wants_frame(model) is frame


SWAPPED = [
    (b"b,a\n2,1\n", "text/csv"),
    (b"b,a\n2,1\n", "text/csv; header=present"),
    ({"instances": [{"b": 2, "a": 1}]}, "application/json"),
    ({"dataframe_split": {"columns": ["b", "a"], "data": [[2, 1]]}}, "application/json"),
    ({"inputs": {"b": [2], "a": [1]}}, "application/json"),
    (b'{"b": 2, "a": 1}\n', "application/jsonlines"),
]


@pytest.mark.parametrize("serve", [Plain, Serving])
@pytest.mark.parametrize(("body", "content_type"), SWAPPED)
def test_columns_that_come_in_another_order_are_put_into_that_of_training(
    serve, body, content_type
):
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [4.0, 1, 7, 3]})
    model = LinearRegression().fit(frame, frame["a"] * 10 + frame["b"])
    handler = serve(model)

    expected = json.loads(ask(handler, b"a,b\n1,2\n", "text/csv").body)

    assert expected["predictions"] == pytest.approx([12.0])
    assert json.loads(ask(handler, body, content_type).body) == expected


@pytest.mark.parametrize("serve", [Plain, Serving])
@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b"b,c\n2,1\n", "text/csv", "none called a; also c"),
        (b"x,y\n2,1\n", "text/csv", "also x, y"),
        (b"a,b,c\n1,2,3\n", "text/csv", "also c"),
        (b"a,a\n1,2\n", "text/csv", "a twice"),
        ({"instances": [{"b": 2, "c": 1}]}, "application/json", "also c"),
        ({"inputs": {"b": [2]}}, "application/json", "none called a"),
        ({"dataframe_split": {"columns": ["x", "b"], "data": [[2, 1]]}}, "application/json", "x"),
    ],
)
def test_names_that_do_not_fit_are_400_and_name_the_columns(serve, body, content_type, said):
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [4.0, 1, 7, 3]})

    reply = ask(serve(LinearRegression().fit(frame, frame["a"])), body, content_type)

    assert reply.status == 400
    assert "a, b" in json.loads(reply.body)["expected"]
    assert said in json.loads(reply.body)["received"]


@pytest.mark.parametrize("serve", [Plain, Serving])
@pytest.mark.parametrize("first", [b"NA", b"null", b'""', b"nan", b"None", b"<NA>", b"NaN", b" NA"])
def test_a_missing_value_in_the_first_row_is_no_header(serve, first):
    frame = pd.DataFrame({"a": np.arange(60.0) % 7})
    handler = serve(HistGradientBoostingRegressor().fit(frame, frame["a"]))

    reply = ask(handler, first + b"\n3\n", "text/csv")

    assert len(json.loads(reply.body)["predictions"]) == 2


@pytest.mark.parametrize("model", [Ridge(), HistGradientBoostingRegressor()])
def test_a_row_of_empty_cells_is_no_header(model):
    model.fit(TABLE[NUMBERS], TARGET)

    reply = ask(Plain(model), b",\n1,1\n", "text/csv")

    if isinstance(model, Ridge):
        assert reply.status == 400
    else:
        assert len(json.loads(reply.body)["predictions"]) == 2


def test_numbers_that_python_alone_reads_are_none():
    handler = Plain(Ridge().fit(TABLE[NUMBERS], TARGET))

    for body in (b"1_000,2\n", b"1,2_0\n"):
        reply = ask(handler, body, "text/csv")
        assert reply.status == 400
        assert b"_" in reply.body


@pytest.mark.parametrize("serve", [Plain, Serving])
def test_a_record_may_hold_its_row_in_one_member(serve):
    handler = serve(Ridge().fit(TABLE[NUMBERS], TARGET))

    expected = ask(handler, {"instances": [[41, 20]]}).body

    assert ask(handler, {"instances": [{"features": [41, 20]}]}).body == expected
    assert ask(handler, b'{"features": [41, 20]}\n', "application/jsonlines").body == expected
    refused = ask(handler, {"instances": [{"features": [41, 20], "id": 7}]})
    assert refused.status == 400
    assert b"id" in refused.body


@pytest.mark.parametrize("serve", [Plain, Serving])
def test_blanks_around_a_name_are_none_of_it_unless_the_training_had_them(serve):
    frame = TABLE[NUMBERS].rename(columns={"fare": " fare"})
    handler = serve(Ridge().fit(frame, TARGET))

    expected = ask(handler, {"instances": [[41, 20]]}).body

    for header in (b" fare,age", b" fare, age "):
        assert ask(handler, header + b"\n20,41\n", "text/csv").body == expected
    assert ask(handler, b"fare,age\n20,41\n", "text/csv").status == 400


@pytest.mark.parametrize("serve", [Plain, Serving])
def test_what_a_model_cannot_take_is_400_in_a_table_too(serve):
    handler = serve(ExtraTreesClassifier(n_estimators=2).fit(TABLE[NUMBERS], TARGET))
    handler.largest = 3.4e38

    assert ask(handler, {"instances": [[1e39, 1]]}).status == 400
    assert ask(handler, {"instances": [{"age": -1e39, "fare": 1}]}).status == 400


class Asked:
    """A model that counts how often it is asked for its names."""

    asked = 0

    @property
    def feature_names_in_(self):
        type(self).asked += 1

    def predict(self, rows):
        return rows[:, 0]


def test_a_model_is_looked_at_when_it_is_loaded_and_at_no_request():
    handler = Serving(Asked())
    assert ask(handler, {"instances": [[1, 2]]}).status == 200
    at_load = Asked.asked

    for _ in range(3):
        assert ask(handler, {"instances": [[1, 2]]}).status == 200

    assert Asked.asked == at_load
