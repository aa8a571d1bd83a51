"""One worker, as the fork server keeps it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from _socket import MSG_DONTWAIT, MSG_PEEK

from mmekit_runtime.wire import WireError, decode_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mmekit_runtime.slots.channel import Channel
    from mmekit_runtime.slots.descriptors import Pipes
    from mmekit_runtime.slots.processes import Process

STARTED = b"INFO::Python engine started.\n"

_LONGEST_LINE = select.PIPE_BUF
"""What a pipe that can be written to takes in one step."""


class Slot:
    """One worker: the stub or server that asked for it, and its connection.

    Attributes
    ----------
    lifeline
        To whoever asked; its end is the end of the slot.
    connection
        To whoever sends requests; None until it has connected.
    process
        Which answers; None when there is none at the moment.
    move
        The number of its move to another process, while it is moved, and which process that is.
    unread
        A part of a request that no process will read.
    given_up
        Why its model is given up, when it ends because of that.
    """

    def __init__(
        self, lifeline: Channel, message: dict[str, Any], fds: list[int], pipes: Pipes
    ) -> None:
        self.lifeline = lifeline
        self.argv: list[str] = message["argv"]
        self.environ: dict[str, str] = message["environ"]
        self.cwd: str = message["cwd"]
        self.model_dir: str = message["model_dir"]
        self.model: str = message.get("model", "")
        self.pid: int = message["pid"]
        self.is_stub = message["ask"] == "worker"
        self.identity = self._identity()
        self._pipes = pipes
        self.connection = socket.socket(fileno=fds[2]) if len(fds) > 2 else None  # noqa: PLR2004
        self.stdout, self.stderr = pipes.take(fds[0]), pipes.take(fds[1])
        self.listener: socket.socket | None = None
        self.process: Process | None = None
        self.number = -1
        self.unread = bytearray()
        self.move: tuple[int, Process] | None = None
        self.confirmed = False
        self.ended = False
        self.given_up = ""

    def _identity(self) -> str:
        """Return what makes two workers workers of one model: folder and environment.

        A server that asks for its slots itself says more, as two of its models may have one folder.
        """
        status = os.stat(self.model_dir)  # noqa: PTH116
        varying = ("_", "PWD", "OLDPWD", "SHLVL")
        environ = sorted(item for item in self.environ.items() if item[0] not in varying)
        return repr((self.model, self.model_dir, status.st_dev, status.st_ino, environ))

    @property
    def socket_name(self) -> str:
        """The path of the socket that the server will connect to."""
        return self.argv[self.argv.index("--sock-name") + 1]

    def listen(self) -> None:
        """Open the worker's socket and say that the engine has started, as the engine does."""
        name = self.socket_name
        with open(f"{name}.pid", "w") as file:  # noqa: PTH123
            file.write(str(self.pid))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(name)
        self.listener.listen(8)
        self.print(STARTED)

    def print(self, line: bytes) -> None:
        """Write a line to the worker's standard output, unless nobody reads there any more."""
        if len(line) > _LONGEST_LINE:
            line = line[: _LONGEST_LINE - 1] + b"\n"
        poll = select.poll()
        poll.register(self.stdout, select.POLLOUT)
        with contextlib.suppress(OSError):
            if poll.poll(0):
                os.write(self.stdout, line)

    def has_bytes(self) -> bool:
        """Whether a request, or a part of one, waits on its connection."""
        if self.connection is None:
            return False
        try:
            return bool(self.connection.recv(1, MSG_PEEK | MSG_DONTWAIT))
        except OSError:
            return False

    def drain(self) -> bool | None:
        """Read a request away; whether all of it has come, None when the connection has ended."""
        assert self.connection is not None  # noqa: S101
        try:
            data = self.connection.recv(1 << 16, MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.unread += data
        try:
            found = decode_request(self.unread) if data else None
        except WireError:
            return None
        if found:
            del self.unread[: found[1]]
        return bool(found) if data else None

    def close(self, code: int) -> None:
        """End the stub with an exit code and close what belongs to the slot."""
        self.ended = True
        with contextlib.suppress(OSError):
            if self.is_stub:
                self.lifeline.sock.send(b"%d\n" % code, MSG_DONTWAIT)
            else:
                self.lifeline.send({"ended": code, "given_up": self.given_up})
        if self.is_stub:
            for name in (self.socket_name, f"{self.socket_name}.pid"):
                with contextlib.suppress(OSError):
                    os.unlink(name)  # noqa: PTH108
        self._let_go()

    def refuse(self, reason: str) -> None:
        """Leave it to the plain engine: whoever asked has had no answer yet."""
        self.ended = True
        with contextlib.suppress(OSError):
            self.lifeline.send({"plain": reason})
        self._let_go()

    def _let_go(self) -> None:
        # For the other ends they end now, though a busy model process may still have duplicates.
        with contextlib.suppress(OSError):
            self.lifeline.sock.shutdown(socket.SHUT_RDWR)
        self.lifeline.close()
        if self.connection:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()
        if self.listener:
            self.listener.close()
        for fd in (self.stdout, self.stderr):
            self._pipes.let_go(fd)
