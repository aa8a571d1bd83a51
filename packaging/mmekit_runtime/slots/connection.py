"""The connection of one worker, as the model process reads and answers it.

A process that is killed between the sending of an answer and its note of it would leave the fork
server to guess: an answer of its own might be the second, none might be the last. So both are one
step: sendmmsg(2) sends, and before it returns writes how many bytes the kernel has taken into the
message's header, which lies in the scoreboard. A kill takes effect when a system call has returned,
or where one waits; this one never does. What it does not take is a `PendingAnswer`.

Nothing here waits for whoever reads an answer: what the connection cannot take now stays, one chunk
of a stream at most, and goes on when it can be written to. So a slow reader holds up nobody else,
and a stream that never ends has one chunk made in each turn of the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import struct
import sys
import time
from _socket import MSG_DONTWAIT, MSG_PEEK
from _socket import socket as new_socket
from typing import TYPE_CHECKING, Any

from mmekit_runtime.slots.scoreboard import (
    MESSAGE_AT,
    READING,
    SENT,
    SENT_AT,
    TAKEN,
    VECTOR,
    VECTOR_AT,
)
from mmekit_runtime.wire import WireRequest, decode_request

if TYPE_CHECKING:
    from _socket import socket as Socket  # noqa: N812
    from collections.abc import Iterator

    from mmekit_runtime.slots.descriptors import Pipes
    from mmekit_runtime.slots.scoreboard import Scoreboard

_READ_BYTES = 1 << 16
_MSG_NOSIGNAL = 0x4000
_AT_ONCE = 1 << 20
"""Bytes that one turn sends, however fast they are read."""

LONGEST = 16 << 10
"""Bytes of an answer that a connection takes in one step."""

# struct msghdr of a 64-bit Linux: no address, one vector, no control data, no flags.
_HEADER = struct.Struct("@PIPNPNi")


class SlotConnection:
    """The connection of one worker.

    Attributes
    ----------
    message
        A request that has been taken and is not answered yet.
    taken_ns
        When it was taken, by the monotonic clock.
    pending
        An answer that is on its way; until it has left, no other request is read.
    """

    def __init__(self, number: int, fds: list[int], pipes: Pipes) -> None:
        self.number = number
        self.sock = new_socket(fileno=fds[0])
        # The flag is the open file's, and so that of the fork server's duplicate, too: a call that
        # must not wait says so itself.
        self.sock.setblocking(True)  # noqa: FBT003
        # The stub sees its end only when neither the fork server nor this process holds its
        # control channel: slots survive the death of the fork server.
        self.control = fds[1]
        self._pipes = pipes
        self.stdout, self.stderr = pipes.take(fds[2]), pipes.take(fds[3])
        self.message: WireRequest | None = None
        self.taken_ns = 0
        self.pending: PendingAnswer | None = None
        self._buffer = bytearray()

    @property
    def is_halfway(self) -> bool:
        """Whether a part of a request has been read, or of an answer sent."""
        return bool(self._buffer) or self.pending is not None

    def receive(self, states: Any) -> bool:
        """Take a request if a whole one is there; False when the other end is gone.

        A request that is there as a whole is taken in one step: a process that dies before leaves
        it to its successor.
        """
        try:
            data = self.sock.recv(_READ_BYTES, MSG_PEEK | MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        if not self._buffer:
            found = decode_request(data)
            if found:
                # Noted before it is read away: bytes that are still there after a kill in between
                # say that it is the successor's.
                self._take(found[0], states)
                self.sock.recv(found[1])
                return True
        # Noted first as well: a successor would take the rest of a request for garbage.
        states[self.number] = READING
        self._buffer += self.sock.recv(len(data))
        found = decode_request(self._buffer)
        if found:
            self._take(found[0], states)
            del self._buffer[: found[1]]
        return True

    def _take(self, message: WireRequest, states: Any) -> None:
        states[self.number] = TAKEN
        self.message = message
        self.taken_ns = time.monotonic_ns()

    def close(self) -> None:
        """Close everything that belongs to it."""
        self.sock.close()
        os.close(self.control)
        for fd in (self.stdout, self.stderr):
            self._pipes.let_go(fd)


class PendingAnswer:
    """What is left of an answer.

    Parameters
    ----------
    data
        Bytes that are made already.
    chunks
        Those that follow, made one by one when those before have left.
    output
        Has what is to be done when the answer has left, or cannot any more.

    Attributes
    ----------
    has_begun
        Whether any of ``data`` and ``chunks`` has been sent.
    """

    def __init__(
        self, data: bytes, chunks: Iterator[bytes] | None = None, output: Any = None
    ) -> None:
        self._data = memoryview(data)
        self._chunks = chunks
        self.output = output
        self.has_begun = False

    @property
    def lacks_data(self) -> bool:
        """Whether the next chunk has to be made before anything can be sent."""
        return not self._data and self._chunks is not None

    def make_chunk(self) -> None:
        """Make the next chunk, if there is one."""
        chunk = None if self._chunks is None else next(self._chunks, None)
        if chunk is None:
            self._chunks = None
        else:
            self._data = memoryview(chunk)

    def send(self, sock: Socket) -> bool:
        """Send what the connection takes now; whether all of the answer has left.

        Raises
        ------
        OSError
            The connection has ended.
        """
        if self._data:
            with contextlib.suppress(BlockingIOError):
                sent = sock.send(self._data[:_AT_ONCE], MSG_DONTWAIT | _MSG_NOSIGNAL)
                self._data = self._data[sent:]
                self.has_begun = True
        return not self._data and self._chunks is None


class AtomicSender:
    """Sends answers of up to `LONGEST` bytes, one at a time, and has the kernel note it."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._page = scoreboard.states
        self._bytes = mmap.mmap(-1, LONGEST)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._bytes))
        page = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._message = page + MESSAGE_AT
        _HEADER.pack_into(self._page, MESSAGE_AT, 0, 0, page + VECTOR_AT, 1, 0, 0, 0)
        self._sendmmsg = ctypes.CDLL(None).sendmmsg
        self._sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)

    @staticmethod
    def is_possible() -> bool:
        """Whether the C library is glibc, whose sendmmsg is the system call and nothing else."""
        return sys.maxsize > 1 << 32 and "CS_GNU_LIBC_VERSION" in os.confstr_names

    def prepare(self, data: bytes) -> None:
        """Take an answer, of which nothing is sent yet."""
        self._bytes[: len(data)] = data
        SENT.pack_into(self._page, SENT_AT, 0)
        VECTOR.pack_into(self._page, VECTOR_AT, self._address, len(data))

    def send(self, fd: int) -> int:
        """Send it, and return how many bytes were taken; none too when the connection has ended."""
        # Its result counts messages, not bytes; after an error the page still says 0.
        self._sendmmsg(fd, self._message, 1, _MSG_NOSIGNAL | MSG_DONTWAIT)
        (sent,) = SENT.unpack_from(self._page, SENT_AT)
        return int(sent)
