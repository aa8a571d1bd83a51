"""What a process has written to of its parent's pages, and their copies in advance."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal

import pytest

from mmekit_runtime.slots import copy_on_write
from mmekit_runtime.slots.memory import private_bytes

PAGE = mmap.PAGESIZE
COUNT = 2000


@pytest.fixture
def memory():
    """Private memory of so many pages, with something in each, and where it lies."""
    space = mmap.mmap(-1, COUNT * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    space.madvise(mmap.MADV_NOHUGEPAGE)
    for number in range(COUNT):
        space[number * PAGE] = 1
    start = ctypes.addressof(ctypes.c_char.from_buffer(space))
    return space, start


@pytest.fixture
def child():
    """Fork a child that does something, says so, and waits for its end."""
    pids = []

    def fork(action):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                action()
                os.write(writer, b"1")
                signal.pause()
            finally:
                os._exit(1)
        pids.append(pid)
        os.close(writer)
        assert os.read(reader, 1) == b"1"
        os.close(reader)
        return pid

    yield fork
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def within(runs, start):
    """Return the numbers of the memory's pages that are in runs."""
    found = {address for run in runs for address in range(run[0], sum(run), PAGE)}
    return {(one - start) // PAGE for one in found if start <= one < start + COUNT * PAGE}


def test_a_page_is_written_to_or_not(memory, child):
    space, start = memory

    def write():
        for number in (0, 1, 7, COUNT - 1):
            space[number * PAGE + 5] = 2

    assert within(copy_on_write.written(child(write)), start) == {0, 1, 7, COUNT - 1}


def test_pages_that_are_copied_in_advance_are_the_child_s_own_and_say_the_same(memory, child):
    space, start = memory
    runs = [(start, 500 * PAGE), (start + 1000 * PAGE, 500 * PAGE)]

    def copy():
        copy_on_write.copy(runs)
        assert all(space[number * PAGE] == 1 for number in range(COUNT))

    before = private_bytes(child(lambda: None))
    pid = child(copy)

    assert within(copy_on_write.written(pid), start) == {*range(500), *range(1000, 1500)}
    assert private_bytes(pid) - before > 900 * PAGE


def test_what_is_not_mapped_any_more_is_passed_over(child):
    gone = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(gone))
    gone.close()

    child(lambda: copy_on_write.copy([(start, PAGE), (PAGE, PAGE)]))


def test_what_two_have_written_to_is_copied_up_to_a_limit():
    first = [(8 * PAGE, 2 * PAGE), (20 * PAGE, PAGE)]
    second = [(9 * PAGE, 3 * PAGE), (30 * PAGE, 2 * copy_on_write.MOST_BYTES)]

    assert copy_on_write.common(first, second) == [(9 * PAGE, PAGE)]
    assert copy_on_write.common(first, []) == []
    (longest,) = copy_on_write.common(second[1:], second)
    assert longest == (30 * PAGE, copy_on_write.MOST_BYTES)


def test_of_a_process_that_is_gone_nothing_is_known(child):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

    with pytest.raises(OSError, match="No such"):
        copy_on_write.written(pid)
