"""Accepting connections by hand, as uvloop has no word to say when it cannot.

Out of descriptors, libuv accepts what waits and closes it at once: a client loses its connection
without an answer, and no log says why. Here what waits stays in the kernel until there is room.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("mmekit.http")

_AT_ONCE = 64
"""Connections that are accepted before others are served again."""

_PAUSE_S = 1.0
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Turns the connections to a socket into protocols until it is closed.

    Parameters
    ----------
    listening
        Bound; it listens already or does so from `start` on. It is closed at the end.
    factory
        Makes the protocol of a connection.
    """

    def __init__(self, listening: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        self._socket = listening
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._paused = False

    def start(self, backlog: int) -> None:
        """Listen."""
        self._socket.setblocking(False)  # noqa: FBT003
        self._socket.listen(backlog)
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more; a second time does nothing."""
        if self._socket.fileno() < 0:
            return
        if self._pause:
            self._pause.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._wait(error)
                return
            accepted.setblocking(False)  # noqa: FBT003
            if accepted.family != getattr(socket, "AF_UNIX", None):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        if self._paused:
            self._paused = False
            _logger.warning("connections are accepted again")

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, accepted)
        except OSError as error:
            _logger.warning("a connection could not be served: %s", error)
            accepted.close()

    def _wait(self, error: OSError) -> None:
        """Leave those that connect to the kernel for a while; said once, until all is well."""
        if not self._paused:
            self._paused = True
            _logger.error(
                "no connection can be accepted: %s; those that are open go on, the others wait",
                error.strerror,
            )
        self._loop.remove_reader(self._socket.fileno())
        self._pause = self._loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket.fileno(), self._accept)
