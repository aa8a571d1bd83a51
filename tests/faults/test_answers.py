"""A model process that is killed in the very moment in which it answers."""

from __future__ import annotations

import pytest

from tests.faults.conftest import gone

DYING = """

class Dying:
    # In place of the scoreboard: the process is killed at a write of a slot's state, which says
    # that an answer is about to be sent (the first), or has been (the second).

    def __init__(self, scoreboard, write, before):
        self.scoreboard, self.left, self.before = scoreboard, write, before
        self.states = self

    def __getattr__(self, name):
        return getattr(self.scoreboard, name)

    def __setitem__(self, number, state):
        self.left -= 1
        if self.left or not self.before:
            self.scoreboard.states[number] = state
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

def die(write, before):
    loop = next(one for one in gc.get_objects() if type(one).__name__ == "RequestLoop")
    loop._scoreboard = Dying(loop._scoreboard, write, before)
    return "the last answer"
"""


@pytest.fixture
def dying(model):
    """Return the folder of a model that can die while it answers."""
    folder = model(minWorkers=2, maxWorkers=2)
    with (folder / "model.py").open("a") as file:
        file.write(DYING)
    return folder


@pytest.mark.parametrize(("write", "before"), [(1, True), (1, False)], ids=["before", "after"])
def test_an_answer_that_was_not_sent_is_a_503_at_once_and_its_worker_goes_on(
    server, dying, until, write, before
):
    name = server.loaded(dying)
    pid = server.value(name, "os.getpid()")

    answer = server.invoke(name, f"die({write}, {before})")

    assert answer.status_code == 503
    assert "the model process died in this request" in answer.text
    until(lambda: gone(pid))
    assert [server.value(name, str(number)) for number in range(20)] == list(map(str, range(20)))
    assert "of model model died" not in server.log


@pytest.mark.parametrize(("write", "before"), [(2, True), (2, False)], ids=["before", "after"])
def test_an_answer_that_was_sent_arrives_once_and_its_worker_goes_on(
    server, dying, until, write, before
):
    name = server.loaded(dying)
    pid = server.value(name, "os.getpid()")

    answer = server.value(name, f"die({write}, {before})")

    assert answer == "the last answer"
    until(lambda: gone(pid))
    # An answer too many would be taken for the next one's.
    assert [server.value(name, str(number)) for number in range(20)] == list(map(str, range(20)))
    assert "of model model died" not in server.log
