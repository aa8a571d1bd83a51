"""The fork servers that a server starts for its models.

Each runs the runtime that is in the archive of the first model that wants it, and ends with this
server.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit_local.server.memory_line import MemoryLine
from mmekit_local.server.output import Output
from mmekit_runtime.slots import keys, stub

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mmekit_local.server.worker import WorkerSpec

_logger = logging.getLogger("mmekit.server")

_START_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 10.0
_SETTING = r"^{name}\s*=\s*[\"']?(\w+)[\"']?\s*$"


class SlotRefused(Exception):  # noqa: N818
    """The model gets no slot and is to run on the plain engine; the text says why."""


@dataclass(frozen=True)
class Reached:
    """A connection to a fork server.

    Attributes
    ----------
    key
        What its clients have in common.
    acknowledges
        Whether it says at once that it has heard.
    lose
        To be called, with what is wrong, when it does not: the next one gets another fork server.
    """

    connection: socket.socket
    key: str
    acknowledges: bool
    lose: Callable[[str], None]


class _KilledAtStart(SlotRefused):
    """Somebody has ended the fork server while it started: another may do better."""


def setting(file: Path, name: str) -> str | None:
    """Return the value of a constant in a Python file, None when it is not there."""
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

    Attributes
    ----------
    on_open, on_want
        What a `MemoryLine` calls.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, asyncio.Task[_ForkServer]] = {}
        # They take no more models, and may still serve some.
        self._former: dict[_ForkServer, asyncio.Task[None]] = {}
        self.on_open: Callable[[], None] = lambda: None
        self.on_want: Callable[[MemoryLine, int], None] = lambda _line, _size: None

    async def connect(self, spec: WorkerSpec) -> Reached:
        """Return a connection to the fork server for a model, started if need be.

        Raises
        ------
        SlotRefused
            It could not be started.
        """
        environment = spec.variables()
        runtime = spec.folder / "mmekit_runtime" / "slots"
        build = setting(runtime / "build.py", "BUILD")
        key = f"{build}\0{spec.python}\0{keys.sharing_key(environment, str(spec.folder))}"
        path = keys.socket_path(str(self._folder), key)
        for _ in range(2):
            started = self._running.get(key)
            if started is None:
                launch = self._launch(spec, environment, path, key)
                started = self._running[key] = asyncio.create_task(launch)
            try:
                fork_server = await asyncio.shield(started)
            except _KilledAtStart as error:
                if self._forget(key, started):
                    _logger.warning("%s", error)
                continue
            except SlotRefused:
                self._forget(key, started)
                raise
            lose = functools.partial(self._lose, key, started, fork_server)
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # It has room for hundreds that wait; one that was stopped may have none.
            connection.setblocking(False)  # noqa: FBT003
            try:
                connection.connect(path)
            except OSError as error:
                connection.close()
                lose(f"cannot be reached: {error}")
                continue
            acknowledges = setting(runtime / "keys.py", "ACKNOWLEDGES") is not None
            return Reached(connection, key, acknowledges, lose)
        raise SlotRefused("the fork server cannot be reached")

    async def _launch(
        self, spec: WorkerSpec, environment: dict[str, str], path: str, key: str
    ) -> _ForkServer:
        started = await _ForkServer.launch(spec, environment, path, key)
        started.line = MemoryLine(path, key, self.on_open, self.on_want)
        return started

    def lines(self) -> list[MemoryLine]:
        """Return the connections to those that listen when memory is spoken of."""
        lines = [one.line for one in self._all() if one.line is not None]
        return [line for line in lines if line.is_open]

    def _all(self) -> list[_ForkServer]:
        done = (task for task in self._running.values() if task.done() and not task.exception())
        return [*(task.result() for task in done), *self._former]

    def _forget(self, key: str, started: asyncio.Task[_ForkServer]) -> bool:
        if self._running.get(key) is not started:
            return False
        del self._running[key]
        return True

    def _lose(
        self, key: str, started: asyncio.Task[_ForkServer], fork_server: _ForkServer, why: str
    ) -> None:
        """Let go of a fork server; of several that find it so, the first does."""
        if self._forget(key, started):
            _logger.warning("fork server %d %s; another one is started", fork_server.pid, why)
            self._bury(fork_server)

    def _bury(self, fork_server: _ForkServer) -> None:
        """Wait until one that takes no more models has ended, and let go of it."""

        async def wait() -> None:
            await fork_server.ended()
            del self._former[fork_server]
            await fork_server.close()

        self._former[fork_server] = asyncio.create_task(wait())

    def pids(self, besides: Collection[int] = ()) -> list[int]:
        """Return the ids of the fork servers and of their template processes."""
        pids = [one.pid for one in self._all()]
        for pid in pids:
            # Model processes have no such below them, and may be a thousand.
            pids += [child for child in _children(pid) if child not in besides]
        return pids

    async def close(self) -> None:
        """End them all; models and template processes end with them."""
        tasks, self._running = list(self._running.values()), {}
        former, self._former = self._former, {}
        for task in former.values():
            task.cancel()
        found = (*former, *await asyncio.gather(*tasks, return_exceptions=True))
        running = [one for one in found if isinstance(one, _ForkServer)]
        await asyncio.gather(*(one.close() for one in running))


class _ForkServer:
    """One fork server process."""

    def __init__(self, process: asyncio.subprocess.Process, owner: int, output: Output) -> None:
        self._process = process
        self._owner = owner
        self._output = output
        self.line: MemoryLine | None = None

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
        output = Output("fork server")
        printing = -1
        variables = stub.fork_server_environment(environment, str(spec.folder))
        variables["MMEKIT_SLOTS_KEY"] = key.encode("utf-8", "surrogateescape").hex()
        try:
            printing = await output.open(logging.INFO)
            process = await asyncio.create_subprocess_exec(
                spec.python,
                *("-m", "mmekit_runtime.slots.forkserver"),
                *(path, str(ready_writer), "--owner", str(owner_reader)),
                cwd="/",
                env=variables,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printing,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(owner_reader, ready_writer),
                start_new_session=True,
            )
        except OSError as error:
            os.close(owner_writer)
            os.close(ready_reader)
            await output.close()
            raise SlotRefused(f"the fork server could not be started: {error}") from error
        finally:
            os.close(owner_reader)
            os.close(ready_writer)
            if printing >= 0:
                os.close(printing)
        output.name = f"fork server {process.pid}"
        started = cls(process, owner_writer, output)
        said = await _read_byte(ready_reader, _START_TIMEOUT_S)
        if not said:
            await started.close()
            # One that said nothing at all was stuck, and killed just now.
            if said is not None and (code := process.returncode) is not None and code < 0:
                raise _KilledAtStart(f"fork server {process.pid} was killed by signal {-code}")
            raise SlotRefused("the fork server did not start; the log above may say why")
        return started

    async def ended(self) -> None:
        await self._process.wait()

    async def close(self) -> None:
        if self.line is not None:
            self.line.close()
        os.close(self._owner)
        # One that was stopped ends in order, too.
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
        try:
            await asyncio.wait_for(self._process.wait(), _END_TIMEOUT_S)
        except asyncio.TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._output.close()


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended, or the kernel was built without that file
        return []


async def _read_byte(fd: int, timeout_s: float) -> bytes | None:
    """Return what comes: nothing at the end of the pipe, None when nothing does in time."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await asyncio.wait_for(readable.wait(), timeout_s)
        return os.read(fd, 1)
    except asyncio.TimeoutError:
        return None
    finally:
        loop.remove_reader(fd)
        os.close(fd)
