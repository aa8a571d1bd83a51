"""Worker slots without stubs: the server asks fork servers of its own.

The model processes are those that stubs get (docs/worker-slots.md); here the server makes both
ends of each connection and asks for as many slots as it wants. The fork server runs the runtime
that is in the archive, and ends with this server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import sys
from typing import TYPE_CHECKING

from mmekit.server.output import Output
from mmekit.server.worker import Worker, WorkerSpec
from mmekit_runtime.slots import keys, stub
from mmekit_runtime.slots.channel import Channel
from mmekit_runtime.slots.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mmekit.server.link import WorkerFailure

_logger = logging.getLogger("mmekit.server")

_START_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 10.0
_ATTEMPTS = 3
_SETTING = r"^{name}\s*=\s*[\"']?(\w+)[\"']?\s*$"


class SlotRefused(Exception):  # noqa: N818
    """The model gets no slot and is to run on the plain engine; the text says why."""


def why_not(spec: WorkerSpec) -> str | None:
    """Return why a model cannot have worker slots here, None when it can."""
    runtime = spec.folder / "mmekit_runtime" / "slots"
    if not (runtime / "forkserver.py").is_file() or not (spec.folder / "sitecustomize.py").exists():
        return "the archive has no worker slots"
    if not sys.platform.startswith("linux"):
        return f"worker slots need Linux, this is {sys.platform}"
    if keys.is_off(spec.variables()):
        return f"{keys.OFF_VARIABLE} is off"
    if _setting(runtime / "keys.py", "PROTOCOL") != str(keys.PROTOCOL):
        return "the runtime in the archive speaks another protocol"
    return stub.unsupported(spec.engine_arguments("/"))


def _setting(file: Path, name: str) -> str | None:
    try:
        match = re.search(_SETTING.format(name=name), file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return match[1] if match else None


class ForkServers:
    """The fork servers of one server: one for each set of libraries and runtime.

    Parameters
    ----------
    folder
        A private folder with a short name for their sockets.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, asyncio.Task[_ForkServer]] = {}
        # They take no more models, and may still serve some.
        self._former: list[_ForkServer] = []

    async def connect(self, spec: WorkerSpec) -> tuple[socket.socket, str]:
        """Return a connection to the fork server for a model, started if need be, and its key.

        Raises
        ------
        SlotRefused
            It could not be started.
        """
        environment = spec.variables()
        build = _setting(spec.folder / "mmekit_runtime" / "slots" / "build.py", "BUILD")
        key = f"{build}\0{spec.python}\0{keys.sharing_key(environment, str(spec.folder))}"
        path = keys.socket_path(str(self._folder), key)
        for _ in range(2):
            started = self._running.get(key)
            if started is None:
                launch = _ForkServer.launch(spec, environment, path, key)
                started = self._running[key] = asyncio.create_task(launch)
            try:
                fork_server = await asyncio.shield(started)
            except SlotRefused:
                self._forget(key, started)
                raise
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(path)
            except OSError as error:
                connection.close()
                # Of several that find it so, the first forgets it and starts another.
                if self._forget(key, started):
                    _logger.warning("fork server %d cannot be reached: %s", fork_server.pid, error)
                    self._former.append(fork_server)
                continue
            return connection, key
        raise SlotRefused("the fork server cannot be reached")

    def _forget(self, key: str, started: asyncio.Task[_ForkServer]) -> bool:
        if self._running.get(key) is not started:
            return False
        del self._running[key]
        return True

    def pids(self) -> list[int]:
        """Return the process ids of the fork servers."""
        done = (task for task in self._running.values() if task.done() and not task.exception())
        return [task.result().pid for task in done]

    async def close(self) -> None:
        """End them all; models and parents end with them."""
        tasks, self._running = list(self._running.values()), {}
        former, self._former = self._former, []
        for result in (*former, *await asyncio.gather(*tasks, return_exceptions=True)):
            if isinstance(result, _ForkServer):
                await result.close()


class _ForkServer:
    """One fork server process."""

    def __init__(self, process: asyncio.subprocess.Process, owner: int, output: Output) -> None:
        self._process = process
        self._owner = owner
        self._output = output

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def launch(
        cls, spec: WorkerSpec, environment: dict[str, str], path: str, key: str
    ) -> _ForkServer:
        try:
            owner_reader, owner_writer = os.pipe()
            ready_reader, ready_writer = os.pipe()
        except OSError as error:
            raise SlotRefused(f"the fork server could not be started: {error}") from error
        variables = stub.fork_server_environment(environment, str(spec.folder))
        variables["MMEKIT_SLOTS_KEY"] = key.encode("utf-8", "surrogateescape").hex()
        try:
            process = await asyncio.create_subprocess_exec(
                spec.python,
                *("-m", "mmekit_runtime.slots.forkserver"),
                *(path, str(ready_writer), "--owner", str(owner_reader)),
                cwd="/",
                env=variables,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(owner_reader, ready_writer),
                start_new_session=True,
            )
        except OSError as error:
            os.close(owner_writer)
            os.close(ready_reader)
            raise SlotRefused(f"the fork server could not be started: {error}") from error
        finally:
            os.close(owner_reader)
            os.close(ready_writer)
        output = Output(f"fork server {process.pid}")
        assert process.stdout  # noqa: S101
        output.read(process.stdout, logging.INFO)
        started = cls(process, owner_writer, output)
        if not await _read_byte(ready_reader, _START_TIMEOUT_S):
            await started.close()
            raise SlotRefused("the fork server did not start; the log above may say why")
        return started

    async def close(self) -> None:
        os.close(self._owner)
        try:
            await asyncio.wait_for(self._process.wait(), _END_TIMEOUT_S)
        except asyncio.TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._output.close()


async def _read_byte(fd: int, timeout_s: float) -> bool:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await asyncio.wait_for(readable.wait(), timeout_s)
        return bool(os.read(fd, 1))
    except asyncio.TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
        os.close(fd)


class Streams:
    """The pipes into which a model's processes print; one pair for all its slots."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._output: Output | None = None
        self._writers: tuple[int, int] | None = None
        self._transports: list[asyncio.ReadTransport] = []

    async def writers(self) -> tuple[int, int]:
        """Return the descriptors of standard output and error; opened on first use."""
        if self._writers is None:
            out_reader, out_writer = os.pipe()
            error_reader, error_writer = os.pipe()
            self._writers = (out_writer, error_writer)
            self._output = Output(self._name)
            self._output.read(await self._stream(out_reader), logging.INFO)
            self._output.read(await self._stream(error_reader), logging.WARNING)
        return self._writers

    async def close(self) -> None:
        """Close our ends, and read what is still in the pipes."""
        writers, self._writers = self._writers, None
        for fd in writers or ():
            os.close(fd)
        if self._output:
            await self._output.close()
            self._output = None
        # uvloop leaves them open at their end.
        while self._transports:
            self._transports.pop().close()

    async def _stream(self, fd: int) -> asyncio.StreamReader:
        reader = asyncio.StreamReader()
        pipe = os.fdopen(fd, "rb", buffering=0)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        self._transports.append(transport)
        return reader


class SlotWorker(Worker):
    """A slot of a model process.

    Attributes
    ----------
    ledger
        The counters of the model process; None before it is connected.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        number: int,
        on_death: Callable[[Worker, WorkerFailure], None],
        fork_servers: ForkServers,
        streams: Streams,
    ) -> None:
        super().__init__(spec, number, on_death)
        self.ledger: Ledger | None = None
        self._fork_servers = fork_servers
        self._streams = streams
        self._lifeline: Channel | None = None
        self._pid: int | None = None
        self._replied = asyncio.Event()
        self._gone = asyncio.Event()
        self._refusal: str | None = None

    @property
    def pid(self) -> int | None:
        """The model process's id; another one after it was replaced."""
        return self._pid

    async def _connect(self) -> None:
        streams = await self._streams.writers()
        for _ in range(_ATTEMPTS):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)  # noqa: FBT003
            try:
                with theirs:
                    given = await self._ask((*streams, theirs.fileno()))
            except BaseException:
                ours.close()
                raise
            if given:
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: self._link, sock=ours)
                return
            # The fork server ended just now; the next one will have us.
            ours.close()
        raise SlotRefused("the fork server ends again and again")

    async def _ask(self, fds: tuple[int, ...]) -> bool:
        """Ask for a slot; False when the fork server ended before it answered."""
        connection, key = await self._fork_servers.connect(self.spec)
        self._lifeline = Channel(connection)
        self._replied.clear()
        self._gone.clear()
        message = {
            "ask": "slot",
            "key": key,
            "argv": self.spec.engine_arguments(f"slot {self.number}"),
            "environ": self.spec.variables(),
            "model_dir": str(self.spec.folder),
            "cwd": str(self.spec.folder),
            "pid": os.getpid(),
        }
        loop = asyncio.get_running_loop()
        loop.add_reader(connection.fileno(), self._hear)
        try:
            self._lifeline.send(message, fds)
        except OSError:
            self._let_go()
            return False
        connection.setblocking(False)  # noqa: FBT003
        # Not wait_for: before Python 3.12 it loses a cancellation that comes with the answer.
        timer = loop.call_later(_ANSWER_TIMEOUT_S, self._refuse, "the fork server does not answer")
        try:
            await self._replied.wait()
        finally:
            timer.cancel()
        if self._refusal is not None:
            raise SlotRefused(self._refusal)
        return self._pid is not None

    def _hear(self) -> None:
        assert self._lifeline is not None  # noqa: S101
        try:
            messages = self._lifeline.receive()
        except BlockingIOError:
            return
        except OSError:
            messages = None
        if messages is None:
            self._let_go()
            return
        for message, fds in messages:
            if "slot" in message:
                self._pid = message["pid"]
                self._take_ledger(fds)
            elif "plain" in message:
                self._refuse(message["plain"])
            self._replied.set()

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        self._replied.set()

    def _take_ledger(self, fds: list[int]) -> None:
        if self.ledger:
            self.ledger.close()
        self.ledger = Ledger(fds[0])
        os.close(fds[0])

    def _let_go(self) -> None:
        """Take the end of the lifeline for the end of the slot."""
        if self._lifeline:
            asyncio.get_running_loop().remove_reader(self._lifeline.fileno())
            self._lifeline.close()
            self._lifeline = None
        self._replied.set()
        self._gone.set()

    async def _end(self) -> None:
        if self._lifeline:
            with contextlib.suppress(OSError):
                self._lifeline.sock.shutdown(socket.SHUT_WR)
            # It closes its end when the memory of the last slot's process is free.
            try:
                await asyncio.wait_for(self._gone.wait(), _END_TIMEOUT_S)
            except asyncio.TimeoutError:
                _logger.warning("the fork server did not confirm the end of slot %d", self.number)
                self._let_go()
        if self.ledger:
            self.ledger.close()
            self.ledger = None
