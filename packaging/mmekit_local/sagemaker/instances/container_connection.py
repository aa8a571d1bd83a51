"""One kept-alive connection to a container, and the answers that come on it.

A connection is an `asyncio.Protocol` with httptools as its parser: a call writes one buffer and
waits for one future. An answer is taken whole, or, for response streams, piece by piece.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import httptools

from mmekit_local.http import Body

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BodyBuffer",
    "ContainerAbsentError",
    "ContainerConnection",
    "ContainerReply",
    "ContainerSilentError",
    "ContainerTimeoutError",
    "StreamedReply",
]

logger = logging.getLogger("mmekit.endpoint")

_BODYLESS = (204, 304)
_FINAL = 200
"""Below are answers that announce another."""
_MOST_WAITING = 1 << 20
"""Bytes of a stream that nobody has read yet; beyond, the container is not read from."""


class ContainerSilentError(Exception):
    """The container refused the connection or closed it before it had answered."""


class ContainerAbsentError(ContainerSilentError):
    """There was no connection to be had, so nothing of the request was sent."""


class ContainerTimeoutError(Exception):
    """The container did not answer in time."""


@dataclass(frozen=True)
class ContainerReply:
    """A container's answer; header names are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, whatever it holds."""
        return self.body.decode("utf-8", "replace")


class BodyBuffer:
    """What has come of a body and has not been read.

    Parameters
    ----------
    pause
        Called when more has come than shall wait.
    resume
        Called when that has been read.
    """

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._ending: Exception | bool = False
        """True at the end of the body; an error where there is none."""
        self._changed = asyncio.Event()

    def add(self, piece: bytes) -> None:
        """Take in some more."""
        self._waiting.append(piece)
        self._size += len(piece)
        self._changed.set()
        if self._size > _MOST_WAITING and not self._paused:
            self._paused = True
            self._pause()

    def end(self) -> None:
        """Take note that there is no more."""
        self._ending = self._ending or True
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """Take note that there will be no more, though there should be."""
        self._ending = self._ending or error
        self._changed.set()

    async def next(self) -> bytes:
        """Return what has come since, as one piece, as soon as there is something.

        At the end it is empty. The error of `fail` is raised once all that came has been read.
        """
        while not self._waiting:
            if isinstance(self._ending, Exception):
                raise self._ending
            if self._ending:
                return b""
            self._changed.clear()
            await self._changed.wait()
        piece = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._resume()
        return piece


class StreamedReply:
    """A container's answer whose body comes piece by piece; header names are in lower case."""

    def __init__(self, status: int, headers: dict[bytes, bytes], buffer: BodyBuffer) -> None:
        self.status = status
        self.headers = headers
        self._buffer = buffer
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
        return await self._buffer.next()

    async def rest(self) -> bytes:
        """Return what is left of the body."""
        found = []
        while piece := await self.next_piece():
            found.append(piece)
        return b"".join(found)


class ContainerConnection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, register: set[ContainerConnection]) -> None:
        self._loop = loop
        self._register = register
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[ContainerReply] | None = None
        self._stream: BodyBuffer | None = None
        self._head: asyncio.Future[StreamedReply] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body = Body()
        self._head_done = False
        self._answering = False
        self._ends_with_connection = False
        self.reusable = False
        self.idle_since = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a request may be written."""
        return self._transport is not None and not self._transport.is_closing()

    def send_for_stream(self, head: bytes, body: bytes) -> asyncio.Future[StreamedReply]:
        """Send a request whose answer is wanted as it comes."""
        began: asyncio.Future[StreamedReply] = self._loop.create_future()
        self._head, self._stream = began, BodyBuffer(self._pause, self._resume)
        self.send(head, body)
        return began

    def send(self, head: bytes, body: bytes) -> asyncio.Future[ContainerReply]:
        """Send a request whose answer is wanted as a whole."""
        self.reusable = False
        self._answering = False
        self._answer = self._loop.create_future()
        if self._transport is None:
            # Absent, not only silent: nothing was sent, so another instance may have the request.
            self._fail(ContainerAbsentError("the connection closed at once"))
        else:
            # One write: a head alone would go out as a packet of its own.
            self._transport.write(head + body)
        return self._answer

    def abort(self) -> None:
        """Close at once; whoever still waits for an answer is told."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass
        self._register.add(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below."""
        if self._is_answered:  # it would be taken for the answer to the next request
            self._refuse_unasked()
            return
        self._answering = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ContainerSilentError(f"the answer is not HTTP: {error}"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio gives it
        """End the answer, or say that there is none."""
        self._transport = None
        self._register.discard(self)
        if self._ends_with_connection:
            self.on_message_complete()
        elif self._answering:
            self._fail(ContainerSilentError("the connection closed in the middle of an answer"))
        else:
            self._fail(ContainerSilentError("the connection closed without an answer"))

    # httptools.HttpResponseParser

    def on_message_begin(self) -> None:
        """Forget the answer before."""
        # The second answer of one packet: when that came, the first was still waited for.
        if self._is_answered:
            self._refuse_unasked()
        # A new one, since the reply before has the old one.
        self._headers = {}
        self._body = Body()
        self._head_done = False
        self._ends_with_connection = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        if not self._head_done:  # trailers are not wanted
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Hand out the head, where the body is wanted as it comes."""
        self._head_done = True
        status = self._parser.get_status_code()
        if self._head is not None and self._stream is not None and status >= _FINAL:
            if not self._head.done():
                self._head.set_result(StreamedReply(status, self._headers, self._stream))
            self._head = None
        # Without either, HTTP/1.0 servers end a body by closing: no end of message will be parsed.
        self._ends_with_connection = (
            b"content-length" not in self._headers
            and b"transfer-encoding" not in self._headers
            and self._parser.get_status_code() not in _BODYLESS
        )

    def on_body(self, body: bytes) -> None:
        """Take in some of the body."""
        if self._stream is not None:
            self._stream.add(body)
        else:
            self._body.add(body)

    def on_message_complete(self) -> None:
        """Hand out the answer."""
        self._ends_with_connection = False
        if self._is_answered or self._parser.get_status_code() < _FINAL:
            return
        self.reusable = self.is_open and self._parser.should_keep_alive()
        if self._answer is not None and not self._answer.done():
            pieces = self._body.take()
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            status = self._parser.get_status_code()
            self._answer.set_result(ContainerReply(status, self._headers, body))
        if self._stream is not None:
            self._stream.end()
            self._stream = None

    @property
    def _is_answered(self) -> bool:
        return self._answer is None or self._answer.done()

    def _refuse_unasked(self) -> None:
        """Close: after bytes that nobody asked for, answers and requests no longer match."""
        logger.warning("a container sent what nobody asked for; its connection is closed")
        self.reusable = False
        self.abort()

    def expire(self) -> None:
        """Give up the answer that is waited for; the connection cannot be used again."""
        self._fail(ContainerTimeoutError("no answer in time"))
        self.abort()

    def _pause(self) -> None:
        """Take in nothing more for now: whoever reads the pieces is slower than they come."""
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        if self._stream is not None:
            pieces, self._stream = self._stream, None
            head, self._head = self._head, None
            if head is not None and not head.done():
                head.set_exception(error)
            pieces.fail(error)
            if self._answer is not None:
                self._answer.cancel()  # nobody waits for it
        elif self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
