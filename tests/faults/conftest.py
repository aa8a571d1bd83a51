"""Real servers under load, for faults that are injected for real.

The rule for all of these tests: nothing is lost but the requests that a fault hits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from mmekit_local.server.memory import proportional_bytes
from tests.server_process import ServerProcess, give_slots, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if not sys.platform.startswith("linux"):
    # Worker slots, /proc and the limits that are set here are Linux's.
    collect_ignore_glob = ["test_*.py"]

EVALUATE = """
import gc, os, signal, socket, sys, tempfile, time
from djl_python import Output

calls = []

def handle(inputs):
    if inputs.is_empty():
        return None
    calls.append(1)
    return Output().add(str(eval(inputs.get_as_string())))

def hold(path):
    while not os.path.exists(path):
        time.sleep(0.002)
    return "held"

def write_to_sockets(data):
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as one:
                one.send(data)
        except OSError:
            pass  # no socket, or none that is connected
"""
"""A model that answers Python expressions."""


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Make a model's folder, with worker slots unless something else is said."""

    def make(name: str = "model", *, slots: bool = True, **properties: str | int) -> Path:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(EVALUATE)
        given = {key.replace("__", "."): value for key, value in properties.items()}
        lines = [f"{key}={value}" for key, value in {"engine": "Python", **given}.items()]
        (folder / "serving.properties").write_text("\n".join(lines))
        return give_slots(folder) if slots else folder

    return make


@pytest.fixture
def start() -> Iterator[Callable[..., ServerProcess]]:
    """Start servers; they end with the test."""
    running: list[ServerProcess] = []

    def launch(*arguments: str, **options: Any) -> ServerProcess:
        running.append(ServerProcess(*arguments, **options))
        return running[-1]

    yield launch
    for one in running:
        one.close()


@pytest.fixture
def server(start: Callable[..., ServerProcess]) -> ServerProcess:
    return start()


class Traffic:
    """Clients that ask a model as fast as they are answered, each on a connection of its own.

    Attributes
    ----------
    outcomes
        How often each status came; the name of an exception where none did.
    """

    def __init__(self, server: ServerProcess, name: str, clients: int = 4, body: str = "1") -> None:
        self.outcomes: Counter[int | str] = Counter()
        self._connected: set[int] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._url = f"{server.base}/models/{name}/invoke"
        self._body = body
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                try:
                    outcome: int | str = client.post(self._url, content=self._body).status_code
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                with self._lock:
                    self.outcomes[outcome] += 1
                    self._connected.add(threading.get_ident())

    @property
    def failures(self) -> int:
        """How many requests were not answered with 200."""
        return sum(self.outcomes.values()) - self.outcomes[200]

    def connected(self) -> bool:
        """Whether each client has been answered: some may begin long after others."""
        return len(self._connected) == len(self._threads)

    def more(self, count: int = 50) -> None:
        """Wait until so many more requests were answered with 200."""
        wanted = self.outcomes[200] + count
        wait_until(lambda: self.outcomes[200] >= wanted)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def traffic() -> Iterator[Callable[..., Traffic]]:
    running: list[Traffic] = []

    def begin(*arguments: Any, **options: Any) -> Traffic:
        running.append(Traffic(*arguments, **options))
        wait_until(running[-1].connected)
        running[-1].more()
        return running[-1]

    yield begin
    for one in running:
        one.stop()


def kill(pid: int | str) -> None:
    os.kill(int(pid), signal.SIGKILL)


def gone(pid: int | str) -> bool:
    """Whether a process has ended, be it a zombie still."""
    try:
        return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def own_memory(server: ServerProcess) -> int:
    """Return the bytes of the server's own process."""
    return proportional_bytes(server.pid)


@pytest.fixture
def small_folder() -> Iterator[Path]:
    """Make a folder of short name on a file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    import subprocess

    with tempfile.TemporaryDirectory(prefix="f-") as name:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", name],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=False)


def fill(folder: Path) -> Path:
    """Write until a file system is full; return the file that fills it."""
    file = folder / "full"
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 20))
    # What a page does not hold, a byte may.
    with contextlib.suppress(OSError), file.open("ab", buffering=0) as stream:
        while stream.write(b"x"):
            pass
    return file
