"""The memory that a model process, its fork server and the server share."""

from __future__ import annotations

import random

import pytest

from mmekit_runtime.slots.connection import AtomicSender
from mmekit_runtime.slots.scoreboard import (
    BEGUN,
    IDLE,
    MAX_SLOTS,
    SENDING_NOTED,
    VECTOR,
    VECTOR_AT,
    YIELDING,
    Scoreboard,
    ScoreboardFile,
)


@pytest.fixture
def file():
    file = ScoreboardFile()
    yield file
    file.close()


def test_no_slot_s_request_touches_what_is_another_s(file):
    scoreboard = Scoreboard(file.fd)
    scoreboard.add(requests=7, errors=1, queue_ns=2, predict_ns=3)
    counters = scoreboard.counters()
    AtomicSender(scoreboard).prepare(b"an answer")
    vector = VECTOR.unpack_from(scoreboard.states, VECTOR_AT)
    numbers = random.sample(range(MAX_SLOTS), MAX_SLOTS)

    for number in numbers[::2]:
        scoreboard.begin(number)

    assert [number for number in range(MAX_SLOTS) if scoreboard.states[number] != IDLE] == sorted(
        numbers[::2]
    )
    assert all(file.worked_s(number) < 60 for number in numbers[::2])
    assert all(file.worked_s(number) is None for number in numbers[1::2])
    assert file.counters() == scoreboard.counters() == counters
    assert VECTOR.unpack_from(scoreboard.states, VECTOR_AT) == vector


def test_the_last_slot_s_answer_is_noted_as_the_first_s(file):
    scoreboard = Scoreboard(file.fd)
    sender = AtomicSender(scoreboard)
    for number, state in ((0, BEGUN), (MAX_SLOTS - 1, YIELDING)):
        sender.prepare(b"an answer")
        scoreboard.begin(number, state)
        assert file.settled(number) == state
        scoreboard.states[number] = SENDING_NOTED
        assert file.settled(number) != SENDING_NOTED
