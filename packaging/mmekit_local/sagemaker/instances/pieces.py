"""A body between the connection that it comes on and whoever reads it, piece by piece."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pieces", "StreamedReply"]

_MOST = 1 << 20


class Pieces:
    """What has come of a body and has not been read.

    Parameters
    ----------
    hold
        Called when more has come than shall wait.
    go_on
        Called when that has been read.
    """

    def __init__(self, hold: Callable[[], None], go_on: Callable[[], None]) -> None:
        self._hold = hold
        self._go_on = go_on
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._held = False
        self._outcome: Exception | bool = False
        """True at the end of the body; an error where there is none."""
        self._news = asyncio.Event()

    def add(self, piece: bytes) -> None:
        """Take in some more."""
        self._waiting.append(piece)
        self._size += len(piece)
        self._news.set()
        if self._size > _MOST and not self._held:
            self._held = True
            self._hold()

    def end(self) -> None:
        """Take note that there is no more."""
        self._outcome = self._outcome or True
        self._news.set()

    def fail(self, error: Exception) -> None:
        """Take note that there will be no more, though there should be."""
        self._outcome = self._outcome or error
        self._news.set()

    async def next(self) -> bytes:
        """Return what has come since, as one piece, as soon as there is something.

        At the end it is empty. The error of `fail` is raised once all that came has been read.
        """
        while not self._waiting:
            if isinstance(self._outcome, Exception):
                raise self._outcome
            if self._outcome:
                return b""
            self._news.clear()
            await self._news.wait()
        piece = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        if self._held:
            self._held = False
            self._go_on()
        return piece


class StreamedReply:
    """A container's answer whose body comes piece by piece; header names are in lower case."""

    def __init__(self, status: int, headers: dict[bytes, bytes], pieces: Pieces) -> None:
        self.status = status
        self.headers = headers
        self._pieces = pieces
        self._began = time.perf_counter()

    @property
    def microseconds(self) -> float:
        """How long it has been since the container was asked."""
        return (time.perf_counter() - self._began) * 1e6

    async def next_piece(self) -> bytes:
        """Return some more of the body; nothing at its end.

        Raises
        ------
        ContainerSilentError
            The connection broke off.
        ContainerTimeoutError
            It took too long.
        """
        return await self._pieces.next()

    async def rest(self) -> bytes:
        """Return what is left of the body."""
        found = []
        while piece := await self.next_piece():
            found.append(piece)
        return b"".join(found)
