"""One HTTP connection of a load generator: it sends a request and says when it is answered.

As little happens here as possible, because whatever happens is measured along.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Protocol, cast

import httptools

if TYPE_CHECKING:
    from mmekit_bench.destination import Heads

__all__ = ["Connection", "Owner", "error_kind"]

_SUCCESS = range(200, 300)
_KEPT = 4096  # bytes of an answer, of which an error's type is read
_SMALL = 1 << 16  # what is cheaper to copy than to send in two pieces

_AWS_TYPE = re.compile(rb"(?im)^x-amzn-errortype:\s*(\w+)")
_ORIGINAL = re.compile(rb'"OriginalStatusCode":\s*(\d+)')
_CONTAINER_TYPE = re.compile(rb'"type":\s*"(\w+)"')


class Owner(Protocol):
    """Whoever decides what a connection does next."""

    def answered(self, connection: Connection) -> None:
        """Take note of an answer; `Connection.error` says whether it is one of success."""

    def lost(self, connection: Connection, why: str) -> None:
        """Take note that a request will have no answer; the connection is closed."""


class Connection(asyncio.Protocol):
    """A connection; one request at a time.

    Attributes
    ----------
    number
        Its number among the connections.
    target, due, sent, first
        Of the request under way: its target's number, when it was due and when it was sent
        (`time.perf_counter`), and whether its target had not answered yet.
    finished
        When its answer was complete.
    busy
        Whether a request is under way.
    error
        The kind of error that the last answer was; empty for a success.
    usable
        Whether it can carry another request.
    stale
        Whether the server had closed it before it saw the request, after others went well: nothing
        is wrong, and the request is to be sent again.
    """

    def __init__(self, owner: Owner, heads: Heads, body: bytes, number: int) -> None:
        self.number = number
        self.target = 0
        self.due = self.sent = self.finished = 0.0
        self.first = self.busy = self.usable = self.stale = False
        self.error = ""
        self._owner = owner
        self._heads = heads
        self._body = body
        self._small = len(body) < _SMALL
        self._served = 0
        self._begun = b""
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    def send(self, target: int, due: float, *, first: bool) -> None:
        """Send a request; the connection has to be usable and not busy."""
        self.target, self.due, self.first = target, due, first
        self.busy = True
        self._begun = b""
        transport = cast("asyncio.Transport", self._transport)
        head = self._heads[target]
        self.sent = time.perf_counter()
        if self._small:
            transport.write(head + self._body)
        else:
            transport.writelines((head, self._body))

    def abort(self) -> None:
        """Close it at once; a request under way is lost."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def give_up(self, why: str) -> None:
        """Close it; the request under way has no answer, and this is why."""
        self.abort()
        if self.busy:
            self.busy = False
            self.finished = time.perf_counter()
            self._owner.lost(self, why)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass
        self.usable = True

    def data_received(self, data: bytes) -> None:
        """Parse a piece of an answer."""
        if len(self._begun) < _KEPT:
            self._begun += data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.give_up("no HTTP")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell the owner when a request was under way."""
        self.stale = self._served > 0 and not self._begun
        self.give_up("connection closed in the middle" if self._begun else "connection closed")
        self._transport = None

    # httptools.HttpResponseParser

    def on_message_complete(self) -> None:
        """Hand the answer over."""
        self.finished = time.perf_counter()
        status = self._parser.get_status_code()
        self.error = "" if status in _SUCCESS else error_kind(status, self._begun)
        self._served += 1
        self.busy = False
        if not self._parser.should_keep_alive():
            self.usable = False
            cast("asyncio.Transport", self._transport).close()
        self._owner.answered(self)


def error_kind(status: int, answer: bytes) -> str:
    r"""Return a short name for an error: status and type, as AWS or a container writes them.

    Examples
    --------
    >>> error_kind(503, b"HTTP/1.1 503 Service Unavailable")
    '503'
    >>> error_kind(424, b'x-amzn-errortype: ModelError\r\n\r\n{"OriginalStatusCode": 507}')
    '424 ModelError (507)'
    """
    found = _AWS_TYPE.search(answer) or _CONTAINER_TYPE.search(answer)
    name = f"{status} {found[1].decode()}" if found else str(status)
    original = _ORIGINAL.search(answer)
    return f"{name} ({original[1].decode()})" if original else name
