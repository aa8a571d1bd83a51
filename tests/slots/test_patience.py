"""How long a request may take: the time counts from its turn, and not while it waits for others."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

SLOW_ROWS = """
import os
import time
from mmekit_runtime import Handler

class Slow(Handler):
    features = 1

    def load(self, folder):
        return None

    def predict(self, model, rows, parameters):
        # Joining gains nothing.
        for value in rows[:, 0]:
            print("begun", value)
            time.sleep(3600 if value < 0 else value)
        return [os.getpid()] * len(rows)

handle = Slow()
"""


def at_once(server, name, bodies, **headers):
    with ThreadPoolExecutor(len(bodies)) as threads:
        asked = [threads.submit(server.invoke, name, body, **headers) for body in bodies]
        return [one.result() for one in asked]


def test_requests_that_wait_for_others_are_not_out_of_time(embedded, model):
    # Together they take three times what one may.
    folder = model(minWorkers=10, maxWorkers=10, option__predict_timeout=1)
    name = embedded.loaded(folder, "queue")

    answers = at_once(embedded, name, ["time.sleep(0.3) or os.getpid()"] * 10)

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert embedded.described(name)["status"] == "Healthy"


def test_requests_are_not_joined_to_what_takes_longer_than_one_may(embedded, model):
    folder = model(SLOW_ROWS, minWorkers=10, maxWorkers=10, option__predict_timeout=1)
    name = embedded.loaded(folder, "joining")

    answers = at_once(embedded, name, ["0.2"] * 10, Content_Type="text/csv")

    assert {answer.status_code for answer in answers} == {200}
    assert embedded.described(name)["status"] == "Healthy"


def test_what_waits_behind_a_request_past_its_time_is_answered_by_another_process(
    embedded, model, until
):
    folder = model(minWorkers=4, maxWorkers=4, option__predict_timeout=1, retry_threshold=1)
    name = embedded.loaded(folder, "behind")
    pid = embedded.value(name, "os.getpid()")

    with ThreadPoolExecutor(4) as threads:
        code = "print('behind it others wait', flush=True) or time.sleep(3600)"
        stuck = threads.submit(embedded.invoke, name, code)
        embedded.wait_for("behind it others wait")
        waiting = [threads.submit(embedded.invoke, name, "os.getpid()") for _ in range(3)]

        assert stuck.result().status_code == 503
        answers = [one.result() for one in waiting]
    assert {answer.status_code for answer in answers} == {200}
    assert pid not in {answer.text for answer in answers}
    until(lambda: embedded.described(name)["status"] == "Healthy")


def test_a_call_past_its_time_counts_once_for_all_requests_in_it(embedded, model, until):
    folder = model(
        SLOW_ROWS, minWorkers=4, maxWorkers=4, option__predict_timeout=2, retry_threshold=1
    )
    name = embedded.loaded(folder, "together")
    csv = {"Content_Type": "text/csv"}
    assert embedded.invoke(name, "0", **csv).status_code == 200

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(embedded.invoke, name, "0.25", **csv)
        embedded.wait_for("begun 0.25")
        together = [threads.submit(embedded.invoke, name, "-1", **csv) for _ in range(3)]
        assert first.result().status_code == 200
        assert {one.result().status_code for one in together} == {503}

    assert embedded.log.count("begun -1") == 1
    assert embedded.invoke(name, "0", **csv).status_code == 200
    until(lambda: embedded.described(name)["status"] == "Healthy")


def test_a_process_that_does_nothing_while_requests_wait_is_replaced(embedded, model):
    folder = model(minWorkers=2, maxWorkers=2, option__predict_timeout=1)
    name = embedded.loaded(folder, "stopped")
    pid = embedded.value(name, "os.getpid()")

    os.kill(int(pid), signal.SIGSTOP)
    answers = at_once(embedded, name, ["os.getpid()"] * 2)

    assert {answer.status_code for answer in answers} == {200}
    assert pid not in {answer.text for answer in answers}
    assert embedded.described(name)["status"] == "Healthy"
    embedded.wait_for(f"model process {pid} is stuck, while requests wait: ended")


@pytest.mark.thorough
def test_twenty_clients_of_nine_seconds_each_are_all_answered(embedded, model):
    name = embedded.loaded(model(minWorkers=1, maxWorkers=16), "nine")

    with ThreadPoolExecutor(20) as threads:
        asked = [
            threads.submit(
                embedded.client.post,
                f"/models/{name}/invoke",
                content="time.sleep(9)",
                timeout=600,
            )
            for _ in range(20)
        ]
        answers = [one.result() for one in asked]

    assert {answer.status_code for answer in answers} == {200}
    assert embedded.described(name)["status"] == "Healthy"
