"""cars_pipeline and cars_boosting: a table with names, texts, dates and gaps in, numbers out."""

from __future__ import annotations

import json

import pytest

from mmekit.testing import agree, read_sample

BOTH = ["cars_pipeline", "cars_boosting"]


@pytest.fixture(params=BOTH)
def name(request):
    return request.param


@pytest.fixture
def model(request, name):
    return request.getfixturevalue(name)


@pytest.fixture
def trained(request, name):
    return request.getfixturevalue(name.replace("cars", "trained"))


@pytest.fixture
def rows(cars):
    """Return cars that the models have not seen, and all those without a horsepower."""
    import pandas as pd

    return pd.concat([cars[1], cars[0][cars[0]["Horsepower"].isna()]])


def records(rows):
    return json.loads(rows.to_json(orient="records", date_format="iso"))


def test_the_sample_request_gets_the_sample_answer(model, name, packages):
    sample = read_sample(packages / name)
    answer = model.invoke(sample.body, content_type=sample.content_type)
    assert answer.status == 200
    assert agree(answer.json(), sample.answer)


def test_every_format_gets_the_answer_of_the_model_itself(model, trained, rows):
    assert rows["Horsepower"].isna().sum() >= 5
    expected = {"predictions": trained.predict(rows).tolist()}
    turned = rows[rows.columns[::-1]]
    for body, content_type in [
        (json.dumps({"instances": records(turned)}), "application/json"),
        (turned.to_csv(index=False), "text/csv"),
        (rows.to_csv(index=False, header=False), "text/csv; header=absent"),
        (turned.to_parquet(index=False), "application/vnd.apache.parquet"),
    ]:
        answer = model.invoke(body, content_type=content_type)
        assert answer.status == 200, answer.text
        assert agree(answer.json(), expected, tolerance=1e-9)


def test_a_car_alone_gets_the_answer_that_it_gets_among_others(model, rows):
    together = model.invoke(json.dumps({"instances": records(rows[:5])})).json()["predictions"]
    alone = [model.invoke(json.dumps([record])).json() for record in records(rows[:5])]
    assert agree([answer["predictions"][0] for answer in alone], together, tolerance=1e-9)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"Horsepower": "strong"}, ["row 1", "column Horsepower", "'strong'", "a number"]),
        ({"Origin": "Italy"}, ["row 1", "column Origin", "'Italy'", "'Europe', 'Japan', 'USA'"]),
        ({"Year": "in spring"}, ["row 1", "column Year", "'in spring'", "ISO 8601"]),
        ({"Cylinders": 4.5}, ["row 1", "column Cylinders", "4.5", "a whole number"]),
        ({"Colour": "red"}, ["record 1", "Colour"]),
    ],
)
def test_a_record_that_does_not_fit_is_told_where_and_why(model, rows, changes, parts):
    first, second = records(rows[:2])
    answer = model.invoke(json.dumps({"instances": [first, {**second, **changes}]}))
    assert answer.status == 400
    for part in parts:
        assert part in answer.json()["message"]
    assert model.invoke(json.dumps([first])).ok, "the model lives on"


def test_the_pipeline_wants_an_origin_and_a_name_and_boosting_neither(
    cars_pipeline, cars_boosting, trained_boosting, rows
):
    expected = trained_boosting.predict(rows[:1].assign(Origin=None).astype({"Origin": "category"}))
    (record,) = records(rows[:1])
    without = {**record, "Origin": None}
    refused = cars_pipeline.invoke(json.dumps([without]))
    assert refused.status == 400
    assert "a missing value in row 0, column Origin" in refused.json()["message"]
    del without["Name"]
    answer = cars_boosting.invoke(json.dumps([without]))
    assert agree(answer.json()["predictions"], expected.tolist())
    del record["Name"]
    refused = cars_pipeline.invoke(json.dumps([record]))
    assert refused.status == 400
    assert "none called Name" in refused.json()["message"]
