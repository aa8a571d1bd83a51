"""As many processes as the requests of a model need."""

from __future__ import annotations

import threading

import psutil
import pytest

WAITING = """
import os, time
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    time.sleep(float(inputs.get_as_string()))
    return Output().add(str(os.getpid()))
"""

JOINING = """
import time
from mmekit_runtime import Handler

class Joining(Handler):
    features = 1

    def load(self, folder):
        return None

    def predict(self, model, rows, parameters):
        time.sleep(0.01)
        return rows[:, 0]

handle = Joining()
"""


@pytest.fixture
def asking():
    """Ask on each of some workers, again and again; `answered` has what each answered last."""
    stop = threading.Event()
    threads = []
    failures = []

    def ask(worker, body, properties):
        while not stop.is_set():
            answer = worker.ask(body, **properties)
            if answer.status != 200:
                failures.append(answer)
            start.answered[worker] = answer.body

    def start(workers, body, **properties):
        for worker in workers:
            threads.append(threading.Thread(target=ask, args=(worker, body, properties)))
            threads[-1].start()
        return finish

    start.answered = {}

    def finish():
        stop.set()
        for thread in threads:
            thread.join(60)
        return failures

    yield start
    finish()


def test_a_handle_that_waits_gets_a_process_for_each_slot(slots, model, asking, until):
    workers = slots.start_many(6, model(WAITING, option__processes="auto"))
    assert len(slots.model_processes()) == 1

    finish = asking(workers, "0.1")
    until(lambda: len(slots.model_processes()) == 6)
    until(lambda: len({worker.pid for worker in slots.model_processes()}) == 6)

    assert finish() == []
    assert len({worker.ask("0").body for worker in workers}) == 6


@pytest.mark.parametrize("seconds", ["0.005", "0.02", "0.06", "0.1", "0.3"])
def test_two_that_wait_get_two_processes_however_long_a_call_takes(
    slots, model, asking, until, seconds
):
    workers = slots.start_many(2, model(WAITING, option__processes="auto"))

    finish = asking(workers, seconds)
    # The second gets a slot when that is asked for a next time.
    until(lambda: len(set(asking.answered.values())) == 2)

    assert finish() == []
    assert len(slots.model_processes()) == 2


def test_a_handler_that_answers_what_waits_together_stays_one_process(slots, model, asking, until):
    workers = slots.start_many(6, model(JOINING, option__processes="auto"))
    other = slots.start_many(3, model(WAITING, name="other", option__processes="auto"))

    finish = asking(workers, "[[1]]", Content_Type="application/json")
    asking(other, "0.1")
    # By then the first have waited for many windows as well.
    until(lambda: len(slots.model_processes()) == 4)

    assert finish() == []
    assert len(slots.model_processes()) == 4


def test_processes_that_are_not_needed_any_more_end(slots, model, asking, until):
    folder = model(WAITING, option__processes="auto")
    model.change_runtime(folder, "scaling", "CALM_S = 30.0", "CALM_S = 0.1")
    model.change_runtime(folder, "scaling", "_PERIODS = 6", "_PERIODS = 2")
    model.change_runtime(folder, "forkserver", "_TURN_S = 5.0", "_TURN_S = 0.2")
    workers = slots.start_many(4, folder)

    finish = asking(workers, "0.1")
    until(lambda: len(slots.model_processes()) == 4)
    assert finish() == []
    until(lambda: len(slots.model_processes()) == 1)

    assert len({worker.ask("0").body for worker in workers}) == 1


def test_all_processes_of_a_model_park_and_one_wakes(slots, model, asking, until):
    folder = model(WAITING, option__processes="auto", option__park_after=1)
    workers = slots.start_many(4, folder)
    finish = asking(workers, "0.1")
    until(lambda: len(slots.model_processes()) == 4)
    assert finish() == []

    until(lambda: not slots.model_processes())

    assert len({worker.ask("0").body for worker in workers}) == 1
    assert len(slots.model_processes()) == 1


def test_a_further_process_that_dies_is_replaced(slots, model, asking, until):
    workers = slots.start_many(4, model(WAITING, option__processes="auto"))
    finish = asking(workers, "0.1")
    until(lambda: len(slots.model_processes()) == 4)
    assert finish() == []
    pids = {worker.ask("0").body for worker in workers}

    psutil.Process(int(workers[3].ask("0").body)).kill()

    until(lambda: len({worker.ask("0").body for worker in workers} - pids) == 1)
    assert {worker.ask("0").status for worker in workers} == {200}


def test_workers_that_end_take_their_processes_along(slots, model, asking, until):
    workers = slots.start_many(4, model(WAITING, option__processes="auto"))
    finish = asking(workers, "0.1")
    until(lambda: len(slots.model_processes()) == 4)
    assert finish() == []

    for worker in workers[1:]:
        worker.kill()
    until(lambda: len(slots.model_processes()) == 1)

    assert workers[0].ask("0").status == 200
    workers[0].kill()
    until(lambda: not slots.model_processes())
