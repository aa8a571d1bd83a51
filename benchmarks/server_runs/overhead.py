"""What the server's front adds to an engine's own time.

One client asks an echo handler through the server, and the same handler in a process of the engine
that it has started itself, over the engine's own socket and with the same bytes. The client is the
same on both sides: a blocking socket.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slot_runs.servers import ServerFailure, running

from mmekit.engine import engine_folder
from mmekit_local.server.replies import ReplyReader
from mmekit_local.server.worker import STARTED, WorkerSpec
from mmekit_runtime.slots.keys import OFF_VARIABLE
from mmekit_runtime.wire import encode_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_BODY = b'{"instances": [[0.05]]}'
_BLOCK = 100
_WARM_UP = 500
_TIMEOUT_S = 30.0
_ECHO = """from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    return Output().add(inputs.get_as_bytes())
"""


@dataclass(frozen=True)
class Overhead:
    """Milliseconds of one request after the other, on one connection.

    Attributes
    ----------
    server_p50_ms, server_p99_ms
        Through the server.
    engine_p50_ms, engine_p99_ms
        Straight from the engine.
    requests
        Of each.
    """

    server_p50_ms: float
    server_p99_ms: float
    engine_p50_ms: float
    engine_p99_ms: float
    requests: int

    @property
    def front_p50_ms(self) -> float:
        """What the server adds at p50."""
        return self.server_p50_ms - self.engine_p50_ms


def measure_overhead(blocks: int, work: Path) -> Overhead:
    """Ask both in turn, a hundred times each.

    Parameters
    ----------
    work
        A folder for the model; it is this call's.
    """
    folder = work / "echo"
    folder.mkdir()
    (folder / "model.py").write_text(_ECHO)
    (folder / "serving.properties").write_text("engine=Python\nminWorkers=1\nmaxWorkers=1\n")
    with running("embedded") as server:
        server.load("echo", folder)
        address = ("127.0.0.1", server.port)
        with (
            _engine(folder, server.folder) as by_engine,
            contextlib.closing(socket.create_connection(address, _TIMEOUT_S)) as connection,
        ):
            by_server = _through(connection)
            for ask in (by_server, by_engine):
                _times(ask, _WARM_UP)
            both: tuple[list[float], list[float]] = ([], [])
            for _ in range(blocks):
                for ask, found in zip((by_server, by_engine), both, strict=True):
                    found.extend(_times(ask, _BLOCK))
    (server_p50, server_p99), (engine_p50, engine_p99) = map(_percentiles, both)
    return Overhead(server_p50, server_p99, engine_p50, engine_p99, blocks * _BLOCK)


def _times(ask: Callable[[], None], count: int) -> list[float]:
    found = []
    for _ in range(count):
        began = time.perf_counter()
        ask()
        found.append((time.perf_counter() - began) * 1000)
    return found


def _percentiles(times: list[float]) -> tuple[float, float]:
    hundredths = statistics.quantiles(times, n=100)
    return hundredths[49], hundredths[98]


def _through(connection: socket.socket) -> Callable[[], None]:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = "POST /models/echo/invoke HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n"
    request = head.encode() + _BODY

    def ask() -> None:
        connection.sendall(request)
        answer = connection.recv(65536)
        # An answer this small is one write.
        if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(_BODY):
            raise ServerFailure(f"the server answered {answer!r}")

    return ask


@contextlib.contextmanager
def _engine(folder: Path, sockets: Path) -> Iterator[Callable[[], None]]:
    """Start a process of the engine as the server does, and ask it."""
    spec = WorkerSpec("echo", folder, engine_folder(), sockets, {"handler": "handle"}, {})
    path = sockets / "engine.sock"
    with (
        subprocess.Popen(
            [sys.executable, *spec.engine_arguments(str(path))],
            cwd=folder,
            env={**spec.variables(), OFF_VARIABLE: "off"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
        contextlib.closing(socket.socket(socket.AF_UNIX)) as connection,
    ):
        try:
            assert process.stdout  # noqa: S101  it is a pipe
            if not any(STARTED in line for line in process.stdout):
                raise ServerFailure("the engine did not start")
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(path))
            _exchange(connection, encode_request(spec.init_properties))
            properties = {
                "Host": "127.0.0.1",
                "Content-Type": "application/json",
                "Content-Length": str(len(_BODY)),
                "requestId": "0b9a5f1e-5d0a-4b0e-9d6e-3f3c1a3c9a11",
                "handler": "handle",
            }
            request = encode_request(properties, (("data", _BODY),))
            yield lambda: _exchange(connection, request)
        finally:
            process.kill()


def _exchange(connection: socket.socket, request: bytes) -> None:
    reader = ReplyReader()
    connection.sendall(request)
    while (reply := reader.feed(connection.recv(65536))) is None:
        pass
    if reply.status >= 300:  # noqa: PLR2004
        raise ServerFailure(f"the engine answered {reply.status} {reply.message}")
