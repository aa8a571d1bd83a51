"""What model processes count goes into the container's log, where a setting asks for it."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter

import pytest

from mmekit_runtime.signature import Column, Signature
from tests.server_process import ServerProcess

TABLE = """
from mmekit_runtime import TableHandler

class Sums(TableHandler):
    frame = False

    def load(self, folder):
        return "model"

    def predict(self, model, rows, parameters):
        if (rows[:, 0] == 13).any():
            raise ValueError("an unlucky row")
        return rows[:, 0]

handle = Sums()
"""

PLAIN_FUNCTION = """
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    code = int(inputs.get_as_string())
    return Output(code=code).add("answered")
"""

SIGNATURE = Signature(
    (
        Column("age", "double", missing=True),
        Column("city", "string", known=("Bergen", "Oslo"), missing=True),
    )
).to_json()

SECONDS = "0.05"


def metric_lines(text):
    """Return the lines of a log that are JSON from end to end, as CloudWatch looks for metrics."""
    found = []
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and "_aws" in content:
            assert len(line) < 4096
            found.append(content)
    return found


def total(lines, name, model, column=None):
    """Return the sum of a metric's values over all lines."""
    chosen = [one for one in lines if one["Model"] == model and one.get("Column") == column]
    values = [one[name] for one in chosen if name in one]
    return sum(value["Sum"] if isinstance(value, dict) else value for value in values)


class Server(ServerProcess):
    """A server whose models count."""

    def __init__(self, **environment):
        named = {"MMEKIT_METRICS": "shop", "MMEKIT_METRICS_SECONDS": SECONDS, **environment}
        super().__init__(environment=named)

    def total(self, name, model, column=None):
        return total(metric_lines(self.log), name, model, column)

    def counts(self, model):
        names = ("requests", "errors", "refused", "loads", "parks", "wakes")
        found = {name: self.total(f"mme_model_{name}_total", model) for name in names}
        return {name: number for name, number in found.items() if number}


@pytest.fixture(scope="module")
def server():
    running = Server(MMEKIT_METRICS_PER="models")
    yield running
    running.close()


@pytest.fixture
def load(server, model):
    names = []

    def load(code, name, **options):
        folder = model(code, name, option__modelName=name, **options)
        (folder / "signature.json").write_bytes(SIGNATURE)
        names.append(server.loaded(folder))
        return names[-1]

    yield load
    for name in names:
        server.unload(name)


@pytest.fixture(params=["worker slots", "plain engine"])
def way(request):
    """A setting of a model that decides who runs it."""
    return {} if request.param == "worker slots" else {"option__env": "MMEKIT_WORKER_SLOTS=off"}


def ask(server, name, rows):
    return server.invoke(name, json.dumps({"instances": rows}), Content_Type="application/json")


def test_a_model_s_requests_errors_and_times_are_in_the_log_as_metrics(server, load, way, until):
    name = load(TABLE, f"counted-{len(way)}", **way)
    statuses = Counter(
        ask(server, name, [row]).status_code
        for row in ([41, "Oslo"], [7, "Oslo"], [13, "Oslo"], [41, "Atlantis"])
    )
    assert statuses == {200: 2, 424: 1, 400: 1}

    expected = {"requests": 4, "errors": 2, "refused": 1, "loads": 1}
    until(lambda: server.counts(name) == expected)

    lines = [one for one in metric_lines(server.log) if one["Model"] == name]
    (directive,) = lines[0]["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "mmekit"
    assert directive["Dimensions"] == [["Endpoint"], ["Endpoint", "Model"]]
    assert {one["Endpoint"] for one in lines} == {"shop"}
    assert server.total("mme_model_batch_size", name) == 4
    assert 0 < server.total("mme_model_predict_seconds", name) < 60
    assert 0 < server.total("mme_model_load_seconds", name) < 60
    assert server.total("mme_model_memory_bytes", name) > 1 << 20
    # On the plain engine requests wait in the server, which does not tell.
    assert bool(server.total("mme_model_queue_seconds", name)) is not bool(way)


def test_what_is_missing_unseen_or_refused_is_counted_by_column(server, load, way, until):
    name = load(TABLE, f"drifting-{len(way)}", **way)
    assert ask(server, name, [[None, "Oslo"], [None, None]]).status_code == 200
    assert ask(server, name, [[1, "Oslo"], [2, "Ys"], [3, "Atlantis"]]).status_code == 400
    assert ask(server, name, [["forty", None]]).status_code == 400
    assert server.invoke(name, b'[{"age": 1}]').status_code == 400
    assert server.invoke(name, b'{"nonsense').status_code == 400

    def by_column(name_of_metric):
        found = {
            column: server.total(f"mme_model_{name_of_metric}_total", name, column)
            for column in ("age", "city")
        }
        return {column: number for column, number in found.items() if number}

    until(lambda: server.counts(name).get("refused") == 4)
    until(lambda: by_column("refused_columns") == {"age": 1, "city": 2})
    assert by_column("missing_values") == {"age": 2, "city": 1}
    assert by_column("unseen_categories") == {"city": 2}
    (line,) = [
        one
        for one in metric_lines(server.log)
        if one["Model"] == name
        and "mme_model_missing_values_total" in one
        and one["Column"] == "city"
    ]
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["Endpoint", "Model", "Column"]]


def test_a_model_that_is_no_handler_is_counted_by_its_worker_slots(server, load, until):
    name = load(PLAIN_FUNCTION, "function")
    for code in (200, 200, 400, 503):
        server.invoke(name, str(code))
    expected = {"requests": 4, "errors": 2, "refused": 1, "loads": 1}
    until(lambda: server.counts(name) == expected)


def test_parks_and_wakes_are_counted_and_no_count_is_lost_with_the_process(server, load, until):
    name = load(TABLE, "parking", option__park_after="0.1")
    for times in range(1, 3):
        assert ask(server, name, [[1, "Oslo"]]).status_code == 200
        until(lambda times=times: server.counts(name).get("parks") == times)
    expected = {"requests": 2, "loads": 1, "parks": 2, "wakes": 1}
    until(lambda: server.counts(name) == expected)


def test_a_process_that_replaces_a_dead_one_is_neither_a_load_nor_a_wake(server, load, until):
    name = load(TABLE, "mended")
    assert ask(server, name, [[1, "Oslo"]]).status_code == 200
    until(lambda: server.counts(name) == {"requests": 1, "loads": 1})
    (process,) = server.described(name)["processes"]
    os.kill(process["pid"], signal.SIGKILL)
    until(lambda: ask(server, name, [[1, "Oslo"]]).status_code == 200)
    until(lambda: server.counts(name).get("requests") == 2)
    assert server.counts(name) == {"requests": 2, "loads": 1}


def test_with_metrics_of_the_endpoint_a_model_is_only_named(server, load, until):
    name = load(TABLE, "named", option__env="MMEKIT_METRICS_PER=endpoint")
    assert ask(server, name, [[None, "Oslo"]]).status_code == 200
    until(lambda: server.counts(name).get("requests") == 1)
    until(lambda: server.total("mme_model_missing_values_total", name, "age") == 1)
    for line in metric_lines(server.log):
        if line["Model"] == name:
            directives = line["_aws"]["CloudWatchMetrics"]
            dimensions = [one["Dimensions"] for one in directives]
            assert dimensions == ([] if "Column" in line else [[["Endpoint"]]])


def test_without_the_setting_there_is_no_line(server, load, until):
    name = load(TABLE, "quiet", option__env="MMEKIT_METRICS=", option__park_after="0.1")
    assert ask(server, name, [[1, "Oslo"]]).status_code == 200
    until(lambda: server.described(name)["parking"]["parks"] == 1)
    assert server.counts(name) == {}
