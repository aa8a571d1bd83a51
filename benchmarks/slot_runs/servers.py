"""The servers under test, each started for one run and ended after it; what they take."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import psutil

from mmekit.errors import MmekitError, ServerError
from mmekit_local.ports import free_port
from mmekit_local.server.djl import DjlServing, require_djl
from mmekit_local.server.memory import process_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    _Around = Callable[[], AbstractContextManager[None]]

ServerKind = Literal["embedded", "djl"]
TITLES: dict[ServerKind, str] = {"embedded": "embedded server", "djl": "DJL Serving"}

# What the image of DJL Serving gives its JVM, and docs/worker-slots.md recommends besides.
_JAVA_OPTIONS = ("-Xmx1g", "-Djava.util.concurrent.ForkJoinPool.common.parallelism=16")
_FORK_SERVER = "mmekit_runtime.slots.forkserver"
_START_S = 60.0
_STOP_S = 30.0
_POLL_S = 0.02
_TIMEOUT_S = 120.0
_TAIL = 3000
_OK = 200
# Of the shell that started this; the servers must decide for themselves.
_DROPPED = (
    "MMEKIT_WORKER_SLOTS",
    "MMEKIT_SLOTS_DIR",
    "MMEKIT_SLOTS_IDLE_S",
    "MMEKIT_SLOTS_RESERVE_MB",
    "MMEKIT_SLOTS_SPARES",
    "MMEKIT_PARK_AFTER_S",
)


class ServerFailure(Exception):  # noqa: N818  it is the server's
    """A server did not start, or refused what it should not; the text says what it said."""


_FAILURES = (ServerFailure, MmekitError, OSError, RuntimeError, subprocess.TimeoutExpired)


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes
    ----------
    folder
        Its own; fork servers name a path inside it on their command line.
    """

    kind: ServerKind
    port: int
    pid: int
    folder: Path

    @property
    def log(self) -> Path:
        """What it has printed."""
        return self.folder / "log"

    def url(self, model: str) -> str:
        """Return where a model is invoked."""
        return f"http://127.0.0.1:{self.port}/models/{model}/invoke"

    def load(self, model: str, folder: Path) -> float:
        """Load a model; return the milliseconds until the server said that it is ready."""
        body = json.dumps({"model_name": model, "url": folder.as_uri()}).encode()
        began = time.perf_counter()
        self._ask("POST", "/models", body)
        return (time.perf_counter() - began) * 1000

    def unload(self, model: str) -> None:
        """Unload a model."""
        self._ask("DELETE", f"/models/{model}")

    def invoke(self, model: str, body: bytes, content_type: str) -> bytes:
        """Return a model's answer."""
        return self._ask("POST", f"/models/{model}/invoke", body, content_type)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection, for requests one after the other."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT_S)

    def _ask(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/json"
    ) -> bytes:
        with contextlib.closing(self.connect()) as connection:
            return ask(connection, method, path, body, content_type)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes = b"",
    content_type: str = "application/json",
) -> bytes:
    """Return the body of an answer; ServerFailure when its status is not 200."""
    connection.request(method, path, body, {"Content-Type": content_type})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != _OK:
        text = content.decode(errors="replace")
        raise ServerFailure(f"{method} {path}: {answer.status} {text}")
    return content


def why_not(kind: ServerKind) -> str | None:
    """Say why a server cannot be started here; None when it can."""
    if kind == "djl":
        try:
            require_djl()
        except ServerError as error:
            return error.what
    return None


@contextlib.contextmanager
def running(
    kind: ServerKind,
    environment: Mapping[str, str] | None = None,
    around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Iterator[Server]:
    """Run a server on a free port of loopback until the block ends; nothing of it is left then.

    Parameters
    ----------
    environment
        Further variables of it.
    around
        Makes what is entered while its process is started.
    """
    # A short name, as a socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="mme-serve-") as name:
        folder = Path(name)
        log = folder / "log"
        relatives: list[psutil.Process] = []
        try:
            with (
                log.open("wb") as stream,
                _STARTED[kind](folder, stream, environment or {}, around) as server,
            ):
                try:
                    yield server
                finally:
                    relatives = family(server)
        except _FAILURES as failure:
            raise ServerFailure(f"{failure}\n{_tail(log)}") from failure
        finally:
            _end([*relatives, *_fork_servers(folder)])


def family(server: Server) -> list[psutil.Process]:
    """Return the processes of a server: itself, its workers, fork servers and what they forked."""
    found: dict[int, psutil.Process] = {}
    for root in [*_processes(server.pid), *_fork_servers(server.folder)]:
        with contextlib.suppress(psutil.Error):
            for process in [root, *root.children(recursive=True)]:
                found[process.pid] = process
    return list(found.values())


def _processes(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def _fork_servers(folder: Path) -> list[psutil.Process]:
    # Those that stubs start are children of nobody.
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            here = any(argument.startswith(f"{folder}/") for argument in command)
            if here and _FORK_SERVER in command:
                found.append(process)
    return found


@contextlib.contextmanager
def _embedded(
    folder: Path, log: IO[bytes], further: Mapping[str, str], around: _Around
) -> Iterator[Server]:
    port = free_port("127.0.0.1")
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    with around():
        process = subprocess.Popen(
            [sys.executable, "-m", "mmekit_local.server", "--port", str(port)],
            env={**kept, **_both(folder), **further},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with process:
        server = Server("embedded", port, process.pid, folder)
        try:
            _wait_until_ready(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            if process.poll() is None:
                process.kill()


@contextlib.contextmanager
def _djl(
    folder: Path, log: IO[bytes], further: Mapping[str, str], around: _Around
) -> Iterator[Server]:
    slots = folder / "slots"
    slots.mkdir(mode=0o700)
    (folder / "t").mkdir()
    given = {
        **_both(folder),
        "MMEKIT_SLOTS_DIR": str(slots),
        "JAVA_OPTS": " ".join([*_JAVA_OPTIONS, f"-Djava.io.tmpdir={folder / 't'}"]),
        **further,
    }
    port = free_port("127.0.0.1")
    serving = DjlServing(folder, port, environment=given)
    with _without((*_DROPPED, "PYTHONPATH")), around():
        serving.start(log)
    try:
        serving.wait_until_healthy()
        assert serving.pid is not None  # noqa: S101  it has been started
        yield Server("djl", port, serving.pid, folder)
    finally:
        serving.stop()


_STARTED = {"embedded": _embedded, "djl": _djl}


def _both(folder: Path) -> dict[str, str]:
    # bin/serving sets the first; both servers are to have it. The second is where the embedded
    # server makes its folder for sockets, by which its fork servers are known.
    return {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while not _answers(server):
        if process.poll() is not None:
            raise ServerFailure(f"{TITLES[server.kind]} ended with code {process.returncode}")
        if time.monotonic() > deadline:
            raise ServerFailure(f"{TITLES[server.kind]} did not start")
        time.sleep(_POLL_S)


def _answers(server: Server) -> bool:
    with contextlib.closing(server.connect()) as connection:
        try:
            ask(connection, "GET", "/ping")
        except (OSError, http.client.HTTPException, ServerFailure):
            return False
    return True


def _end(relatives: Iterable[psutil.Process]) -> None:
    """See to what a server has left behind."""
    left = [one for one in set(relatives) if one.is_running()]
    for one in left:
        # is_running and kill compare the start time: never another process of the same number.
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=_STOP_S)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-_TAIL:]


@dataclass(frozen=True)
class Footprint:
    """Bytes of some processes together.

    Attributes
    ----------
    private
        What they share with no other.
    proportional
        With their shares of what they share (PSS).
    """

    processes: int
    private: int
    proportional: int


def footprint(pids: Iterable[int]) -> Footprint:
    """Measure processes."""
    found = [process_memory(pid) for pid in pids]
    return Footprint(
        len(found),
        sum(one.private_bytes for one in found),
        sum(one.proportional_bytes for one in found),
    )


def of_models(server: Server, folders: Sequence[Path]) -> list[Footprint]:
    """Measure the processes that belong to each model: those that work in its folder.

    That is a worker of the plain engine, a model process, and the stubs before it.
    """
    by_folder: dict[str, list[int]] = defaultdict(list)
    for process in family(server):
        with contextlib.suppress(OSError):
            by_folder[os.readlink(f"/proc/{process.pid}/cwd")].append(process.pid)  # noqa: PTH115
    return [footprint(by_folder[str(folder)]) for folder in folders]


def of_server(server: Server) -> Footprint:
    """Measure all processes of a server."""
    return footprint(process.pid for process in family(server))


def available() -> int:
    """Return the machine's MemAvailable in bytes."""
    return int(psutil.virtual_memory().available)
