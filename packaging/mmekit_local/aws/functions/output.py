"""What a function prints."""

from __future__ import annotations

import asyncio
import time

__all__ = ["PrintedOutput"]

_BYTES = 1 << 20  # of one invocation; the rest is read and dropped


class PrintedOutput(asyncio.Protocol):
    """Takes the bytes of a pipe, with the time at which they came.

    Attributes
    ----------
    ended : asyncio.Future
        Done when nobody can write any more.
    """

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pieces: list[tuple[int, bytes]] = []
        self._added: list[tuple[int, str]] = []
        self._bytes = 0

    def data_received(self, data: bytes) -> None:
        """Keep what came, up to a limit."""
        if self._bytes < _BYTES:
            self._pieces.append((_now(), data))
            self._bytes += len(data)

    def connection_lost(self, _: Exception | None) -> None:
        """Note that this was all."""
        if not self.ended.done():
            self.ended.set_result(None)

    def add(self, text: str) -> None:
        """Add an entry after all that was printed: it is the runtime's own."""
        self._added.append((_now(), text))

    def entries(self) -> tuple[tuple[int, str], ...]:
        """Return a line an entry: milliseconds since the epoch when it began, and its text."""
        found: list[tuple[int, str]] = []
        rest, since = b"", 0
        for at, piece in self._pieces:
            since = since if rest else at
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                found.append((since, line.decode("utf-8", "replace") + "\n"))
                since = at
        if rest:
            found.append((since, rest.decode("utf-8", "replace") + "\n"))
        return (*found, *self._added)


def _now() -> int:
    return int(time.time() * 1000)
