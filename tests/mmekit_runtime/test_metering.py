"""What a handler counts: distributions, columns of tables, and lines that a pipe takes whole."""

import json

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mmekit_runtime import Request, RequestError, SklearnHandler, TableHandler
from mmekit_runtime.metering.buckets import ValueBuckets
from mmekit_runtime.metering.current import CURRENT
from mmekit_runtime.metering.emf import LONGEST_LINE, MetricLines
from mmekit_runtime.metering.meter import ModelMeter, Period
from mmekit_runtime.signature import Column, Signature


class Output:
    """A container's log, which takes as many lines as it has room for."""

    def __init__(self, room=1000):
        self.lines = []
        self.room = room

    def write(self, line):
        if len(self.lines) >= self.room:
            return False
        self.lines.append(line)
        return True


@pytest.fixture
def output():
    return Output()


@pytest.fixture
def meter(output):
    """A meter in this process, which is there for one test."""
    CURRENT.meter = ModelMeter(MetricLines(output, "shop", per_model=True), 60, lambda: 5)
    yield CURRENT.meter
    CURRENT.meter = None


def reported(meter, output):
    meter.close()
    return [json.loads(line) for line in output.lines]


def test_a_text_that_an_encoder_ignores_is_an_unseen_category(meter, output, tmp_path):
    table = pd.DataFrame({"city": ["Oslo", "Bergen", "Oslo"], "age": [1.0, 2.0, 3.0]})
    encoder = OneHotEncoder(handle_unknown="ignore")
    pipeline = make_pipeline(
        make_column_transformer((encoder, ["city"]), remainder="passthrough"), LinearRegression()
    )
    joblib.dump(pipeline.fit(table, [1, 2, 3]), tmp_path / "model.joblib")
    handler = SklearnHandler("model.joblib")
    handler.prepare(tmp_path)
    rows = [["Oslo", 1], ["Atlantis", 2], ["Ys", 3], ["Atlantis", 4]]
    body = json.dumps({"instances": rows}).encode()
    (reply,) = handler.answer([Request(body, "application/json")])
    assert reply.status == 200
    (line,) = reported(meter, output)
    assert (line["Column"], line["mme_model_unseen_categories_total"]) == ("city", 3)


class Choosy(TableHandler):
    frame = False
    reads = ()

    def load(self, folder):
        return "model"

    def predict(self, model, rows, parameters):
        if (rows[:, 0] == 13).any():
            raise RequestError(400, "a lucky number", "13")
        return [1] * len(rows)


REFUSED = {
    "a value": (b'[["forty", "Oslo"], [null, null]]', "application/json"),
    "another column's value": (b'[[null, 5], [1, "Oslo"]]', "application/json"),
    "a category": (b'[[null, "Ys"], [1, null]]', "application/json"),
    "a column that is not there": (b'[{"age": null}]', "application/json"),
    "a parameter": (b'{"instances": [[null, null]], "parameters": {"x": 1}}', "application/json"),
    "the model": (b'[[null, "Oslo"], [13, null]]', "application/json"),
    "the format of its answer": (b"[[null, null]]", "image/png"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_of_a_refused_request_only_the_unseen_categories_count_that_it_is_refused_for(
    meter, output, tmp_path, why
):
    body, accept = REFUSED[why]
    columns = (
        Column("age", "double", missing=True),
        Column("city", "string", known=("Bergen", "Oslo"), missing=True),
    )
    (tmp_path / "signature.json").write_bytes(Signature(columns).to_json())
    handler = Choosy()
    handler.prepare(tmp_path)
    requests = [
        Request(body, "application/json", accept),
        Request(b'[[null, "Oslo"], [2, "Oslo"]]', "application/json"),
    ]
    refused, answered = handler.answer(requests)
    assert (refused.status in (400, 406), answered.status) == (True, 200)
    counted = [
        (line["Column"], name, line[name])
        for line in reported(meter, output)
        for name in ("mme_model_missing_values_total", "mme_model_unseen_categories_total")
        if name in line
    ]
    missing = ("age", "mme_model_missing_values_total", 1)
    unseen = ("city", "mme_model_unseen_categories_total", 1)
    is_unseen = why in ("a category", "another column's value")
    assert sorted(counted) == ([missing, unseen] if is_unseen else [missing])


def test_a_line_fits_into_a_pipe_in_one_step_and_what_does_not_fit_is_another(meter, output):
    meter.model = "Größe " * 60
    values = np.random.default_rng(0).lognormal(-6, 4, 3000) * 1e9
    for value in values:
        meter.called([200] * 5, int(value), [int(value)] * 5)
    meter.loaded(5)
    lines = reported(meter, output)
    assert all(len(line) <= LONGEST_LINE and line.endswith(b"\n") for line in output.lines)
    assert sum(line.get("mme_model_requests_total", 0) for line in lines) == 15_000
    assert all(line["Model"].isascii() for line in lines)
    name = "mme_model_predict_seconds"
    (predict,) = [one[name] for one in lines if name in one]
    assert sum(predict["Counts"]) == predict["Count"] == 3000
    assert predict["Sum"] == pytest.approx(values.sum() / 1e9, rel=1e-6)
    assert predict["Min"] <= predict["Values"][0] <= predict["Values"][-1] <= predict["Max"]


def test_what_the_log_has_no_room_for_comes_later(output, meter):
    output.room = 0
    meter.called([200], 5)
    meter.close()
    assert output.lines == []
    output.room = 2
    meter.called([503], 5)
    first, second = reported(meter, output)
    assert (first["mme_model_requests_total"], second["mme_model_requests_total"]) == (1, 1)
    assert "mme_model_errors_total" not in first
    assert second["mme_model_errors_total"] == 1


def test_small_whole_numbers_stay_what_they_are_and_the_sum_is_exact():
    buckets = ValueBuckets()
    buckets.add([1, 1, 2, 3, 8, 0])
    assert buckets.values(40) == [(0, 1), (1, 2), (2, 1), (3, 1), (8, 1)]
    assert (buckets.count, buckets.total, buckets.least, buckets.most) == (6, 15, 0, 8)


def test_percentiles_of_buckets_are_those_of_the_values_within_a_tenth():
    values = np.random.default_rng(1).lognormal(-7, 0.3, 20_000)
    buckets = ValueBuckets()
    buckets.add(values.tolist())
    spread = np.repeat(*map(np.array, zip(*buckets.values(40), strict=True)))
    for percentile in (1, 50, 99):
        expected = np.percentile(values, percentile)
        assert np.percentile(spread, percentile) == pytest.approx(expected, rel=0.1)


def test_a_column_with_nothing_to_tell_is_no_line(meter, output):
    meter.column("age", missing=0)
    assert reported(meter, output) == []
    assert not Period().columns


class Broken:
    """What raises whatever it is told: an exporter, an output."""

    def __getattr__(self, name):
        def raising(*_, **__):
            raise RuntimeError(name)

        return raising


def test_a_meter_raises_nothing_whatever_it_tells_raises_and_says_so_once(caplog):
    meter = ModelMeter(Broken(), 0.0, lambda: 0)
    meter.events = Broken()
    meter.called([200], 1)
    meter.answered([200], 1)
    meter.loaded(1)
    meter.woken()
    meter.parked()
    meter.column("size", missing=1)
    meter.gaps("size", Broken().gaps)
    assert meter.report_if_due() is None
    meter.close()
    assert len([one for one in caplog.records if "not complete" in one.getMessage()]) == 1


def test_what_an_exporter_raises_takes_nothing_from_the_lines(output, meter):
    meter.events = Broken()
    meter.called([200, 400], 1)
    assert reported(meter, output)[0]["mme_model_requests_total"] == 2
