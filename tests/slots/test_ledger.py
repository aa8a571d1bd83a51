"""The memory that a model process, its fork server and the server share."""

from __future__ import annotations

import random

import pytest

from mmekit_runtime.slots.ledger import (
    BEGUN,
    IDLE,
    MAX_SLOTS,
    SENDING_NOTED,
    VECTOR,
    VECTOR_AT,
    YIELDING,
    Ledger,
    LedgerFile,
)
from mmekit_runtime.slots.outbox import Outbox


@pytest.fixture
def file():
    file = LedgerFile()
    yield file
    file.close()


def test_no_slot_s_request_touches_what_is_another_s(file):
    ledger = Ledger(file.fd)
    ledger.add(requests=7, errors=1, queue_ns=2, predict_ns=3)
    counters = ledger.counters()
    Outbox(ledger).prepare(b"an answer")
    vector = VECTOR.unpack_from(ledger.states, VECTOR_AT)
    numbers = random.sample(range(MAX_SLOTS), MAX_SLOTS)

    for number in numbers[::2]:
        ledger.begin(number)

    assert [number for number in range(MAX_SLOTS) if ledger.states[number] != IDLE] == sorted(
        numbers[::2]
    )
    assert all(file.worked_s(number) < 60 for number in numbers[::2])
    assert all(file.worked_s(number) is None for number in numbers[1::2])
    assert file.counters() == ledger.counters() == counters
    assert VECTOR.unpack_from(ledger.states, VECTOR_AT) == vector


def test_the_last_slot_s_answer_is_noted_as_the_first_s(file):
    ledger = Ledger(file.fd)
    outbox = Outbox(ledger)
    for number, state in ((0, BEGUN), (MAX_SLOTS - 1, YIELDING)):
        outbox.prepare(b"an answer")
        ledger.begin(number, state)
        assert file.settled(number) == state
        ledger.states[number] = SENDING_NOTED
        assert file.settled(number) != SENDING_NOTED
