"""The listening side: accepts connections and ends them.

They are accepted by hand. Out of descriptors, libuv (under uvloop) accepts what waits and closes
it at once, and has no way to say so: a client loses its connection without an answer, and no log
says why. Here what waits stays in the kernel until there is room.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import logging
import socket
from typing import TYPE_CHECKING, Any

from mmekit_local.http.connection import HttpConnection
from mmekit_local.http.messages import HttpLimits
from mmekit_local.http.policy import OriginPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mmekit_local.http.messages import Responder

_logger = logging.getLogger("mmekit.http")

_LOOKS = 4
"""So often in the time that a connection may be idle is looked who is."""

_SHARE = 100
"""One in so many connections ends when there are too many."""

_SILENCE_S = 10.0
"""Between two lines of the log about too many connections."""

_AT_ONCE = 64
"""Connections that are accepted before others are served again."""

_PAUSE_S = 1.0
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class HttpServer:
    """Accepts connections until it is closed.

    Parameters
    ----------
    responder
        Answers requests.
    limits
        What clients may send; None takes those of a container.
    policy
        Whose requests are answered; None is that of a server on loopback.
    """

    def __init__(
        self,
        responder: Responder,
        limits: HttpLimits | None = None,
        policy: OriginPolicy | None = None,
    ) -> None:
        self.responder = responder
        self.limits = limits or HttpLimits()
        self.policy = policy or OriginPolicy()
        self.closing = False
        self.connections: set[HttpConnection] = set()
        self._empty = asyncio.Event()
        self._listener: _Listener | None = None
        self._look: asyncio.TimerHandle | None = None
        self._complain_at = 0.0

    async def start(self, listener: socket.socket, backlog: int = 2048) -> None:
        """Listen on a bound socket."""
        loop = asyncio.get_running_loop()
        self._listener = _Listener(listener, lambda: HttpConnection(self))
        self._listener.start(backlog)
        if self.limits.idle_s is not None:
            self._end_idle(loop, self.limits.idle_s)

    async def close(self, drain_s: float) -> None:
        """Accept no more, answer what is under way for so many seconds, then end the rest."""
        self.closing = True
        if self._look:
            self._look.cancel()
        if self._listener:
            self._listener.close()
        for connection in list(self.connections):
            connection.finish()
        self._note_end()
        try:
            await asyncio.wait_for(self._empty.wait(), drain_s)
        # Before Python 3.11 this is not the built-in one.
        except asyncio.TimeoutError:
            _logger.warning("%d connections did not end in time", len(self.connections))
        for connection in list(self.connections):
            connection.abort()

    def add(self, connection: HttpConnection) -> None:
        """Know a connection; beyond the limit others end, or else this one."""
        self.connections.add(connection)
        if self.closing:  # it was accepted a moment before
            connection.finish()
            return
        limit = self.limits.connections
        if limit is not None and len(self.connections) > limit:
            self._end_surplus(connection, limit)

    def _end_surplus(self, newest: HttpConnection, limit: int) -> None:
        unasked = [one for one in self.connections if one.is_unasked and one is not newest]
        # Several, so that not every connection from now on has to look through all.
        ended = heapq.nsmallest(limit // _SHARE + 1, unasked, key=lambda one: one.idle_since)
        for connection in ended:
            connection.abort()
            # Its end is told in a later turn of the loop; whoever connects before would count it.
            self.discard(connection)
        # Those that were refused lately may be all that could be ended.
        if len(self.connections) > limit:
            newest.refuse(503, f"No more than {limit} connections are served at once.")
        now = asyncio.get_running_loop().time()
        if now >= self._complain_at:
            self._complain_at = now + _SILENCE_S
            what = f"the {len(ended)} without a whole request for longest end"
            what = what if ended else "one more is refused"
            _logger.warning("there are more than %d connections: %s", limit, what)

    def discard(self, connection: HttpConnection) -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        self._note_end()

    def _end_idle(self, loop: asyncio.AbstractEventLoop, idle_s: float) -> None:
        # One timer for all: a timer for each connection would be set anew at every request.
        since = loop.time() - idle_s
        for connection in list(self.connections):
            connection.end_if_idle(since)
        self._look = loop.call_later(idle_s / _LOOKS, self._end_idle, loop, idle_s)

    def _note_end(self) -> None:
        if self.closing and not self.connections:
            self._empty.set()


class _Listener:
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
                # None waits, or the one that did has gone meanwhile.
                break
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._wait(error)
                return
            accepted.setblocking(False)  # noqa: FBT003
            if accepted.family != getattr(socket, "AF_UNIX", None):
                # Nagle's algorithm would hold back an answer's second write for an ACK.
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._open(accepted))
            # The loop itself has only weak references to its tasks.
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
        # Those that wait keep the socket readable: the loop would turn without a pause.
        self._loop.remove_reader(self._socket.fileno())
        self._pause = self._loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket.fileno(), self._accept)


def run_in_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a program: on uvloop, and where that is not built on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)
