"""Messages with file descriptors over a Unix stream socket.

A message is a dict of plain values, its length as uint32 before it. marshal reads and writes it:
the stub must not pay for json, and both ends run the same Python for the same user, which is
checked before the first message is read. ``"fds"`` says how many descriptors came along.
"""

from __future__ import annotations

import array
import marshal
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket  # noqa: N812
    from collections.abc import Iterator, Sequence
    from typing import Any

_LENGTH = struct.Struct(">I")
_MARSHAL_VERSION = 4
_LONGEST = 8 << 20
_MAX_FDS = 32
# Constants of the platform's headers, as the module socket is slow to import.
_SOL_SOCKET = 1
_SCM_RIGHTS = 1
_MSG_CMSG_CLOEXEC = 0x40000000


class Channel:
    """One end of a connection.

    Parameters
    ----------
    sock
        Connected; blocking or not decides how `receive` behaves.
    """

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self._buffer = b""
        self._fds: list[int] = []

    def fileno(self) -> int:
        """Return the descriptor, so that selectors take a channel."""
        return self.sock.fileno()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message; OSError when the other end is gone."""
        body = marshal.dumps({**message, "fds": len(fds)}, _MARSHAL_VERSION)
        data = memoryview(_LENGTH.pack(len(body)) + body)
        ancillary = []
        if fds:
            ancillary.append((_SOL_SOCKET, _SCM_RIGHTS, array.array("i", fds)))
        sent = self.sock.sendmsg([data], ancillary)
        while sent < len(data):
            sent += self.sock.send(data[sent:])

    def receive(self) -> Iterator[tuple[dict[str, Any], list[int]]] | None:
        """Read what has come and yield the whole messages in it; None at the end.

        Raises
        ------
        OSError
            The connection failed, or what came is no message.
        """
        # What a model starts must not hold them: the end of a slot shows as the end of these.
        data, ancillary, _, _ = self.sock.recvmsg(1 << 16, _MAX_FDS * 8, _MSG_CMSG_CLOEXEC)
        for level, kind, payload in ancillary:
            if (level, kind) == (_SOL_SOCKET, _SCM_RIGHTS):
                got = array.array("i")
                got.frombytes(payload[: len(payload) - len(payload) % got.itemsize])
                self._fds += got
        if not data:
            return None
        self._buffer += data
        return self._messages()

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
        """Close the socket and the descriptors that nobody took."""
        self.sock.close()
        while self._fds:
            os.close(self._fds.pop())
