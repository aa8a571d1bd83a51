"""The listening side: accepts connections and ends them."""

from __future__ import annotations

import asyncio
import heapq
import logging
from typing import TYPE_CHECKING

from mmekit_local.http.connection import Connection
from mmekit_local.http.exchange import HttpLimits
from mmekit_local.http.listener import Listener
from mmekit_local.http.policy import Policy

if TYPE_CHECKING:
    import socket

    from mmekit_local.http.exchange import Responder

_logger = logging.getLogger("mmekit.http")

_LOOKS = 4
"""So often in the time that a connection may be idle is looked who is."""

_SHARE = 100
"""One in so many connections ends when there are too many."""

_SILENCE_S = 10.0


class HttpServer:
    """Accepts connections until it is closed.

    Parameters
    ----------
    responder
        Answers requests.
    limits
        What clients may send; None takes those of a container.
    policy
        Who is heard; None is that of a server on loopback.
    """

    def __init__(
        self,
        responder: Responder,
        limits: HttpLimits | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.responder = responder
        self.limits = limits or HttpLimits()
        self.policy = policy or Policy()
        self.closing = False
        self.connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._listener: Listener | None = None
        self._look: asyncio.TimerHandle | None = None
        self._complain_at = 0.0

    async def start(self, listener: socket.socket, backlog: int = 2048) -> None:
        """Listen on a bound socket."""
        loop = asyncio.get_running_loop()
        self._listener = Listener(listener, lambda: Connection(self))
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
        except asyncio.TimeoutError:
            _logger.warning("%d connections did not end in time", len(self.connections))
        for connection in list(self.connections):
            connection.abort()

    def add(self, connection: Connection) -> None:
        """Know a connection; beyond the limit others end, or else this one."""
        self.connections.add(connection)
        if self.closing:  # it was accepted a moment before
            connection.finish()
            return
        limit = self.limits.connections
        if limit is not None and len(self.connections) > limit:
            self._make_room(connection, limit)

    def _make_room(self, newest: Connection, limit: int) -> None:
        unasked = [one for one in self.connections if one.is_unasked and one is not newest]
        # Several, so that not every connection from now on has to look through all.
        ended = heapq.nsmallest(limit // _SHARE + 1, unasked, key=lambda one: one.idle_since)
        for connection in ended:
            connection.abort()
            self.discard(connection)
        # Those that were refused lately may be all that could be ended.
        if len(self.connections) > limit:
            newest.refuse(503, f"No more than {limit} connections are served at once.")
        now = asyncio.get_running_loop().time()
        if now >= self._complain_at:
            self._complain_at = now + _SILENCE_S
            what = f"the {len(ended)} that kept us waiting for longest end"
            what = what if ended else "one more is refused"
            _logger.warning("there are more than %d connections: %s", limit, what)

    def discard(self, connection: Connection) -> None:
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
