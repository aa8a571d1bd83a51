"""catboost_classifier: the same answers on DJL Serving, on Multi Model Server, from CatBoost."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmekit.testing import agree, load_handler, read_sample
from mmekit_bench.phases import read_calls, summarise

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "model_packages" / "catboost_classifier"
MMS = ROOT / "infrastructure" / "containers" / "mms" / "catboost"


@dataclass
class Context:
    """What the handler reads and writes of mms.context.Context, of Multi Model Server 1.1.11."""

    system_properties: dict[str, Any]
    content_types: list[str] = field(default_factory=lambda: ["text/csv"])
    statuses: dict[int, int] = field(default_factory=dict)
    answer_types: dict[int, str] = field(default_factory=dict)

    def get_all_request_header(self, index):
        return {"body": {"content-type": self.content_types[index]}}

    def set_response_status(self, code=200, phrase="", idx=0):
        assert "\n" not in phrase
        self.statuses[idx] = code

    def set_response_content_type(self, index, value):
        self.answer_types[index] = value


class OnMms:
    """The module as a worker of Multi Model Server uses it: loaded first, then asked."""

    def __init__(self, folder):
        specification = importlib.util.spec_from_file_location(
            "mms_catboost", MMS / "model_handler.py"
        )
        self.module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(self.module)
        self.context = self.load(folder)

    def load(self, folder):
        context = Context({"model_dir": str(folder)})
        assert self.module.handle(None, context) is None
        return context

    def invoke(self, *bodies, content_type="text/csv", context=None):
        context = context or self.context
        context.content_types = [content_type] * len(bodies)
        context.statuses = {}
        return self.module.handle([{"body": body} for body in bodies], context)


@pytest.fixture(scope="module")
def catboost():
    """Return the library, imported here: it takes long in each process that collects the tests."""
    import catboost

    return catboost


@pytest.fixture(scope="module")
def data():
    from sklearn.datasets import make_classification
    from sklearn.model_selection import train_test_split

    features, labels = make_classification(
        4000, 20, n_informative=10, n_redundant=4, random_state=0
    )
    return train_test_split(features, labels, test_size=0.25, random_state=0, stratify=labels)


@pytest.fixture(scope="module")
def trained(catboost, data):
    """Return the small model of notebook 6."""
    train, _, labels, _ = data
    quiet = {"verbose": False, "allow_writing_files": False}
    model = catboost.CatBoostClassifier(iterations=500, depth=6, random_seed=0, **quiet)
    return model.fit(train, labels)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    trained.save_model(folder / "model.cbm")
    return folder


@pytest.fixture(scope="module")
def on_djl(folder):
    with load_handler(PACKAGE, folder) as model:
        yield model


@pytest.fixture(scope="module")
def on_mms(folder):
    return OnMms(folder)


@pytest.fixture(scope="module")
def rows(data):
    return data[1][:50]


def as_csv(rows):
    return "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist())


def digits(probabilities):
    return ",".join(map(repr, probabilities.ravel().tolist())) + "\n"


def test_the_small_model_is_as_small_as_the_documents(folder):
    assert 560_000 < (folder / "model.cbm").stat().st_size < 580_000


def test_the_sample_request_gets_the_sample_answer(on_djl):
    sample = read_sample(PACKAGE)
    answer = on_djl.invoke(sample.body, content_type=sample.content_type)
    assert answer.status == 200, answer.text
    assert agree(answer.json(), sample.answer)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_both_servers_answer_what_catboost_says_digit_for_digit(
    trained, on_djl, on_mms, rows, count
):
    body = as_csv(rows[:count])
    expected = digits(trained.predict_proba(rows[:count]))
    on_djls = on_djl.invoke(body, content_type="text/csv")
    assert on_djls.content_type == "text/csv"
    assert on_djls.text == expected
    assert on_mms.invoke(body) == [expected]
    assert on_mms.context.answer_types == {0: "text/csv"}
    assert on_mms.context.statuses == {}


def test_multi_model_server_may_hand_over_bytes_or_text(on_mms, rows):
    body = as_csv(rows[:1])
    assert on_mms.invoke(bytearray(body.encode())) == on_mms.invoke(body)


def test_a_header_is_passed_over(on_djl, on_mms, rows):
    header = ",".join(f"feature_{number}" for number in range(20)) + "\r\n"
    body = as_csv(rows[:2])
    expected = on_mms.invoke(body)
    assert on_mms.invoke(header + body) == expected
    assert [on_djl.invoke(header + body, content_type="text/csv").text] == expected


def test_json_is_answered_with_labels_and_with_probabilities_on_demand(trained, on_djl, rows):
    body = json.dumps({"instances": rows.tolist()})
    probabilities = trained.predict_proba(rows)
    answer = on_djl.invoke(body, attributes="probabilities=true").json()
    assert answer["predictions"] == probabilities.argmax(axis=1).tolist()
    assert answer["probabilities"] == probabilities.tolist()
    assert answer["classes"] == [0, 1]
    assert on_djl.invoke(body).json() == {"predictions": answer["predictions"]}


def test_accept_decides_when_it_says_something(on_djl, on_mms, rows):
    body = as_csv(rows[:2])
    assert on_djl.invoke(body, content_type="text/csv", accept="application/json").json()
    flat = on_djl.invoke(json.dumps(rows[:2].tolist()), accept="text/csv")
    assert [flat.text] == on_mms.invoke(body)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("", "text/csv", 400),
        ("a,b,c\n", "text/csv", 400),
        ("1,2,3\n", "text/csv", 400),
        (",".join(["1"] * 19 + ["x"]), "text/csv", 400),
        (",".join(["1"] * 19 + ["nan"]), "text/csv", 400),
        (",".join(["1"] * 19 + ["1e39"]), "text/csv", 400),
        (",".join(["1"] * 20) + "\n1,2\n", "text/csv", 400),
        (b"\xff\xfe", "text/csv", 400),
        ("1", "image/png", 415),
    ],
)
def test_both_servers_refuse_the_same_requests(on_djl, on_mms, body, content_type, status):
    assert on_djl.invoke(body, content_type=content_type).status == status
    (answer,) = on_mms.invoke(body, content_type=content_type)
    assert on_mms.context.statuses == {0: status}
    assert json.loads(answer)["code"] == status
    assert on_mms.context.answer_types[0] == "application/json"


def test_one_bad_request_of_a_batch_fails_alone(on_mms, rows):
    good = as_csv(rows[:1])
    answers = on_mms.invoke(good, "1,2\n", good)
    assert on_mms.context.statuses == {1: 400}
    assert answers[0] == answers[2] == on_mms.invoke(good)[0]


def test_models_share_nothing_on_multi_model_server(
    catboost, trained, on_mms, data, rows, tmp_path
):
    train, _, labels, _ = data
    other = catboost.CatBoostClassifier(iterations=3, verbose=False, allow_writing_files=False)
    other.fit(train, labels).save_model(tmp_path / "model.cbm")
    second = on_mms.load(tmp_path)
    body = as_csv(rows)
    assert on_mms.invoke(body, context=second) == [digits(other.predict_proba(rows))]
    assert on_mms.invoke(body) == [digits(trained.predict_proba(rows))]


def test_multi_model_server_hears_of_memory_that_ran_out(catboost, on_mms, rows, monkeypatch):
    def run_out(*_arguments, **_named):
        raise MemoryError("a matrix of 9 TiB")

    monkeypatch.setattr(on_mms.context.handler.model, "predict_proba", run_out)
    with pytest.raises(MemoryError):
        on_mms.invoke(as_csv(rows[:1]))
    monkeypatch.setattr(catboost.CatBoostClassifier, "load_model", run_out)
    with pytest.raises(MemoryError):
        on_mms.load(on_mms.context.system_properties["model_dir"])


def test_nothing_is_timed_unless_it_is_asked_for(on_djl, on_mms, rows, capsys):
    body = as_csv(rows[:1])
    on_djl.invoke(body, content_type="text/csv")
    on_mms.invoke(body)
    assert "phases" not in capsys.readouterr().out
    assert type(on_mms.context.handler).__name__ == "ModelHandler"


def test_both_servers_print_the_same_phases(folder, rows, monkeypatch, capsys):
    monkeypatch.setenv("MMEKIT_PHASES", "true")
    body = as_csv(rows[:1])
    tables = []
    on_mms = OnMms(folder)
    for _ in range(3):
        on_mms.invoke(body)
    tables.append(capsys.readouterr().out)
    with load_handler(PACKAGE, folder) as on_djl:
        for _ in range(3):
            on_djl.invoke(body, content_type="text/csv")
    tables.append(capsys.readouterr().out)
    for table in tables:
        calls = read_calls(table.splitlines())
        assert [call.number for call in calls] == [0, 1, 2, 3]
        assert {call.size for call in calls} == {(folder / "model.cbm").stat().st_size}
        rows_of_table = summarise(calls)
        assert all(row.initial_ms is not None for row in rows_of_table)
        once = [row.function for row in rows_of_table if row.subsequent_ms is None]
        assert once == ["init", "initialize"]
        phases = dict(calls[-1].phases)
        inner = phases["preprocess"] + phases["inference"] + phases["postprocess"]
        assert inner <= phases["handle_in"]


def test_probabilities_are_what_they_should_be(on_djl, rows):
    answer = on_djl.invoke(as_csv(rows), content_type="text/csv")
    probabilities = np.array(answer.text.split(","), dtype=float).reshape(-1, 2)
    assert probabilities.shape == (50, 2)
    assert np.allclose(probabilities.sum(axis=1), 1)
