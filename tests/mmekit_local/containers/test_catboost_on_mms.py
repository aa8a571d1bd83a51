"""The handler of CatBoost in Multi Model Server itself: answers, refusals, 507, phases."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from mmekit_bench.phases import read_calls
from mmekit_local.containers.mms import serving
from tests.mmekit_local.containers.management import ask, load

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        "MMEKIT_MMS_PYTHON" not in os.environ and os.environ.get("MMEKIT_TEST_MMS") != "1",
        reason="neither MMEKIT_MMS_PYTHON nor MMEKIT_TEST_MMS=1 asks for Multi Model Server",
    ),
]

HANDLER = Path(__file__).parents[3] / "infrastructure" / "containers" / "mms" / "catboost"

# A handler of the same kind for models that run out of memory: named "heavy" when it is loaded,
# named "greedy" when it is asked.
GREEDY = """
from model_handler import *
import model_handler

class Greedy(model_handler.ModelHandler):
    def initialize(self, context):
        self.name = context.model_name
        if self.name == "heavy":
            raise MemoryError
        super().initialize(context)

    def inference(self, rows):
        if self.name == "greedy":
            raise MemoryError
        return super().inference(rows)

model_handler._HANDLER = Greedy
"""


@pytest.fixture(scope="module")
def trained():
    from catboost import CatBoostClassifier
    from sklearn.datasets import make_classification

    features, labels = make_classification(500, 20, n_informative=10, random_state=0)
    model = CatBoostClassifier(iterations=50, depth=4, verbose=False, allow_writing_files=False)
    return model.fit(features, labels), features[:20]


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    trained[0].save_model(folder / "model.cbm")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serving(HANDLER / "model_handler.py") as server:
        status, text = load(server, "catboost", folder)
        assert status == 200, text
        yield server


def as_csv(rows):
    return "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist()).encode()


@pytest.mark.parametrize("count", [1, 20])
def test_it_answers_what_catboost_says_digit_for_digit(server, trained, count):
    model, rows = trained
    expected = ",".join(map(repr, model.predict_proba(rows[:count]).ravel().tolist())) + "\n"
    answer = ask(server, "POST", "/models/catboost/invoke", as_csv(rows[:count]), "text/csv")
    assert answer == (200, expected)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [(b"1,2,x", "text/csv", 400), (b"1,2", "text/csv", 400), (b"{}", "application/json", 415)],
)
def test_it_says_why_it_refuses_a_request(server, body, content_type, status):
    answer = ask(server, "POST", "/models/catboost/invoke", body, content_type)
    assert answer[0] == status
    assert "expected" in json.loads(answer[1])["message"]


def test_memory_that_runs_out_is_507_at_load_and_at_a_request(trained, folder, tmp_path):
    shutil.copytree(HANDLER, tmp_path / "handler", ignore=shutil.ignore_patterns("__pycache__"))
    greedy = tmp_path / "handler" / "greedy.py"
    greedy.write_text(GREEDY)
    row = as_csv(trained[1][:1])
    with serving(greedy) as server:
        assert load(server, "heavy", folder)[0] == 507
        assert load(server, "greedy", folder)[0] == 200
        assert ask(server, "POST", "/models/greedy/invoke", row, "text/csv")[0] == 507
        assert load(server, "modest", folder)[0] == 200
        assert ask(server, "POST", "/models/modest/invoke", row, "text/csv")[0] == 200


def test_phases_of_each_call_reach_the_servers_output(trained, folder, capfd):
    row = as_csv(trained[1][:1])
    with serving(HANDLER / "model_handler.py", environment={"MMEKIT_PHASES": "true"}) as server:
        load(server, "catboost", folder)
        for _ in range(3):
            ask(server, "POST", "/models/catboost/invoke", row, "text/csv")
        printed = ""
        deadline = time.monotonic() + 60
        while len(calls := read_calls(printed.splitlines())) < 4:
            assert time.monotonic() < deadline, printed
            printed += capfd.readouterr().out
            time.sleep(0.1)
    assert [call.number for call in calls] == [0, 1, 2, 3]
