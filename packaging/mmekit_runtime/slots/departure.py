"""An answer that does not leave in one step: one that is long, or a stream.

Nothing here waits for whoever reads it: what the connection cannot take now stays, one piece of a
stream at most, and goes on when it can be written to. So a slow reader holds up nobody else, and a
stream that never ends has one piece made in each turn of the process.
"""

from __future__ import annotations

import contextlib
from _socket import MSG_DONTWAIT
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _socket import socket as Socket  # noqa: N812
    from collections.abc import Iterator

_MSG_NOSIGNAL = 0x4000
_AT_ONCE = 1 << 20
"""Bytes that one turn sends, however fast they are read."""


class Departure:
    """What is left of an answer.

    Parameters
    ----------
    data
        Bytes that are made already.
    pieces
        Those that follow, made one by one when those before have left.
    output
        Has what is to be done when the answer has left, or cannot any more.

    Attributes
    ----------
    has_begun
        Whether any of ``data`` and ``pieces`` has been sent.
    """

    def __init__(
        self, data: bytes, pieces: Iterator[bytes] | None = None, output: Any = None
    ) -> None:
        self._data = memoryview(data)
        self._pieces = pieces
        self.output = output
        self.has_begun = False

    @property
    def lacks_data(self) -> bool:
        """Whether the next piece has to be made before anything can be sent."""
        return not self._data and self._pieces is not None

    def make(self) -> None:
        """Make the next piece, if there is one."""
        piece = None if self._pieces is None else next(self._pieces, None)
        if piece is None:
            self._pieces = None
        else:
            self._data = memoryview(piece)

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
        return not self._data and self._pieces is None
