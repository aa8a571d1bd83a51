"""The connection of one worker, as the model process reads it."""

from __future__ import annotations

import os
import time
from _socket import MSG_DONTWAIT, MSG_PEEK
from _socket import socket as new_socket
from typing import TYPE_CHECKING, Any

from mmekit_runtime.slots.ledger import READING, TAKEN
from mmekit_runtime.wire import Message, decode_request

if TYPE_CHECKING:
    from mmekit_runtime.slots.departure import Departure
    from mmekit_runtime.slots.descriptors import Pipes

_CHUNK = 1 << 16


class Connection:
    """The connection of one worker.

    Attributes
    ----------
    message
        A request that has been taken and is not answered yet.
    taken_ns
        When it was taken, by the monotonic clock.
    departure
        An answer that is on its way; until it has left, no other request is read.
    """

    def __init__(self, number: int, fds: list[int], pipes: Pipes) -> None:
        self.number = number
        self.sock = new_socket(fileno=fds[0])
        self.sock.setblocking(True)  # noqa: FBT003
        # The stub sees its end only when neither the fork server nor this process holds its
        # lifeline: slots survive the death of the fork server.
        self.lifeline = fds[1]
        self._pipes = pipes
        self.stdout, self.stderr = pipes.take(fds[2]), pipes.take(fds[3])
        self.message: Message | None = None
        self.taken_ns = 0
        self.departure: Departure | None = None
        self._buffer = bytearray()

    @property
    def is_halfway(self) -> bool:
        """Whether a part of a request has been read, or of an answer sent."""
        return bool(self._buffer) or self.departure is not None

    def receive(self, states: Any) -> bool:
        """Take a request if a whole one is there; False when the other end is gone.

        A request that is there as a whole is taken in one step: a process that dies before leaves
        it to its successor.
        """
        try:
            data = self.sock.recv(_CHUNK, MSG_PEEK | MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        if not self._buffer:
            found = decode_request(data)
            if found:
                self._take(found[0], states)
                self.sock.recv(found[1])
                return True
        states[self.number] = READING
        self._buffer += self.sock.recv(len(data))
        found = decode_request(self._buffer)
        if found:
            self._take(found[0], states)
            del self._buffer[: found[1]]
        return True

    def _take(self, message: Message, states: Any) -> None:
        states[self.number] = TAKEN
        self.message = message
        self.taken_ns = time.monotonic_ns()

    def close(self) -> None:
        """Close everything that belongs to it."""
        self.sock.close()
        os.close(self.lifeline)
        for fd in (self.stdout, self.stderr):
            self._pipes.let_go(fd)
