"""One worker: a process of DJL's Python engine and the connection to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.engine import ENGINE_SCRIPT
from mmekit_runtime.wire import Answer, AnswerReader, WireError, encode_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_logger = logging.getLogger("mmekit.server")

STARTED = b"Python engine started."
START_TIMEOUT_S = 120.0
"""How long DJL Serving waits for the engine's line (PyProcess.startPythonProcess)."""

_KILL_GRACE_S = 5.0
_LONGEST_LINE = 1 << 16


class WorkerFailure(Exception):  # noqa: N818
    """A worker died, ran out of time or broke the protocol; the text says which."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a model's workers have in common.

    Attributes
    ----------
    init_properties
        What the empty initialisation request carries: serving.properties, as DJL Serving does.
    environment
        Variables that the package adds (``option.env``).
    load_timeout_s, predict_timeout_s
        Seconds until a load or a request is given up and its process killed.
    """

    model_name: str
    folder: Path
    engine: Path
    sockets: Path
    init_properties: Mapping[str, str]
    environment: Mapping[str, str]
    python: str = sys.executable
    entry_point: str = "model.py"
    load_timeout_s: float = 240.0
    predict_timeout_s: float = 120.0


class Worker(asyncio.Protocol):
    """A worker that answers one request at a time.

    Parameters
    ----------
    number
        Distinguishes the workers of a server; part of the socket's name.
    on_death
        Called once, with this worker and the reason, when a started worker ends unasked.
    """

    def __init__(
        self, spec: WorkerSpec, number: int, on_death: Callable[[Worker, WorkerFailure], None]
    ) -> None:
        self.spec = spec
        self.number = number
        self.started_at = time.time()
        self.answered = 0
        self._on_death = on_death
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._output: list[asyncio.Task[None]] = []
        self._announced = asyncio.Event()
        self._waiter: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._live = False

    @property
    def pid(self) -> int | None:
        """The engine's process id, None before it is started."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the engine, connect, and have it load the model.

        Raises
        ------
        WorkerFailure
            The process ended or was silent for too long.
        InitialisationError
            The handler answered the initialisation request with an error.
        """
        try:
            await self._launch()
            answer = await self._ask(
                encode_request(self.spec.init_properties), self.spec.load_timeout_s
            )
        except BaseException:
            await self.stop(kill=True)
            raise
        if answer.status >= 300:  # noqa: PLR2004
            await self.stop(kill=True)
            raise InitialisationError(answer)
        self._live = True

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future fails with `WorkerFailure`, the worker being dead then."""
        return self._ask(request, self.spec.predict_timeout_s)

    async def stop(self, *, kill: bool = False) -> None:
        """End the process and wait until it is gone, its memory with it."""
        self._stopping = True
        self._live = False
        if self._transport:
            # The engine ends by itself when its connection does.
            self._transport.close()
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            # DJL Serving destroys its workers forcibly too; a stopped worker has nothing to save.
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), _KILL_GRACE_S)
            except asyncio.TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        await self._close_output()
        for path in (self._socket, self._socket.with_name(self._socket.name + ".pid")):
            path.unlink(missing_ok=True)

    # asyncio.Protocol: the connection to the engine.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Gather an answer and hand it to whoever waits."""
        try:
            answer = self._reader.feed(data)
        except WireError as error:
            self._fail(WorkerFailure(f"the worker answered garbage: {error}"))
            return
        if answer is None:
            return
        waiter = self._take_waiter()
        if waiter is None:
            self._fail(WorkerFailure("the worker answered without having been asked"))
            return
        self.answered += 1
        if not waiter.done():
            waiter.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Treat the end of the connection as the end of the worker."""
        self._fail(WorkerFailure("java.io.IOException: Python worker disconnected."))

    # The rest is private.

    @property
    def _socket(self) -> Path:
        # The name that DJL Serving gives it, Connection.getSocketPath.
        return self.spec.sockets / f"djl_sock.{19000 + self.number}"

    async def _launch(self) -> None:
        spec = self.spec
        self._process = await asyncio.create_subprocess_exec(
            *self._command(),
            cwd=spec.folder,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C in a terminal is for the server alone: it ends its workers in order.
            start_new_session=True,
        )
        assert self._process.stdout  # noqa: S101
        assert self._process.stderr  # noqa: S101
        self._output = [
            asyncio.create_task(self._read_output(self._process.stdout, logging.INFO)),
            asyncio.create_task(self._read_output(self._process.stderr, logging.WARNING)),
        ]
        announced = asyncio.create_task(self._announced.wait())
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait(
                (announced, ended), timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            announced.cancel()
            ended.cancel()
        if not self._announced.is_set():
            if self._process.returncode is None:
                raise WorkerFailure("Python process startup time out.")
            await self._close_output()
            code = self._process.returncode
            raise WorkerFailure(f"Python stream closed unexpectedly, exit code: {code}")
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: self, str(self._socket))
        except OSError as error:
            raise WorkerFailure(f"Failed connect to Python worker process: {error}") from error

    def _command(self) -> list[str]:
        # Connection.getPythonStartCmd, the case of a single process.
        spec = self.spec
        return [
            spec.python,
            str(spec.engine / ENGINE_SCRIPT),
            *("--sock-type", "unix"),
            *("--sock-name", str(self._socket)),
            *("--model-dir", str(spec.folder)),
            *("--entry-point", spec.entry_point),
            *("--device-id", "-1"),
            *("--cluster-size", "1"),
            *("--recommended-entry-point", ""),
            *("--log-level", "info"),
            "--no-async-mode",
        ]

    def _environment(self) -> dict[str, str]:
        # PyEnv.getEnvironmentVars; bin/serving sets OMP_NUM_THREADS.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        paths = [environment.get("PYTHONPATH"), str(self.spec.engine), str(self.spec.folder)]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        return {**environment, **self.spec.environment}

    async def _read_output(self, stream: asyncio.StreamReader, level: int) -> None:
        rest = b""
        while chunk := await stream.read(_LONGEST_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._show(line, level)
        if rest:
            self._show(rest, level)

    def _show(self, line: bytes, level: int) -> None:
        if STARTED in line:
            self._announced.set()
        _logger.log(
            level, "W-%s-%s: %s", self.pid, self.spec.model_name, line.decode(errors="replace")
        )

    async def _close_output(self) -> None:
        # A grandchild may hold the pipe open: what the process itself wrote is there already.
        if self._output:
            await asyncio.wait(self._output, timeout=0.5)
            for task in self._output:
                task.cancel()

    def _ask(self, request: bytes, timeout_s: float) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Answer] = loop.create_future()
        if self._transport is None or self._transport.is_closing():
            waiter.set_exception(WorkerFailure("Failed to send data to python."))
            return waiter
        self._waiter = waiter
        self._timer = loop.call_later(timeout_s, self._time_out)
        self._transport.write(request)
        return waiter

    def _time_out(self) -> None:
        self._fail(WorkerFailure("java.util.concurrent.TimeoutException"))

    def _take_waiter(self) -> asyncio.Future[Answer] | None:
        waiter, self._waiter = self._waiter, None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        return waiter

    def _fail(self, failure: WorkerFailure) -> None:
        waiter = self._take_waiter()
        if waiter and not waiter.done():
            waiter.set_exception(failure)
        if self._transport and not self._transport.is_closing():
            self._transport.abort()
        if self._live and not self._stopping:
            self._live = False
            self._on_death(self, failure)


class InitialisationError(Exception):
    """The handler refused to load the model; ``answer`` is what it said."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer
