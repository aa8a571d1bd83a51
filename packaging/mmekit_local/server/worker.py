"""A worker: what all have in common, and the one that is a process of DJL's Python engine."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mmekit.archive.package import RUNTIME_FOLDER
from mmekit.engine import ENGINE_SCRIPT
from mmekit_local.printed import ProcessOutput
from mmekit_local.redaction import visible
from mmekit_local.server.worker_connection import WorkerConnection, WorkerFailure
from mmekit_runtime.slots.keys import OFF_VARIABLE
from mmekit_runtime.wire import encode_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmekit_local.server.replies import WorkerReply
    from mmekit_runtime.layers import ProvidedLayers

STARTED = b"Python engine started."
START_TIMEOUT_S = 120.0
"""How long DJL Serving waits for the engine's line (PyProcess.startPythonProcess)."""

MAX_CRASHES = 3
WINDOW_S = 60.0
_FAILURES = 300
_PR_SET_PDEATHSIG = 1
# Loaded here: between fork and exec a new process should do as little as it can.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_server() -> None:
    """Have the kernel end this new process with the server, whatever it is busy with (prctl(2)).

    Elsewhere it ends when it next reads from its socket.
    """
    if _libc is not None:
        # To the kernel the thread that forks is the parent: the event loop's, which lasts.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class InitialisationError(Exception):
    """The handler refused to load the model; ``answer`` is what it said."""

    def __init__(self, answer: WorkerReply) -> None:
        super().__init__(answer.message)
        self.answer = answer


@dataclass(frozen=True)
class WorkerSpec:
    """What a model's workers have in common.

    Attributes
    ----------
    identity
        Tells the model from all others of the server, of that name before it or in its folder too.
    init_properties
        What the empty initialisation request carries: serving.properties, as DJL Serving does.
    environment
        Variables that the package adds (``option.env``).
    libraries
        A folder that has the runtime, for a model that brings none.
    load_timeout_s, predict_timeout_s
        Seconds until a load or a request is given up and its process killed.
    log_lines_per_s
        Of what a process prints; None takes what the environment says.
    layers
        What the model has in common with others; None where that is nothing.
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
    identity: str = ""
    libraries: Path | None = None
    log_lines_per_s: int | None = None
    layers: ProvidedLayers | None = None

    @property
    def runtime(self) -> Path:
        """Where the model's mmekit_runtime is, if it brings one."""
        layer = None if self.layers is None else self.layers.runtime
        return (self.folder if layer is None else Path(layer)) / RUNTIME_FOLDER

    def engine_arguments(self, socket_name: str) -> list[str]:
        """Return the engine's script and arguments: Connection.getPythonStartCmd, one process."""
        return [
            str(self.engine / ENGINE_SCRIPT),
            *("--sock-type", "unix"),
            *("--sock-name", socket_name),
            *("--model-dir", str(self.folder)),
            *("--entry-point", self.entry_point),
            *("--device-id", "-1"),
            *("--cluster-size", "1"),
            *("--recommended-entry-point", ""),
            *("--log-level", "info"),
            "--no-async-mode",
        ]

    def variables(self) -> dict[str, str]:
        """Return a worker's environment: PyEnv.getEnvironmentVars.

        bin/serving sets OMP_NUM_THREADS.
        """
        # What a model prints is in the log when it has printed it, and not lost when it is killed.
        environment = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **os.environ}
        paths = [environment.get("PYTHONPATH"), str(self.engine), str(self.folder)]
        if self.libraries is not None:
            paths.append(str(self.libraries))
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        environment.update(self.environment)
        if self.layers is not None:
            environment.update(self.layers.variables(environment, str(self.folder)))
        return environment


class Worker(abc.ABC):
    """Answers one request of a model at a time.

    What it goes on to send when nobody reads it any more is read to its end, as DJL Serving does,
    but for ``_drain_s`` seconds at most: a stream may have no end.

    Parameters
    ----------
    number
        Distinguishes the workers of a server.
    on_exit
        Called once, with this worker and the reason, when a started worker ends unasked.
    """

    _drain_s: ClassVar[float | None] = None

    def __init__(
        self, spec: WorkerSpec, number: int, on_exit: Callable[[Worker, WorkerFailure], None]
    ) -> None:
        self.spec = spec
        self.number = number
        self.started_at = time.time()
        self._on_exit = on_exit
        self._connection = WorkerConnection(self._failed, self._time_left, self._drain_s)
        self._live = False

    @property
    @abc.abstractmethod
    def pid(self) -> int | None:
        """The id of the process that answers, None before it is started."""

    @abc.abstractmethod
    async def _connect(self) -> None:
        """Start whatever answers, and connect the link to it."""

    @abc.abstractmethod
    async def _end(self) -> None:
        """End it, and wait until its memory is free."""

    async def start(self) -> None:
        """Start, and have the model loaded.

        Raises
        ------
        WorkerFailure
            The process ended or was silent for too long.
        InitialisationError
            The handler answered the initialisation request with an error.
        """
        try:
            await self._connect()
            request = encode_request(self.spec.init_properties)
            answer = await self._connection.ask(request, self.spec.load_timeout_s)
        except BaseException:
            await self.stop()
            raise
        if answer.status >= _FAILURES:
            await self.stop()
            raise InitialisationError(answer)
        if self._connection.has_failed:  # in the moment after its answer
            await self.stop()
            raise WorkerFailure("java.io.IOException: Python worker disconnected.")
        self._live = True

    def send(self, request: bytes) -> asyncio.Future[WorkerReply]:
        """Send a request; the future fails with `WorkerFailure`, the worker being dead then."""
        return self._connection.ask(request, self.spec.predict_timeout_s)

    async def stop(self) -> None:
        """End the worker and wait until it is gone, its memory with it."""
        self._live = False
        self._connection.close()
        await self._end()

    def _time_left(self, timeout_s: float, since: float) -> float:  # noqa: ARG002
        """Return the seconds for which an answer that is overdue may be waited for all the same.

        Parameters
        ----------
        timeout_s
            That it may take.
        since
            When it was asked for, by the monotonic clock.
        """
        return 0.0

    def _failed(self, failure: WorkerFailure) -> WorkerFailure:
        """Note the end of the connection; returns the reason, when more is known of it."""
        if self._live:
            self._live = False
            self._on_exit(self, failure)
        return failure


class EngineWorker(Worker):
    """A process of DJL's Python engine, as DJL Serving starts one for each worker."""

    def __init__(
        self, spec: WorkerSpec, number: int, on_exit: Callable[[Worker, WorkerFailure], None]
    ) -> None:
        super().__init__(spec, number, on_exit)
        self._process: asyncio.subprocess.Process | None = None
        self._output: ProcessOutput | None = None
        self._announced = asyncio.Event()
        self._last_bytes = b""

    @property
    def pid(self) -> int | None:
        """The engine's process id."""
        return self._process.pid if self._process else None

    @property
    def _socket(self) -> Path:
        # The name that DJL Serving gives it, Connection.getSocketPath.
        return self.spec.sockets / f"djl_sock.{19000 + self.number}"

    async def _connect(self) -> None:
        spec = self.spec
        # One for both: DJL Serving, too, looks for the engine's line in either output.
        output = self._output = ProcessOutput(
            f"W-{spec.model_name}", spec.log_lines_per_s, self._see
        )
        printing: list[int] = []
        try:
            printing.append(await output.open(logging.INFO))
            printing.append(await output.open(logging.WARNING))
            process = await asyncio.create_subprocess_exec(
                spec.python,
                *spec.engine_arguments(str(self._socket)),
                cwd=spec.folder,
                # The server has its own way to worker slots; this is the plain engine.
                env={**spec.variables(), OFF_VARIABLE: "off"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printing[0],
                stderr=printing[1],
                # Ctrl-C in a terminal is for the server alone: it ends its workers in order.
                start_new_session=True,
                preexec_fn=end_with_server,
            )
        except OSError as error:
            # As java.lang.ProcessBuilder words it.
            raise WorkerFailure(f"error={error.errno}, {error.strerror}") from error
        finally:
            for fd in printing:
                os.close(fd)
        self._process = process
        output.name = visible(f"W-{process.pid}-{spec.model_name}")
        await self._wait_for_announcement(process)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: self._connection, str(self._socket))
        except OSError as error:
            raise WorkerFailure(f"Failed connect to Python worker process: {error}") from error

    async def _wait_for_announcement(self, process: asyncio.subprocess.Process) -> None:
        announced = asyncio.create_task(self._announced.wait())
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait(
                (announced, ended), timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            announced.cancel()
            ended.cancel()
        if self._announced.is_set():
            return
        if process.returncode is None:
            raise WorkerFailure("Python process startup time out.")
        if self._output:
            await self._output.close()
        code = process.returncode
        raise WorkerFailure(f"Python stream closed unexpectedly, exit code: {code}")

    def _see(self, data: bytes) -> None:
        if self._announced.is_set():
            return
        # The line may come in two pieces.
        printed = self._last_bytes + data
        self._last_bytes = printed[-len(STARTED) :]
        if STARTED in printed:
            self._announced.set()

    async def _end(self) -> None:
        process = self._process
        if process is None:
            if self._output:
                await self._output.close()
            return
        # DJL Serving destroys its workers forcibly too; a worker has nothing to save. What the
        # model started goes with it, as everything in a container does: it leads a group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if self._output:
            await self._output.close()
        # DJL Serving kills whatever has the number that it finds in such a .pid.
        for path in (self._socket, self._socket.with_name(self._socket.name + ".pid")):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Crash:
    pid: int | None
    at: float
    why: str


class CrashCounter:
    """The last deaths of a model's workers; those that do not come to life count too.

    A model whose workers die more than `MAX_CRASHES` times within `WINDOW_S` is to be given up.
    """

    def __init__(self) -> None:
        self._last: deque[_Crash] = deque(maxlen=MAX_CRASHES + 1)

    def too_often(self, pid: int | None, why: str) -> bool:
        """Count a death, and say whether it is one too many.

        Parameters
        ----------
        pid
            The process, which is counted once for all slots of it; None when it never was ready.
        why
            Goes on after the process's id: "died: it was killed".
        """
        if pid is not None and any(one.pid == pid for one in self._last):
            return False
        now = time.monotonic()
        self._last.append(_Crash(pid, now, why))
        return len(self._last) > MAX_CRASHES and now - self._last[0].at < WINDOW_S

    def __str__(self) -> str:
        """Return what was counted, for a line of the log."""
        now = time.monotonic()
        return "; ".join(
            f"{now - one.at:.1f} s ago {one.pid or 'one'} {one.why}" for one in self._last
        )
