"""A server that is not ours, run as a process that never outlives this one."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from typing import IO, TYPE_CHECKING

import psutil

from mmekit.errors import ServerError
from mmekit_local.guard import guarded, killing_descendants, when_stdin_ends

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["ExternalServer", "serve_external"]

_logger = logging.getLogger("mmekit.server")

_START_S = 120.0
# As long as SageMaker waits before it kills a container.
_STOP_S = 30.0
_KILLED_S = 5.0
_INTERVAL_S = 0.05
_OK = 200


class ExternalServer(ABC):
    """One process of a server with a folder of its own.

    Parameters
    ----------
    folder
        Where it runs and may write.
    start_seconds
        How long it may take to be healthy.

    Attributes
    ----------
    name
        What it is called in messages.
    """

    name: str

    def __init__(
        self, folder: Path, port: int, *, host: str = "127.0.0.1", start_seconds: float = _START_S
    ) -> None:
        self.folder = folder
        self.host = host
        self.port = port
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = contextlib.ExitStack()

    @property
    def pid(self) -> int | None:
        """The process id of what was started, None before the start."""
        return self._process.pid if self._process else None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return what to start; what it needs is there by then.

        Raises
        ------
        ServerError
            It cannot be had here.
        """

    @abstractmethod
    def variables(self) -> dict[str, str]:
        """Return its environment, all of it."""

    def start(self, output: IO[bytes] | None = None) -> None:
        """Start it; `wait_until_healthy` says when it can be used.

        Parameters
        ----------
        output
            A file for what it prints; None for this process's own standard output.

        Raises
        ------
        ServerError
            What it needs is not here.
        """
        command = self.command()
        with contextlib.ExitStack() as guard:
            tag = guard.enter_context(killing_descendants())
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self.variables(), **tag},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal is for this process alone, which ends the server in order.
                start_new_session=True,
            )
            guard.enter_context(guarded(self._process.pid))
            self._guard = guard.pop_all()

    def wait_until_healthy(self) -> None:
        """Return when ``/ping`` answers 200; a model that is loaded at start is ready then.

        Raises
        ------
        ServerError
            It ended, or is not healthy in time.
        """
        assert self._process  # noqa: S101
        deadline = time.monotonic() + self._start_seconds
        while not self._is_healthy():
            if self._process.poll() is not None:
                raise self.ended()
            if time.monotonic() > deadline:
                what = f"{self.name} was not healthy within {self._start_seconds:.0f} s"
                raise ServerError(what, where=f"{self.host}:{self.port}")
            time.sleep(_INTERVAL_S)

    def ended(self) -> ServerError:
        """Return the error that says that it ended by itself."""
        assert self._process  # noqa: S101
        what = f"{self.name} ended with exit code {self._process.returncode}"
        remedy = "its own output, above, says why"
        return ServerError(what, where=f"{self.host}:{self.port}", remedy=remedy)

    def wait(self) -> int:
        """Return its exit code once it has ended."""
        assert self._process  # noqa: S101
        return self._process.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process:
            self._process.terminate()

    def stop(self) -> None:
        """End it, and its workers with it."""
        if self._process is None:
            return
        workers = []
        with contextlib.suppress(psutil.Error):
            # Before its end, after which process 1 or whoever adopts orphans is their parent.
            workers = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._guard.close()
        # Workers end when their connection does; one in the middle of a request does so late.
        _, alive = psutil.wait_procs(workers, timeout=1)
        for worker in alive:
            with contextlib.suppress(psutil.Error):
                worker.kill()
        # What an ended parent has left to process 1 is still in the group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=_KILLED_S)

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=2)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == _OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def serve_external(server: ExternalServer, *, exit_with_stdin: bool) -> None:
    """Run a server until SIGTERM, SIGINT or, if asked for, the end of standard input.

    Raises
    ------
    ServerError
        What it needs is not here, or it ended by itself.
    """
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    from mmekit_local.server.run import warn_of

    warn_of(server.host)
    stop_requested = threading.Event()

    def end(*_: object) -> None:
        stop_requested.set()
        server.terminate()

    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.start()
        if exit_with_stdin:
            when_stdin_ends(end)
        try:
            server.wait_until_healthy()
            _logger.info("serving on http://%s:%d", server.host, server.port)
            server.wait()
        except ServerError:
            if not stop_requested.is_set():
                raise
            return
        if not stop_requested.is_set():
            raise server.ended()
    finally:
        server.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)
