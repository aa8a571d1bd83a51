"""Nothing is left over, however many models come and go."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.server_process import open_files

MODELS = 120
ROUNDS = 3
LITTLE = 256 << 10


def anonymous(process):
    """Return the bytes that are in no file, shared or not: other processes don't change them."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("\nRssAnon:")[2].split()[0]) * 1024


def more_files(process, before):
    """Return what a process has open that it had not before."""
    return open_files(process) - before


def test_models_that_come_and_go_leave_nothing_behind(slots, model, until):
    folders = [model(name=f"m{number}") for number in range(8)]

    def come_and_go(number):
        worker = slots.start(folders[number % len(folders)], NUMBER=str(number))
        assert worker.is_slot
        assert worker.value("os.environ['NUMBER']") == str(number)
        worker.close()

    def rest():
        """Wait until the last model has gone, and see that nothing new has stayed."""
        until(lambda: not slots.model_processes())
        until(lambda: slots.scoreboards() == 0)
        until(lambda: slots.processes() == before)

    come_and_go(0)
    until(lambda: not slots.model_processes())
    before = slots.processes()
    memory = []
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(come_and_go, range(20)))
        rest()
        files = [open_files(process) for process in before]
        memory.append(sum(map(anonymous, before)))
        for number in range(ROUNDS):
            begin = 20 + number * MODELS // ROUNDS
            list(threads.map(come_and_go, range(begin, begin + MODELS // ROUNDS)))
            rest()
            memory.append(sum(map(anonymous, before)))

    until(lambda: not any(map(more_files, before, files)))
    # An allocator may take some more now and then: a leak grows every time.
    assert min(more - less for less, more in itertools.pairwise(memory)) < LITTLE
    assert slots.socket_files() == []
    assert str(slots.folder.parent / "s") not in Path("/proc/net/unix").read_text()


def test_workers_that_come_and_go_leave_their_model_as_it_was(slots, model, until):
    first = slots.start(folder := model())
    process = psutil.Process(int(first.value("os.getpid()")))
    (server,) = slots.roots()

    def come_and_go():
        worker = slots.start(folder)
        assert worker.value("os.getpid()") == str(process.pid)
        worker.close()

    come_and_go()
    before = {one: open_files(one) for one in (process, server)}
    for _ in range(20):
        come_and_go()

    until(lambda: not any(more_files(one, files) for one, files in before.items()))


def test_deaths_leave_nothing_behind(slots, model, until):
    workers = slots.start_many(2, model())
    (server,) = slots.roots()
    files = open_files(server)

    for _ in range(3):
        assert workers[0].ask("os._exit(1)").status == 503
        workers[1].value("1")

    until(lambda: not more_files(server, files))
    until(lambda: len(slots.model_processes()) == 1)
