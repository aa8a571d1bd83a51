"""A container of this machine, and what a model costs in it: time to load, time to answer, memory.

The endpoint is left out here: it would add its own share to both.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

from mmekit_local.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

HOST = "127.0.0.1"
COPIES = 3
WARM_CALLS = 20
START_S = 60

Container = tuple[int, int]
"""The process of a server, and its port."""


def ask(
    port: int, method: str, path: str, body: str | bytes = "", kind: str = "application/json"
) -> bytes:
    """Send a request to a container; return its answer, or raise for any but 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=300)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        content = answer.read()
    if answer.status != http.client.OK:
        raise RuntimeError(f"{method} {path} was answered with {answer.status}: {content!r}")
    return content


@contextlib.contextmanager
def embedded_container(log: Path) -> Iterator[Container]:
    """Run the embedded server until the block ends."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mmekit_local.server",
        "--port",
        str(port),
        "--exit-with-stdin",
    ]
    with log.open("ab") as output:
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                ask(port, "GET", "/ping")
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield server.pid, port
    finally:
        server.terminate()
        server.wait()


def measure(
    container: Callable[[], AbstractContextManager[Container]], folder: Path, body: bytes, kind: str
) -> dict[str, float]:
    """Load copies of a model; return a row of the table: milliseconds and MiB."""
    with container() as (pid, port):
        memory, seconds = [memory_of(pid)], []
        for copy in range(COPIES):
            start = time.perf_counter()
            load = json.dumps({"model_name": f"m{copy}", "url": str(folder)})
            ask(port, "POST", "/models", load)
            ask(port, "POST", f"/models/m{copy}/invoke", body, kind)
            seconds.append(time.perf_counter() - start)
            memory.append(memory_of(pid))
        start = time.perf_counter()
        for _ in range(WARM_CALLS):
            ask(port, "POST", "/models/m0/invoke", body, kind)
        warm = (time.perf_counter() - start) / WARM_CALLS
    return {
        "first load, ms": seconds[0] * 1000,
        "further load, ms": sum(seconds[1:]) / (COPIES - 1) * 1000,
        "later call, ms": warm * 1000,
        "empty, MiB": memory[0],
        "first model, MiB": memory[1] - memory[0],
        "further model, MiB": (memory[-1] - memory[1]) / (COPIES - 1),
    }


def memory_of(pid: int) -> float:
    """Return the MiB of a process and all that descend from it: their proportional set size."""
    family = psutil.Process(pid)
    taken = 0
    for process in [family, *family.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            info = process.memory_full_info()
            taken += getattr(info, "pss", info.uss)
    return taken / (1 << 20)
