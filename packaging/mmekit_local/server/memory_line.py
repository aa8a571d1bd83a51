"""The connection over which a server and one of its fork servers speak about memory."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from typing import TYPE_CHECKING, Any

from mmekit_runtime.slots.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("mmekit.server")


class MemoryLine:
    """The server's end; slots' MemoryChannel has the other.

    Parameters
    ----------
    path, key
        Where the fork server listens, and what its clients have in common.
    on_open
        Called when the fork server has answered. One of an earlier runtime never does.
    on_want
        Called with the bytes that models lack which wait for memory there.
    """

    def __init__(
        self,
        path: str,
        key: str,
        on_open: Callable[[], None],
        on_want: Callable[[MemoryLine, int], None],
    ) -> None:
        self.is_open = False
        self._on_open = on_open
        self._on_want = on_want
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[bool]] = {}
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channel = Channel(connection)
        connection.setblocking(False)  # noqa: FBT003
        try:
            connection.connect(path)
            self._channel.send({"ask": "memory", "key": key})
        except OSError as error:
            _logger.warning("a fork server hears nothing about memory: %s", error)
            connection.close()
            return
        asyncio.get_running_loop().add_reader(connection.fileno(), self._hear)

    def tell(self, limit: int, left: int, at: float, sharers: int) -> None:
        """Say what is left of the limit, as measured from `at` on, and how many hear it."""
        self._send({"limit": limit, "left": left, "at": at, "sharers": sharers})

    async def park(self, wanted: int, seconds: float) -> bool:
        """Have idle models park that take so many bytes; returns whether others may later."""
        number = next(self._numbers)
        made = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send({"wanted": wanted, "number": number})
        try:
            return await asyncio.wait_for(made, seconds)
        except asyncio.TimeoutError:
            return True
        finally:
            del self._asked[number]

    def close(self) -> None:
        """End it; whoever waits is told that nobody parks."""
        self.is_open = False
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
        for made in self._asked.values():
            if not made.done():
                made.set_result(False)

    def _send(self, message: dict[str, Any]) -> None:
        if not self.is_open:
            self.close()
            return
        try:
            # What a stuck fork server has not read would only be out of date.
            if not self._channel.flush() and self._channel.pending:
                return
            self._channel.send(message)
        except OSError:
            self.close()

    def _hear(self) -> None:
        messages = self._channel.receive_all()
        if messages is None:
            self.close()
            return
        for message, _ in messages:
            if "memory" in message:
                self.is_open = True
                self._on_open()
            elif "wants" in message:
                self._on_want(self, message["wants"])
            elif (made := self._asked.get(message.get("made", -1))) and not made.done():
                made.set_result(bool(message["more"]))
