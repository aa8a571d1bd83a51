"""Whether there is memory for one more model."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from mmekit.server.memory import MIB, Memory, private_bytes, proportional_bytes

HOLDER = "data = bytearray({size}); print('ready', flush=True); input()"


@pytest.fixture
def hold():
    """Start processes that hold memory; they end with the test."""
    started = []

    def start(mib: int) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER.format(size=mib * MIB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        process.stdout.readline()
        return process.pid

    yield start
    for process in started:
        process.communicate()


def test_the_memory_of_a_process_is_known(hold):
    pid = hold(50)

    assert 50 * MIB < private_bytes(pid) <= proportional_bytes(pid) + MIB
    assert proportional_bytes(2**22 + 1) == 0


def test_without_a_limit_the_machines_free_memory_counts():
    available = Memory().available([])

    assert available == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_with_a_limit_what_the_processes_use_counts(hold):
    memory = Memory(400 * MIB)
    before = memory.available([])
    pid = hold(100)

    assert memory.available([pid]) < before - 100 * MIB
    assert memory.available([]) == pytest.approx(before, rel=0.1)


def test_a_process_that_grows_is_measured_again(hold):
    memory = Memory(10_000 * MIB)
    pids = [hold(1) for _ in range(3)]
    first = memory.available(pids)
    memory._measured[pids[0]] = 0

    assert memory.available(pids) == pytest.approx(first, rel=0.01)


def test_loads_under_way_count_as_memory():
    memory = Memory(1000 * MIB + proportional_bytes(os.getpid()))

    with memory.admit(600 * MIB, 0, []) as first:
        assert first
        with memory.admit(600 * MIB, 0, []) as second:
            assert not second
        with memory.admit(200 * MIB, 0, []) as third:
            assert third
    with memory.admit(600 * MIB, 0, []) as after:
        assert after


def test_a_reserve_stays_free():
    memory = Memory(1000 * MIB + proportional_bytes(os.getpid()))

    with memory.admit(600 * MIB, 500 * MIB, []) as fits:
        assert not fits
