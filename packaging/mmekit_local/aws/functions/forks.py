"""The service's side of the nursery, the program that forks the processes of functions."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Fork", "ProcessExit", "TemplateProcess"]

_MESSAGE = struct.Struct("<cQqq")  # as in nursery.py
_READY_S = 60.0
_STOP_S = 5.0
_FULL_S = 0.005  # until the nursery has read some of what waits for it


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended: its status, negative for a signal, and the most memory it had."""

    status: int
    memory_kib: int


class Fork:
    """A process of the nursery's.

    Attributes
    ----------
    process : int or None
        Its id, as soon as it is known.
    ended : asyncio.Future of Ending
    """

    def __init__(self, token: int) -> None:
        self.token = token
        self.process: int | None = None
        self.ended: asyncio.Future[ProcessExit] = asyncio.get_running_loop().create_future()


class TemplateProcess:
    """A running nursery; `start` makes one.

    Attributes
    ----------
    over : bool
        Whether it has ended, and with it all that it forked.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.over = False
        self._process = process
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._tokens = 0
        self._forks: dict[int, Fork] = {}
        self._received = b""
        self._sending = asyncio.Lock()
        control.setblocking(False)  # noqa: FBT003 - the name says it
        self._loop.add_reader(control.fileno(), self._receive)

    @classmethod
    async def start(cls, folder: Path) -> TemplateProcess:
        """Start the program in a folder, and wait until it can fork.

        Raises
        ------
        OSError
            It does not start.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.to_thread(_start_program, theirs, folder)
        template = cls(process, ours)
        try:
            await asyncio.wait_for(asyncio.shield(template._ready), _READY_S)
        except asyncio.TimeoutError as error:
            await template.close()
            raise OSError("the program that forks functions does not start") from error
        except BaseException:
            await template.close()
            raise
        return template

    async def fork(self, channel: socket.socket, output: int) -> Fork:
        """Have a process forked that has one end of a channel, and a pipe to print to.

        Raises
        ------
        OSError
            The nursery has ended.
        """
        self._tokens += 1
        fork = self._forks[self._tokens] = Fork(self._tokens)
        descriptors = array.array("i", [channel.fileno(), output]).tobytes()
        await self._send(b"F", fork, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        return fork

    async def kill(self, fork: Fork) -> None:
        """Kill a process and all that it has started, and wait until it has ended."""
        if not fork.ended.done():
            with contextlib.suppress(OSError):  # then it has ended with the nursery
                await self._send(b"K", fork, [])
        await asyncio.wait([fork.ended])

    async def close(self) -> None:
        """End the program, and it all that it forked."""
        self._on_closed()
        try:
            await asyncio.to_thread(self._process.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def _send(self, kind: bytes, fork: Fork, attached: list[tuple[int, int, bytes]]) -> None:
        message = _MESSAGE.pack(kind, fork.token, 0, 0)
        async with self._sending:
            while not self.over:
                try:
                    self._control.sendmsg([message], attached)
                except BlockingIOError:
                    await asyncio.sleep(_FULL_S)
                else:
                    return
        raise OSError("the program that forks functions has ended")

    def _receive(self) -> None:
        try:
            received = self._control.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._on_closed()
            return
        self._received += received
        while len(self._received) >= _MESSAGE.size:
            message, self._received = (
                self._received[: _MESSAGE.size],
                self._received[_MESSAGE.size :],
            )
            self._dispatch(*_MESSAGE.unpack(message))

    def _dispatch(self, kind: bytes, token: int, value: int, memory_kib: int) -> None:
        if kind == b"R" and not self._ready.done():
            self._ready.set_result(None)
        elif kind == b"P":
            self._forks[token].process = value
        elif kind == b"X":
            self._forks.pop(token).ended.set_result(ProcessExit(value, memory_kib))

    def _on_closed(self) -> None:
        if self.over:
            return
        self.over = True
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        for fork in self._forks.values():
            if fork.process is not None:  # should the nursery have been killed
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(fork.process, signal.SIGKILL)
            fork.ended.set_result(ProcessExit(-signal.SIGKILL, 0))
        self._forks.clear()
        if not self._ready.done():
            self._ready.set_exception(OSError("the program that forks functions has ended"))


def _start_program(control: socket.socket, folder: Path) -> subprocess.Popen[bytes]:
    program = Path(__file__).with_name("nursery.py")
    # boto3 is wherever this Python finds it; no site folders of its own, and none of our variables,
    # some of which are secrets.
    folders = json.dumps([path for path in sys.path if Path(path).is_dir()])
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(program), str(control.fileno()), folders],
        pass_fds=[control.fileno()],
        cwd=folder,
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "no_proxy": "*"},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
