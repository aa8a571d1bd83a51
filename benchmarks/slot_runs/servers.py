"""The servers under test, each started for one run and ended after it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

ServerKind = Literal["embedded", "djl"]
TITLES: dict[ServerKind, str] = {"embedded": "embedded server", "djl": "DJL Serving"}
HOME_VARIABLE = "MMEKIT_DJL_HOME"

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
_DROPPED = ("MMEKIT_WORKER_SLOTS", "MMEKIT_SLOTS_DIR", "MMEKIT_SLOTS_IDLE_S", "PYTHONPATH")


class ServerFailure(Exception):  # noqa: N818  it is the server's
    """A server did not start, or refused what it should not; the text says what it said."""


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


@contextlib.contextmanager
def running(kind: ServerKind) -> Iterator[Server]:
    """Run a server on a free port of loopback until the block ends; nothing of it is left then."""
    port = _free_port()
    # A short name, as a socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="mme-serve-") as name:
        folder = Path(name)
        command, environment = _COMMANDS[kind](port, folder)
        log = folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(kind, port, process.pid, folder)
        try:
            _wait_until_ready(server, process, log)
            yield server
        except (ServerFailure, OSError, RuntimeError, subprocess.TimeoutExpired) as failure:
            raise ServerFailure(f"{failure}\n{_tail(log)}") from failure
        finally:
            _end(server, process)


def family(server: Server) -> list[psutil.Process]:
    """Return the processes of a server: itself, its workers, fork servers and what they forked."""
    found: dict[int, psutil.Process] = {}
    for root in [*_processes(server.pid), *_fork_servers(server)]:
        with contextlib.suppress(psutil.Error):
            for process in [root, *root.children(recursive=True)]:
                found[process.pid] = process
    return list(found.values())


def _processes(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def _fork_servers(server: Server) -> list[psutil.Process]:
    # Those that stubs start are children of nobody.
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            here = any(argument.startswith(f"{server.folder}/") for argument in command)
            if here and _FORK_SERVER in command:
                found.append(process)
    return found


def _embedded(port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    environment = _environment(folder)
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return [sys.executable, "-m", "mmekit.server", "--port", str(port)], environment


def _djl(port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    home = Path(os.environ[HOME_VARIABLE])
    for name in ("store", "slots", "tmp"):
        (folder / name).mkdir(mode=0o700)
    address = f"http://127.0.0.1:{port}"
    config = folder / "config.properties"
    config.write_text(
        f"inference_address={address}\nmanagement_address={address}\n"
        f"model_store={folder / 'store'}\nload_models=NONE\n"
    )
    options = [*_JAVA_OPTIONS, f"-Djava.io.tmpdir={folder / 'tmp'}"]
    environment = {
        **_environment(folder),
        "DJL_OFFLINE": "true",
        "SAGEMAKER_MULTI_MODEL": "true",
        "ENGINE_CACHE_DIR": str(folder / "engine"),
        "MODEL_SERVER_HOME": str(folder),
        "MMEKIT_SLOTS_DIR": str(folder / "slots"),
        "JAVA_OPTS": " ".join(options),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    return [str(home / "bin" / "serving"), "-f", str(config)], environment


_COMMANDS = {"embedded": _embedded, "djl": _djl}


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    # bin/serving sets the first; both servers are to have it. The second is where the embedded
    # server makes its folder for sockets, by which its fork servers are known.
    return {**kept, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not _answers(server):
        if process.poll() is not None:
            raise ServerFailure(f"{TITLES[server.kind]} ended with code {process.returncode}")
        if time.monotonic() > deadline:
            raise ServerFailure(f"{TITLES[server.kind]} did not start: {log}")
        time.sleep(_POLL_S)


def _answers(server: Server) -> bool:
    with contextlib.closing(server.connect()) as connection:
        try:
            ask(connection, "GET", "/ping")
        except (OSError, http.client.HTTPException, ServerFailure):
            return False
    return True


def _end(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, and see to what it leaves behind."""
    relatives = family(server)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    if process.poll() is None:
        process.kill()
        process.wait()
    left = [one for one in {*relatives, *family(server)} if one.is_running()]
    for one in left:
        # is_running and kill compare the start time: never another process of the same number.
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=_STOP_S)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-_TAIL:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
