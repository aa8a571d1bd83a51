"""Worker slots and the processes that answer them, as the fork server keeps them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from _socket import MSG_DONTWAIT, MSG_PEEK

from mmekit_runtime.slots.keys import VARYING_VARIABLES
from mmekit_runtime.slots.loop import log
from mmekit_runtime.slots.scoreboard import BEGUN, MAX_SLOTS, TAKEN, ScoreboardFile
from mmekit_runtime.wire import WireAnswer, WireError, decode_request, encode_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mmekit_runtime.slots.channel import Channel
    from mmekit_runtime.slots.descriptors import Pipes
    from mmekit_runtime.slots.template_process import TemplateProcess

STARTED = b"INFO::Python engine started.\n"

STUCK_S = 1.0
"""That a chunk of a stream may still take when nobody wants it any more."""

_LONGEST_LINE = select.PIPE_BUF
"""What a pipe that can be written to takes in one step."""


class Slot:
    """One worker: the stub or server that asked for it, and its connection.

    Attributes
    ----------
    control
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
        self, control: Channel, message: dict[str, Any], fds: list[int], pipes: Pipes
    ) -> None:
        self.control = control
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
        self.process: ProcessHandle | None = None
        self.number = -1
        self.unread = bytearray()
        self.move: tuple[int, ProcessHandle] | None = None
        self.confirmed = False
        self.ended = False
        self.given_up = ""

    def _identity(self) -> str:
        """Return what makes two workers workers of one model: folder and environment.

        A server that asks for its slots itself says more, as two of its models may have one folder.
        """
        # A folder that was made anew has the path of the old one, and may hold another model.
        status = os.stat(self.model_dir)  # noqa: PTH116
        environ = sorted(item for item in self.environ.items() if item[0] not in VARYING_VARIABLES)
        return repr((self.model, self.model_dir, status.st_dev, status.st_ino, environ))

    @property
    def socket_name(self) -> str:
        """The path of the socket that the server will connect to."""
        return self.argv[self.argv.index("--sock-name") + 1]

    @property
    def server(self) -> int:
        """The process that has started the worker, or has asked for the slot; 0 if it is gone."""
        if not self.is_stub:
            return self.pid
        try:
            with open(f"/proc/{self.pid}/stat") as file:  # noqa: PTH123
                # The name, in brackets, may hold anything.
                return int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return 0

    def listen(self) -> None:
        """Open the worker's socket and say that the engine has started, as the engine does."""
        name = self.socket_name
        # A plain engine that gets this address later kills whom the file names: that must not be
        # the model's process, which answers others too.
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
        # Asked for room, as the pipe's flags are the model's as well; and not by select(), which
        # takes no descriptor above 1,023: it failed with the 147th model.
        poll = select.poll()
        poll.register(self.stdout, select.POLLOUT)
        with contextlib.suppress(OSError):
            if poll.poll(0):
                os.write(self.stdout, line)

    def first_byte(self) -> bytes | None:
        """Return the first byte that waits; nothing at the connection's end, None without one."""
        assert self.connection is not None  # noqa: S101
        try:
            return self.connection.recv(1, MSG_PEEK | MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def has_bytes(self) -> bool:
        """Whether a request, or a part of one, waits on its connection."""
        return self.connection is not None and bool(self.first_byte())

    def answer_error(self, reason: str, status: int = 503) -> None:
        """Answer its request with an error."""
        if self.connection is None:
            return
        content = {"code": status, "message": reason, "error": reason}
        answer = WireAnswer(
            status,
            reason,
            (("Content-Type", "application/json"),),
            ((None, json.dumps(content).encode()),),
        )
        # All earlier answers have been read: there is room for these few bytes.
        with contextlib.suppress(OSError):
            self.connection.send(encode_answer(answer), MSG_DONTWAIT)

    def answer_for_the_dead(self, state: int, reason: str) -> None:
        """Answer the request that a process had taken when it died, if there is one."""
        # Bytes that are still there are the request itself: the successor takes it.
        if state in (TAKEN, BEGUN) and not self.has_bytes():
            self.answer_error(reason)

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
                # A shell by now: it reads a line, and knows no messages.
                self.control.sock.send(b"%d\n" % code, MSG_DONTWAIT)
            else:
                self.control.send({"ended": code, "given_up": self.given_up})
        if self.is_stub:
            for name in (self.socket_name, f"{self.socket_name}.pid"):
                with contextlib.suppress(OSError):
                    os.unlink(name)  # noqa: PTH108
        self._let_go()

    def refuse(self, reason: str) -> None:
        """Leave it to the plain engine: whoever asked has had no answer yet."""
        self.ended = True
        with contextlib.suppress(OSError):
            self.control.send({"plain": reason})
        self._let_go()

    def _let_go(self) -> None:
        # For the other ends they end now, though a busy model process may still have duplicates.
        with contextlib.suppress(OSError):
            self.control.sock.shutdown(socket.SHUT_RDWR)
        self.control.close()
        if self.connection:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()
        if self.listener:
            self.listener.close()
        for fd in (self.stdout, self.stderr):
            self._pipes.let_go(fd)


class ProcessHandle:
    """One process of a model.

    Attributes
    ----------
    may_be_spare, was_spare
        Whether it may be one that was forked ahead; whether it was.
    is_further
        Whether it gets slots of other processes, once it is ready, and has none before.
    channel
        To the process; None until it is forked.
    ready
        Whether it has imported model.py, and has loaded the model if it replaces another process.
    initialised
        Whether it has loaded the model.
    is_known
        Whether its template process has learned from it.
    killed
        Whether it is to end, or has been made to.
    parking
        Whether it has been asked to end when it has nothing to do.
    parked, private_bytes
        Whether it has said that it does, and what it shared with no other then.
    suspect
        The number of a slot that has ended while the model was asked for the next chunk of its
        stream; None when there is none.
    """

    def __init__(self, *, is_further: bool = False, may_be_spare: bool = True) -> None:
        self.attempt = 1
        self.is_further = is_further
        self.may_be_spare = may_be_spare
        self.was_spare = False
        self.slots: list[Slot] = []
        self.channel: Channel | None = None
        self.scoreboard: ScoreboardFile | None = None
        self.template: TemplateProcess | None = None
        self.pid = 0
        self.asked_at = time.monotonic()
        self.fork_ms = 0.0
        self.ready = False
        self.initialised = False
        self.dead = False
        self.is_known = False
        self.killed = False
        self.parking = False
        self.parked = False
        self.private_bytes = 0
        self.suspect: int | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is something for it to do, once it is there."""
        return (bool(self.slots) or self.is_further) and not self.killed

    @property
    def is_there(self) -> bool:
        """Whether it can be given slots."""
        return not (self.dead or self.killed or self.parking)

    def started(self, pid: int, channel: Channel, scoreboard: ScoreboardFile) -> None:
        """Note that it has been forked."""
        self.pid, self.channel, self.scoreboard = pid, channel, scoreboard

    def assign(self, slot: Slot) -> None:
        """Have it answer a slot, with the smallest number that no other has."""
        # The suspect's place still tells of the stream that is being worked on.
        used = {self.suspect, *(one.number for one in self.slots)}
        slot.number = next(number for number in range(MAX_SLOTS) if number not in used)
        slot.process = self
        slot.move = None
        self.slots.append(slot)
        if self.scoreboard is not None:
            self.scoreboard.clear(slot.number)

    def state(self, slot: Slot) -> int:
        """Return a slot's state in the scoreboard."""
        return 0 if self.scoreboard is None else self.scoreboard.settled(slot.number)

    def end_if_stuck(self) -> None:
        """End the process if it is stuck in a chunk of a stream that nobody wants any more."""
        if self.suspect is None or self.scoreboard is None or self.dead:
            return
        worked_s = self.scoreboard.worked_s(self.suspect)
        if worked_s is None:
            self.suspect = None
        elif worked_s >= STUCK_S:
            self.kill()

    def used_at(self) -> float:
        """Return when it last answered, or was asked for, by the monotonic clock."""
        if self.scoreboard is None or self.dead:
            return self.asked_at
        return max(self.asked_at, self.scoreboard.counters()["answered_ns"] / 1e9)

    def ask_to_park(self, *, is_last: bool = False) -> None:
        """Ask it to end, unless something has come in the meantime; the last parks the model."""
        if self.scoreboard is not None and not self.parking:
            self.parking = True
            self.tell({"park": self.scoreboard.counters()["answered_ns"], "is_last": is_last})

    def receive_all(self) -> list[dict[str, Any]] | None:
        """Return what it has said; None at its end."""
        assert self.channel is not None  # noqa: S101
        try:
            received = self.channel.receive()
            return None if received is None else [message for message, _ in received]
        except ConnectionError:
            return None
        except OSError as error:
            # Nothing that it says can be trusted any more; its end shows here next.
            log(f"model process {self.pid} is ended: {error}")
            self.kill()
            return []

    def start_times(self) -> str:
        """Say how long it took until it had loaded the model."""
        assert self.scoreboard is not None  # noqa: S101
        counters = self.scoreboard.counters()
        return (
            f"forked in {self.fork_ms:.1f} ms, model.py in {counters['import_ns'] / 1e6:.1f} ms, "
            f"loaded in {counters['load_ns'] / 1e6:.1f} ms"
        )

    def tell(self, message: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        """Send it a message; where it is gone, that shows on its channel."""
        if self.channel is not None:
            with contextlib.suppress(OSError):
                self.channel.send(message, fds)

    def kill(self) -> None:
        """End it now, and what it has started: no template process may be left to do so."""
        self.killed = True
        if self.pid:
            # It leads no group yet when it has just been forked.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of what belongs to it."""
        self.dead = True
        if self.channel is not None:
            self.channel.close()
        if self.scoreboard is not None:
            self.scoreboard.close()
