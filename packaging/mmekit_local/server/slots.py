"""Worker slots without stubs: the server asks fork servers of its own.

The model processes are those that stubs get (docs/worker-slots.md); here the server makes both
ends of each connection and asks for as many slots as it wants. The fork server runs the runtime
that is in the archive, and ends with this server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from mmekit_local.printed import ProcessOutput
from mmekit_local.server.fork_servers import SlotRefused, setting
from mmekit_local.server.worker import EngineWorker, Worker, WorkerSpec
from mmekit_local.server.worker_connection import ModelGivenUp, NoDescriptors, WorkerFailure
from mmekit_runtime.slots import descriptors, keys, stub
from mmekit_runtime.slots.channel import Channel
from mmekit_runtime.slots.scoreboard import Scoreboard

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.server.fork_servers import ForkServers

    OnExit = Callable[[Worker, WorkerFailure], None]

_logger = logging.getLogger("mmekit.server")

_numbers = itertools.count()

SPARE_DESCRIPTORS = 32
"""More than the start of a worker takes, and of a fork server before it."""

_HEARD_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 10.0
_ATTEMPTS = 3
_WAITING_S = 0.25
"""Between looks at whether it is the turn of a request that has waited for long."""
_GRACE_S = 5.0
_LEVELS = (logging.INFO, logging.WARNING)
"""Of standard output and error."""


def why_not(spec: WorkerSpec) -> str | None:
    """Return why a model cannot have worker slots here, None when it can."""
    runtime = spec.runtime / "slots"
    if not (runtime / "forkserver.py").is_file() or not (spec.folder / "sitecustomize.py").exists():
        return "the archive has no worker slots"
    if not sys.platform.startswith("linux"):
        return f"worker slots need Linux, this is {sys.platform}"
    if keys.is_off(spec.variables()):
        return f"{keys.OFF_VARIABLE} is off"
    # The archive's runtime may be older or newer than the one here.
    if setting(runtime / "keys.py", "PROTOCOL") != str(keys.PROTOCOL):
        return "the runtime in the archive speaks another protocol"
    return stub.unsupported(spec.engine_arguments("/"))


@dataclass(frozen=True)
class SlotParking:
    """Since when a model is parked, and how often that has happened.

    Attributes
    ----------
    since
        Seconds of the epoch; 0 while it is awake.
    parks, wakes, wake_s
        How often its process has ended and come back, and the seconds until it had loaded.
    """

    since: float = 0.0
    parks: int = 0
    wakes: int = 0
    wake_s: float = 0.0


class OutputPipes:
    """The pipes into which a model's processes print; one pair for all its slots."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._output = ProcessOutput(f"W-{spec.model_name}", spec.log_lines_per_s)
        self._writers: list[int] = []
        self._opening = asyncio.Lock()

    async def writers(self) -> tuple[int, ...]:
        """Return the descriptors of standard output and error; opened on first use."""
        async with self._opening:
            while len(self._writers) < len(_LEVELS):
                level = _LEVELS[len(self._writers)]
                self._writers.append(await self._output.open(level))
        return tuple(self._writers)

    async def close(self) -> None:
        """Close our ends, and read what is still in the pipes."""
        while self._writers:
            os.close(self._writers.pop())
        await self._output.close()


class SlotWorker(Worker):
    """A slot of a model process.

    Attributes
    ----------
    scoreboard
        The counters of the model process; None before it is connected, and while it is parked.
    parking
        When the model was parked and woken, as the fork server has told it last.
    """

    # Another slot costs little, and the process goes on.
    _drain_s = 1.0

    def __init__(
        self,
        spec: WorkerSpec,
        number: int,
        on_exit: Callable[[Worker, WorkerFailure], None],
        fork_servers: ForkServers,
        pipes: OutputPipes,
    ) -> None:
        super().__init__(spec, number, on_exit)
        self.scoreboard: Scoreboard | None = None
        self.parking = SlotParking()
        self._granted = False
        self._heard = False
        self._fork_servers = fork_servers
        self._pipes = pipes
        self._control: Channel | None = None
        self._pid: int | None = None
        self._place = 0
        self._process_since = 0.0
        self._replied = asyncio.Event()
        self._gone = asyncio.Event()
        self._refusal: str | None = None
        self._given_up = ""
        self._process: psutil.Process | None = None

    @property
    def pid(self) -> int | None:
        """The model process's id: another one after it was replaced, None while it is parked."""
        return self._pid

    async def _connect(self) -> None:
        pipes = await self._pipes.writers()
        for _ in range(_ATTEMPTS):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)  # noqa: FBT003
            try:
                # Closed whatever comes: while this process has that end, the connection cannot end.
                with theirs:
                    given = await self._ask((*pipes, theirs.fileno()))
            except BaseException:
                ours.close()
                raise
            if given:
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: self._connection, sock=ours)
                return
            # The fork server ended just now; the next one will have us.
            ours.close()
        raise SlotRefused("the fork server ends again and again")

    async def _ask(self, fds: tuple[int, ...]) -> bool:
        """Ask for a slot; False when the fork server ended before it answered, or never does."""
        reached = await self._fork_servers.connect(self.spec)
        fd = reached.connection.fileno()
        control = self._control = Channel(reached.connection, self._write_later)
        self._replied.clear()
        self._gone.clear()
        # One of an earlier runtime says nothing until it has the answer.
        self._heard = not reached.acknowledges
        message = {
            "ask": "slot",
            "key": reached.key,
            "argv": self.spec.engine_arguments(f"slot {self.number}"),
            "environ": self.spec.variables(),
            "model_dir": str(self.spec.folder),
            "model": self.spec.identity,
            "cwd": str(self.spec.folder),
            "pid": os.getpid(),
            "acknowledge": True,
        }
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, self._read_messages)
        try:
            control.send(message, fds)
        except OSError:
            self._disconnect()
            return False
        # Not wait_for: before Python 3.12 it loses a cancellation that comes with the answer.
        unheard = loop.call_later(_HEARD_TIMEOUT_S, self._replace_if_silent, reached.replace)
        timer = loop.call_later(_ANSWER_TIMEOUT_S, self._refuse, "the fork server does not answer")
        try:
            await self._replied.wait()
        finally:
            unheard.cancel()
            timer.cancel()
        if self._refusal is not None:
            raise SlotRefused(self._refusal)
        return self._granted

    def _replace_if_silent(self, replace: Callable[[str], None]) -> None:
        """Let go of a fork server that has not even heard: it was stopped, or is stuck."""
        if not self._heard:
            replace(f"has not answered for {_HEARD_TIMEOUT_S:g} s")
            self._disconnect()

    def _write_later(self, channel: Channel) -> None:
        asyncio.get_running_loop().add_writer(channel.fileno(), self._flush, channel)

    def _flush(self, channel: Channel) -> None:
        with contextlib.suppress(OSError):  # its end shows when it is read
            channel.flush()
            if channel.pending:
                return
        asyncio.get_running_loop().remove_writer(channel.fileno())

    def _read_messages(self) -> None:
        assert self._control is not None  # noqa: S101
        messages = self._control.receive_all()
        if messages is None:
            # Its end, or garbage: the model process has a duplicate of the other end.
            self._disconnect()
            return
        for message, fds in messages:
            if "heard" in message:
                self._heard = True
                continue
            if "slot" in message:
                self._granted = True
                self.parking = SlotParking(**message["parking"])
                self._place = message["slot"]
                self._take_process(message["pid"], fds)
            elif message.get("given_up"):
                self._given_up = str(message["given_up"])
            elif "plain" in message:
                self._refuse(message["plain"])
            self._replied.set()

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        self._replied.set()

    def _take_process(self, pid: int, fds: list[int]) -> None:
        """Note which process answers; none does while the model is parked."""
        self._pid, self._process = pid or None, None
        self._process_since = time.monotonic()
        if self.scoreboard:
            self.scoreboard.close()
            self.scoreboard = None
        if not pid:
            return
        with contextlib.suppress(psutil.Error, OSError):
            self._process = psutil.Process(pid)
        if fds:
            try:
                self.scoreboard = Scoreboard(fds[0])
            except (OSError, ValueError) as error:
                self._refuse(f"its scoreboard cannot be read: {error}")
            finally:
                os.close(fds[0])
        else:
            # The kernel drops what it has no room for.
            self._refuse("no descriptors are left")

    def _time_left(self, timeout_s: float, since: float) -> float:
        """Count the time from when the model has begun with the request: others may be first.

        A process in which nothing happens at all for that long is stuck, and ended: the fork
        server has another one, which finds the request in the connection.
        """
        now = time.monotonic()
        began = max(since, self._process_since)
        # A request to a parked model waits for its load.
        loading_s = max(timeout_s, self.spec.load_timeout_s)
        if self.scoreboard is None:
            if (left := began + loading_s - now) <= 0:
                raise WorkerFailure("the model has not been woken in time")
            return left
        worked_s = self.scoreboard.worked_s(self._place)
        if worked_s is not None:
            return timeout_s - worked_s
        counters = self.scoreboard.counters()
        # It is 0 until the process has loaded its model.
        limit_s = timeout_s if counters["load_ns"] else loading_s
        longest_s = self.scoreboard.longest_s()
        if longest_s is None:
            left = max(began, counters["answered_ns"] / 1e9) + limit_s - now
        else:
            # With another request, whose own time is counted as well, but while nobody reads it.
            left = _WAITING_S if longest_s < limit_s + _GRACE_S else 0.0
        if left > 0 or not (self._live or counters["load_ns"]):
            return left
        process, self._process = self._process, None
        if process is None:
            raise WorkerFailure("the model's process is stuck, or gone and not replaced")
        _logger.warning("model process %s is stuck, while requests wait: ended", self._pid)
        with contextlib.suppress(psutil.Error):
            process.kill()
        self._process_since = now
        return timeout_s

    def _disconnect(self) -> None:
        """Take the end of the control channel for the end of the slot."""
        if self._control:
            loop, fd = asyncio.get_running_loop(), self._control.fileno()
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            self._control.close()
            self._control = None
        self._replied.set()
        self._gone.set()

    def _failed(self, failure: WorkerFailure) -> WorkerFailure:
        if self._control:
            # Why is said there, before the connection ends.
            self._read_messages()
        return super()._failed(ModelGivenUp(self._given_up) if self._given_up else failure)

    async def _end(self) -> None:
        if self._control:
            with contextlib.suppress(OSError):
                self._control.sock.shutdown(socket.SHUT_WR)
            # It closes its end when the memory of the last slot's process is free.
            try:
                await asyncio.wait_for(self._gone.wait(), _END_TIMEOUT_S)
            except asyncio.TimeoutError:
                _logger.warning("the fork server did not confirm the end of slot %d", self.number)
                # It has died, or is stuck itself: the process may be in the middle of a request
                # for ever. psutil compares start times: never another process of the same number.
                if self._process:
                    with contextlib.suppress(psutil.Error):
                        self._process.kill()
                self._disconnect()
        if self.scoreboard:
            self.scoreboard.close()
            self.scoreboard = None


class WorkerLauncher:
    """Starts the workers of one model.

    A model never fails to load because it gets no worker slots: it runs on the plain engine then,
    and one line in the log says why.
    """

    def __init__(self, spec: WorkerSpec, fork_servers: ForkServers) -> None:
        self.spec = spec
        self._fork_servers = fork_servers
        self._pipes = OutputPipes(spec)
        self._why_not = why_not(spec)
        if self._why_not:
            self._log_why_not()

    @property
    def gives_slots(self) -> bool:
        """Whether a further worker is a slot, and so costs milliseconds."""
        return self._why_not is None

    async def launch(self, on_exit: OnExit) -> Worker:
        """Return a started worker; `Worker.start` says what may be raised."""
        # First, as a start that fails half-way, for want of them, leaves some of them open.
        _require_descriptors()
        if self.gives_slots:
            slot = SlotWorker(self.spec, next(_numbers), on_exit, self._fork_servers, self._pipes)
            try:
                await slot.start()
            except (OSError, SlotRefused, WorkerFailure) as error:
                # They may have run out meanwhile, which says nothing about this model.
                _require_descriptors()
                if not isinstance(error, SlotRefused):
                    raise
                self._why_not = str(error)
                self._log_why_not()
            else:
                return slot
        worker = EngineWorker(self.spec, next(_numbers), on_exit)
        try:
            await worker.start()
        except WorkerFailure:
            _require_descriptors()
            raise
        return worker

    async def close(self) -> None:
        """Let go of what the model's workers shared."""
        await self._pipes.close()
        if self.spec.layers is not None:
            self.spec.layers.close()

    def _log_why_not(self) -> None:
        _logger.info(
            "model %s: plain engine, no worker slots: %s", self.spec.model_name, self._why_not
        )


def _require_descriptors() -> None:
    if not descriptors.are_left(SPARE_DESCRIPTORS):
        raise NoDescriptors
