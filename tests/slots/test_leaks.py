"""Nothing is left over, however many models come and go."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

MODELS = 200
LITTLE = 256 << 10


def anonymous(process):
    """Return the bytes that are in no file, shared or not: other processes don't change them."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("\nRssAnon:")[2].split()[0]) * 1024


def open_files(process):
    """Return what a process has open; one that it closes meanwhile is not."""
    found = []
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(path.readlink()).split(":")[0])
    return sorted(found)


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
        until(lambda: slots.ledgers() == 0)
        assert slots.processes() == before

    come_and_go(0)
    until(lambda: not slots.model_processes())
    before = slots.processes()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(come_and_go, range(20)))
        rest()
        files = [open_files(process) for process in before]
        memory = sum(map(anonymous, before))

        list(threads.map(come_and_go, range(20, MODELS)))
        rest()

    until(lambda: [open_files(process) for process in before] == files)
    assert sum(map(anonymous, before)) - memory < LITTLE
    assert slots.socket_files() == []
    assert str(slots.folder.parent / "s") not in Path("/proc/net/unix").read_text()


def test_workers_that_come_and_go_leave_their_model_as_it_was(slots, model, until):
    first = slots.start(folder := model())
    process = psutil.Process(int(first.value("os.getpid()")))
    before = open_files(process)
    server = open_files(slots.roots()[0])

    for _ in range(30):
        worker = slots.start(folder)
        assert worker.value("os.getpid()") == str(process.pid)
        worker.close()

    until(lambda: open_files(process) == before)
    until(lambda: open_files(slots.roots()[0]) == server)


def test_deaths_leave_nothing_behind(slots, model, until):
    workers = slots.start_many(2, model())
    (server,) = slots.roots()
    files = open_files(server)

    for _ in range(3):
        assert workers[0].ask("os._exit(1)").status == 503
        workers[1].value("1")

    until(lambda: open_files(server) == files)
    assert len(slots.model_processes()) == 1
