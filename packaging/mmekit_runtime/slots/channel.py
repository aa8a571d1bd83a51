"""Messages with file descriptors over a Unix stream socket.

A message is a dict of plain values, its length as uint32 before it. marshal reads and writes it:
the stub must not pay for json, and both ends run the same Python for the same user, which is
checked before the first message is read. ``"fds"`` says how many descriptors came along.
"""

from __future__ import annotations

import array
import errno
import marshal
import os
import struct
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket  # noqa: N812
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

_LENGTH = struct.Struct(">I")
_MARSHAL_VERSION = 4
# A length that is read as garbage must not have gigabytes collected for it.
_LONGEST = 8 << 20
_MAX_FDS = 32
# Constants of the platform's headers, as the module socket is slow to import.
_SOL_SOCKET = 1
_SCM_RIGHTS = 1
_MSG_CMSG_CLOEXEC = 0x40000000
_MSG_DONTWAIT = 0x40

_FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
"""The other end has to read first, or whoever else is sent descriptors by this user."""


class Channel:
    """One end of a connection.

    Sending never waits: what the other end cannot take yet is kept, and written by `flush`. So two
    processes that have much to say to each other at once do not block each other.

    Parameters
    ----------
    sock
        Connected; blocking or not decides how `receive` behaves.
    when_full
        Called when something has to wait: from then on `flush` has to be called, when the
        connection can be written to, until nothing is `pending`.
    """

    def __init__(self, sock: Socket, when_full: Callable[[Channel], None] | None = None) -> None:
        self.sock = sock
        self._when_full = when_full
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()
        self._buffer = b""
        self._fds: list[int] = []

    def fileno(self) -> int:
        """Return the descriptor, so that selectors take a channel."""
        return self.sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._unsent)

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message, or keep it until the other end can take it.

        Raises
        ------
        OSError
            The other end is gone, or there are no descriptors left to keep those of a message.
        """
        body = marshal.dumps({**message, "fds": len(fds)}, _MARSHAL_VERSION)
        data = memoryview(_LENGTH.pack(len(body)) + body)
        if self._unsent:
            self._keep(data, fds)
            return
        sent = self._write(data, fds)
        # A socket has room for 213 KB, some 270 small messages with descriptors: the forks of
        # hundreds of models that are wanted at once fill it.
        if sent < len(data):
            self._keep(data[sent:], () if sent else fds)
            if self._when_full is not None:
                self._when_full(self)

    def flush(self) -> bool:
        """Write as much of what waits as the other end can take; whether that was anything.

        Raises
        ------
        OSError
            The other end is gone.
        """
        moved = False
        while self._unsent:
            data, fds = self._unsent[0]
            sent = self._write(data, fds)
            if sent:
                moved = True
                _close_all(fds)
            if sent < len(data):
                self._unsent[0] = (data[sent:], fds)
                break
            self._unsent.popleft()
        return moved

    def finish(self) -> None:
        """Write all that waits, and wait until it is taken; for one who has nothing else to do."""
        while self._unsent:
            data, fds = self._unsent.popleft()
            while data:
                data = data[self._write(data, fds, 0) :]
                _close_all(fds)

    def _write(self, data: memoryview, fds: Sequence[int], flags: int = _MSG_DONTWAIT) -> int:
        """Return how many bytes were taken; the descriptors go with the first of them."""
        ancillary = [(_SOL_SOCKET, _SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            return self.sock.sendmsg([data], ancillary, flags)
        except OSError as error:
            if flags and error.errno in _FULL:
                return 0
            raise

    def _keep(self, data: memoryview, fds: Sequence[int]) -> None:
        # Whoever sends them may close its own as soon as `send` has returned.
        kept: list[int] = []
        try:
            kept += (os.dup(fd) for fd in fds)
        except OSError:
            _close_all(kept)
            raise
        self._unsent.append((data, kept))

    def receive(self) -> Iterator[tuple[dict[str, Any], list[int]]] | None:
        """Read what has come and yield the whole messages in it; None at the end.

        Nothing has come when a connection that does not block is read too early.

        Raises
        ------
        OSError
            The connection failed, or what came is no message.
        """
        # What a model starts must not hold them: the end of a slot shows as the end of these.
        try:
            data, ancillary, _, _ = self.sock.recvmsg(1 << 16, _MAX_FDS * 8, _MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return iter(())
        for level, kind, payload in ancillary:
            if (level, kind) == (_SOL_SOCKET, _SCM_RIGHTS):
                got = array.array("i")
                got.frombytes(payload[: len(payload) - len(payload) % got.itemsize])
                # They come with the first byte of their message, of which the rest may come later.
                self._fds += got
        if not data:
            return None
        self._buffer += data
        return self._messages()

    def receive_all(self) -> list[tuple[dict[str, Any], list[int]]] | None:
        """Return the whole messages that have come; None at the end, and when `receive` fails."""
        try:
            received = self.receive()
            return None if received is None else list(received)
        except OSError:
            return None

    def _messages(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > _LONGEST:
                raise OSError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            try:
                message = marshal.loads(self._buffer[_LENGTH.size : end])  # noqa: S302
                count = message["fds"]
                self._fds[:count]  # it must be a number
            except (ValueError, EOFError, TypeError, KeyError) as error:
                raise OSError(f"garbage instead of a message: {error}") from error
            self._buffer = self._buffer[end:]
            fds, self._fds = self._fds[:count], self._fds[count:]
            yield message, fds

    def close(self) -> None:
        """Close the socket, and the descriptors that nobody took or that were not sent."""
        self.sock.close()
        _close_all(self._fds)
        while self._unsent:
            _close_all(self._unsent.pop()[1])


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
