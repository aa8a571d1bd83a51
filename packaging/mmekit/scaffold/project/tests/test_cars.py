"""The handler of model_packages/cars, run in this process: no endpoint is needed."""

import json

import pytest

import env
from mmekit.testing import agree, read_sample

PACKAGE = env.MODEL_PACKAGES / "cars"
A_CAR = {"Cylinders": 4, "Horsepower": 90, "Weight_in_lbs": 2100, "Origin": "USA"}


@pytest.fixture(scope="module")
def cars(mme_model):
    # It also asks the sample request in batches: no answer may depend on the requests beside it.
    return mme_model(PACKAGE, env.ARTIFACTS / "cars")


def ask(cars, *instances):
    return cars.invoke(json.dumps({"instances": instances}))


def test_the_sample_request_gets_the_sample_answer(cars):
    sample = read_sample(PACKAGE)
    answer = cars.invoke(sample.body, content_type=sample.content_type)
    assert agree(answer.json(), sample.answer, tolerance=1e-6)


def test_a_heavy_car_needs_more(cars):
    light, heavy = ask(cars, A_CAR, {**A_CAR, "Weight_in_lbs": 4300}).json()["predictions"]
    assert light > heavy  # miles on a gallon


def test_a_gap_is_filled(cars):
    assert ask(cars, {**A_CAR, "Horsepower": None}).status == 200


def test_a_text_is_no_weight(cars):
    assert ask(cars, {**A_CAR, "Weight_in_lbs": "heavy"}).status == 400
