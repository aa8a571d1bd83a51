"""Handlers of four verbs: requests that wait together are one call, and each has its answer."""

from __future__ import annotations

import json

import pytest

from mmekit_runtime.wire import encode_request
from tests.server_process import wait_until

ROWS = """
import os
import time
from pathlib import Path
from mmekit_runtime import Handler, Prediction

class Sums(Handler):
    features = 2
    max_rows = 64

    def load(self, folder):
        if (folder / "memory").exists():
            raise MemoryError("no room for the model")
        if (folder / "broken").exists():
            raise ValueError("a broken model")
        return []

    def predict(self, calls, rows, parameters):
        calls.append(len(rows))
        if (rows == -1).all(axis=1).any():
            while not os.path.exists("gate"):
                time.sleep(0.002)
        if (rows == -2).any():
            raise ValueError("a poisoned row")
        if (rows == -3).any():
            raise MemoryError("a huge row")
        if (rows == -4).any():
            return [len(calls)] * len(rows)
        if (rows == -5).any():
            return [max(calls)] * len(rows)
        if parameters.probabilities:
            return Prediction(rows.sum(axis=1), rows, ["a", "b"])
        return rows.sum(axis=1)

handle = Sums()
"""


def rows(*values):
    return json.dumps({"instances": list(values)})


def send(worker, body):
    worker.send(body, Content_Type="application/json")


def ask(worker, *values):
    send(worker, rows(*values))
    return worker.receive()


def test_a_server_s_batch_is_answered_as_by_the_plain_engine(shared_slots, shared_model):
    folder = shared_model(ROWS, name="rows")
    properties = {"handler": "handle", "batch_size": "2"}
    content = []
    for index, body in enumerate((rows([1, 2]), rows([3, 4], [5, 6]))):
        properties[f"batch_{index:03d}.Content-Type"] = "application/json"
        content.append((f"batch_{index:03d}.data", body.encode()))

    answers = []
    for switch in ("on", "off"):
        worker = shared_slots.start(folder, MMEKIT_WORKER_SLOTS=switch)
        worker.sock.sendall(encode_request(properties, content))
        answers.append(worker.receive())

    assert answers[0] == answers[1]
    assert [json.loads(body)["predictions"] for _, body in answers[0].content] == [[3], [7, 11]]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (rows([1, 2], [3, 4]), "application/json"),
        ('{"instances": [[1, 2]], "parameters": {"probabilities": true}}', "application/json"),
        (rows([1, 2, 3]), "application/json"),
        (rows([-2, 1]), "application/json"),
        (rows([-3, 1]), "application/json"),
        ("{", "application/json"),
        ("1,2\n3,4\n", "text/csv"),
        ("?", "image/png"),
        ("", "application/json"),
    ],
)
def test_a_handler_of_four_verbs_answers_as_on_the_plain_engine(
    shared_slots, shared_model, both_rows, body, content_type
):
    answers = [worker.ask(body, Content_Type=content_type) for worker in both_rows]

    assert answers[0] == answers[1]


@pytest.fixture(scope="module")
def both_rows(shared_slots, shared_model):
    folder = shared_model(ROWS, name="both_rows")
    return shared_slots.start(folder), shared_slots.start(folder, MMEKIT_WORKER_SLOTS="off")


def gathered(workers, gate, *values):
    """Keep the process busy until every worker's request waits, so that they come together."""
    busy, *others = workers
    send(busy, rows([-1, -1]))
    wait_until(lambda: busy.unread() == 0)
    for worker, value in zip(others, values, strict=True):
        send(worker, rows(*value))
    gate.touch()
    assert busy.receive().status == 200
    return [worker.receive() for worker in others]


def predictions(answer):
    assert answer.status == 200, answer
    return json.loads(answer.body)["predictions"]


def test_requests_that_wait_together_are_one_call(shared_slots, model):
    folder = model(ROWS)
    workers = shared_slots.start_many(5, folder)

    # The model answers -4 with the number of the call.
    answers = gathered(workers, folder / "gate", *[[[-4, 0]]] * 4)

    assert [predictions(answer) for answer in answers] == [[2]] * 4


def test_answers_of_one_call_go_to_those_who_asked(shared_slots, model):
    folder = model(ROWS)
    workers = shared_slots.start_many(4, folder)

    answers = gathered(workers, folder / "gate", [[1, 1]], [[2, 2], [3, 3]], [[4, 4]])

    assert [predictions(answer) for answer in answers] == [[2], [4, 6], [8]]


def test_one_bad_request_among_many_fails_alone(shared_slots, model):
    folder = model(ROWS)
    workers = shared_slots.start_many(6, folder)

    answers = gathered(
        workers, folder / "gate", [[1, 1]], [[-2, 0]], [[1, 2, 3]], [[-3, 0]], [[2, 2]]
    )

    assert [answer.status for answer in answers] == [200, 424, 400, 507, 200]
    assert b"a poisoned row" in answers[1].body
    assert b"a huge row" in answers[3].body


def test_the_rows_of_one_call_are_bounded(shared_slots, model):
    folder = model(ROWS)
    workers = shared_slots.start_many(5, folder)

    gathered(workers, folder / "gate", *[[[1, 1]] * 30] * 4)

    # max_rows of this model is 64: two calls of 60 rows each.
    assert predictions(ask(workers[0], [-5, 0])) == [60]


def test_a_single_request_with_more_rows_is_not_split(shared_slots, model):
    worker = shared_slots.start(model(ROWS))

    assert len(predictions(ask(worker, *[[1, 1]] * 100))) == 100
    assert predictions(ask(worker, [-5, 0])) == [100]


@pytest.mark.parametrize(
    ("obstacle", "status", "reason"),
    [
        ("memory", 507, "MemoryError: no room for the model"),
        ("broken", 424, "ValueError: a broken model"),
    ],
)
def test_a_load_that_fails_is_that_load_s_failure_alone(
    shared_slots, model, obstacle, status, reason
):
    folder = model(ROWS)
    (folder / obstacle).touch()
    failing, other = shared_slots.launch(folder), shared_slots.start(model(ROWS, name="other"))
    failing.connect()

    answer = failing.initialise()
    (folder / obstacle).unlink()

    assert (answer.status, answer.message) == (status, reason)
    assert predictions(ask(other, [1, 2])) == [3]
    # DJL Serving would end the worker now. Nothing of the failure is kept.
    assert failing.initialise().status == 200


def test_memory_that_runs_out_in_a_request_fails_that_request_alone(shared_slots, model):
    worker = shared_slots.start(model(ROWS))

    failed = ask(worker, [-3, 0])

    assert failed.status == 507
    assert predictions(ask(worker, [1, 2])) == [3]
