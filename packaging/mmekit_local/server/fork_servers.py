"""The fork servers that a server starts for its models.

Each runs the runtime that is in the archive of the first model that wants it, and ends with this
server.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmekit_local.printed import ProcessOutput
from mmekit_runtime.slots import keys, stub
from mmekit_runtime.slots.channel import Channel

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
class ForkServerConnection:
    """A connection to a fork server.

    Attributes
    ----------
    key
        What its clients have in common.
    acknowledges
        Whether it says at once that it has heard.
    replace
        To be called, with what is wrong, when it does not: the next one gets another fork server.
    """

    connection: socket.socket
    key: str
    acknowledges: bool
    replace: Callable[[str], None]


class _KilledAtStart(SlotRefused):
    """Somebody has ended the fork server while it started: another may do better."""


def setting(file: Path, name: str) -> str | None:
    """Return the value of a constant in a Python file, None when it is not there."""
    try:
        # Not imported: this process has a runtime of that name, perhaps of another version.
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
        What a `ServerMemoryChannel` calls.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, asyncio.Task[_ForkServerProcess]] = {}
        # They take no more models, and may still serve some.
        self._retiring: dict[_ForkServerProcess, asyncio.Task[None]] = {}
        self.on_open: Callable[[], None] = lambda: None
        self.on_want: Callable[[ServerMemoryChannel, int], None] = lambda _line, _size: None

    async def connect(self, spec: WorkerSpec) -> ForkServerConnection:
        """Return a connection to the fork server for a model, started if need be.

        Raises
        ------
        SlotRefused
            It could not be started.
        """
        environment = spec.variables()
        runtime = spec.runtime / "slots"
        build = setting(runtime / "build.py", "BUILD")
        key = f"{build}\0{spec.python}\0{keys.sharing_key(environment, str(spec.folder))}"
        path = keys.socket_path(str(self._folder), key)
        # One that turns out to be dead is replaced; when its successor is, too, something is wrong.
        for _ in range(2):
            started = self._running.get(key)
            if started is None:
                launch = self._start(spec, environment, path, key)
                started = self._running[key] = asyncio.create_task(launch)
            try:
                # Other models wait for it, too: it goes on when one of them is given up.
                fork_server = await asyncio.shield(started)
            except _KilledAtStart as error:
                if self._forget(key, started):
                    _logger.warning("%s", error)
                continue
            except SlotRefused:
                self._forget(key, started)
                raise
            replace = functools.partial(self._replace, key, started, fork_server)
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # It has room for hundreds that wait; one that was stopped may have none.
            connection.setblocking(False)  # noqa: FBT003
            try:
                connection.connect(path)
            except OSError as error:
                connection.close()
                replace(f"cannot be reached: {error}")
                continue
            acknowledges = setting(runtime / "keys.py", "ACKNOWLEDGES") is not None
            return ForkServerConnection(connection, key, acknowledges, replace)
        raise SlotRefused("the fork server cannot be reached")

    async def _start(
        self, spec: WorkerSpec, environment: dict[str, str], path: str, key: str
    ) -> _ForkServerProcess:
        started = await _ForkServerProcess.launch(spec, environment, path, key)
        started.channel = ServerMemoryChannel(path, key, self.on_open, self.on_want)
        return started

    def channels(self) -> list[ServerMemoryChannel]:
        """Return the connections to those that listen when memory is spoken of."""
        channels = [one.channel for one in self._all() if one.channel is not None]
        return [channel for channel in channels if channel.is_open]

    def _all(self) -> list[_ForkServerProcess]:
        done = (task for task in self._running.values() if task.done() and not task.exception())
        return [*(task.result() for task in done), *self._retiring]

    def _forget(self, key: str, started: asyncio.Task[_ForkServerProcess]) -> bool:
        if self._running.get(key) is not started:
            return False
        del self._running[key]
        return True

    def _replace(
        self,
        key: str,
        started: asyncio.Task[_ForkServerProcess],
        fork_server: _ForkServerProcess,
        why: str,
    ) -> None:
        """Let go of a fork server; of several that find it so, the first does."""
        if self._forget(key, started):
            _logger.warning("fork server %d %s; another one is started", fork_server.pid, why)
            self._retire(fork_server)

    def _retire(self, fork_server: _ForkServerProcess) -> None:
        """Wait until one that takes no more models has ended, and let go of it."""

        async def wait() -> None:
            await fork_server.ended()
            del self._retiring[fork_server]
            await fork_server.close()

        self._retiring[fork_server] = asyncio.create_task(wait())

    def pids(self, besides: Collection[int] = ()) -> list[int]:
        """Return the ids of the fork servers and of their template processes."""
        pids = [one.pid for one in self._all()]
        # The list grows meanwhile: their children are looked at as well.
        for pid in pids:
            # Model processes have no such below them, and may be a thousand.
            pids += [child for child in _children(pid) if child not in besides]
        return pids

    async def close(self) -> None:
        """End them all; models and template processes end with them."""
        tasks, self._running = list(self._running.values()), {}
        former, self._retiring = self._retiring, {}
        for task in former.values():
            task.cancel()
        found = (*former, *await asyncio.gather(*tasks, return_exceptions=True))
        running = [one for one in found if isinstance(one, _ForkServerProcess)]
        await asyncio.gather(*(one.close() for one in running))


class ServerMemoryChannel:
    """The server's end; slots' MemoryChannel has the other.

    Parameters
    ----------
    path, key
        Where the fork server listens, and what its clients have in common.
    on_open
        Called when the fork server has answered. One of an earlier runtime never does.
    on_want
        Called with the bytes that models lack which wait for memory there.
    """

    def __init__(
        self,
        path: str,
        key: str,
        on_open: Callable[[], None],
        on_want: Callable[[ServerMemoryChannel, int], None],
    ) -> None:
        self.is_open = False
        self._on_open = on_open
        self._on_want = on_want
        self._numbers = itertools.count()
        self._parking: dict[int, asyncio.Future[bool]] = {}
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channel = Channel(connection)
        connection.setblocking(False)  # noqa: FBT003
        try:
            connection.connect(path)
            self._channel.send({"ask": "memory", "key": key})
        except OSError as error:
            _logger.warning("a fork server cannot be told what memory is left: %s", error)
            connection.close()
            return
        asyncio.get_running_loop().add_reader(connection.fileno(), self._read_messages)

    def report(self, limit: int, left: int, at: float, sharers: int) -> None:
        """Say what is left of the limit, as measured from `at` on, and how many hear it."""
        self._send({"limit": limit, "left": left, "at": at, "sharers": sharers})

    async def park(self, wanted: int, seconds: float) -> bool:
        """Have idle models park that take so many bytes; returns whether others may later."""
        number = next(self._numbers)
        made = self._parking[number] = asyncio.get_running_loop().create_future()
        self._send({"wanted": wanted, "number": number})
        try:
            return await asyncio.wait_for(made, seconds)
        except asyncio.TimeoutError:
            return True
        finally:
            del self._parking[number]

    def close(self) -> None:
        """End it; whoever waits is told that nobody parks."""
        self.is_open = False
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
        for made in self._parking.values():
            if not made.done():
                made.set_result(False)

    def _send(self, message: dict[str, Any]) -> None:
        if not self.is_open:
            self.close()
            return
        try:
            # What a stuck fork server has not read would only be out of date.
            if not self._channel.flush() and self._channel.pending:
                return
            self._channel.send(message)
        except OSError:
            self.close()

    def _read_messages(self) -> None:
        messages = self._channel.receive_all()
        if messages is None:
            self.close()
            return
        for message, _ in messages:
            if "memory" in message:
                self.is_open = True
                self._on_open()
            elif "wants" in message:
                self._on_want(self, message["wants"])
            elif (made := self._parking.get(message.get("made", -1))) and not made.done():
                made.set_result(bool(message["more"]))


class _ForkServerProcess:
    """One fork server process."""

    def __init__(
        self, process: asyncio.subprocess.Process, owner: int, output: ProcessOutput
    ) -> None:
        self._process = process
        self._owner = owner
        self._output = output
        self.channel: ServerMemoryChannel | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def launch(
        cls, spec: WorkerSpec, environment: dict[str, str], path: str, key: str
    ) -> _ForkServerProcess:
        try:
            # The fork server reads the one until it ends, as it does with this process however that
            # ends; into the other it writes a byte when it listens.
            owner_reader, owner_writer = os.pipe()
            ready_reader, ready_writer = os.pipe()
        except OSError as error:
            raise SlotRefused(f"the fork server could not be started: {error}") from error
        output = ProcessOutput("fork server", spec.log_lines_per_s)
        printing = -1
        variables = stub.fork_server_environment(environment, str(spec.folder))
        # The key has zero bytes in it, which no variable can hold.
        variables["MMEKIT_SLOTS_KEY"] = key.encode("utf-8", "surrogateescape").hex()
        try:
            printing = await output.open(logging.INFO)
            process = await asyncio.create_subprocess_exec(
                spec.python,
                *("-m", "mmekit_runtime.slots.forkserver"),
                *(path, str(ready_writer), "--owner", str(owner_reader)),
                # With -m, Python looks for modules in the working folder first: this is nobody's.
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
        if self.channel is not None:
            self.channel.close()
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
        # psutil would look at every process of the machine.
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
