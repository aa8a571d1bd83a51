"""What a worker answers, as it arrives: whole, or as a stream of chunks.

The bytes are those that `mmekit_runtime.wire` describes. There an answer is gathered; here a
stream is passed on chunk by chunk, as DJL Serving does (Connection.RequestHandler, CodecUtils).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from mmekit_runtime.wire import (
    Cursor,
    IncompleteError,
    WireError,
    read_content,
    read_properties,
)

if TYPE_CHECKING:
    from collections.abc import Callable


_MOST_WAITING = 1 << 20
"""Bytes of a stream; with more of them no more is read from the worker, which waits then."""


class ReplyStream:
    """The chunks of one answer; whoever iterates waits for those to come.

    Attributes
    ----------
    waiting
        Bytes of the chunks that nobody has taken yet.
    is_abandoned
        Whether nobody will take any more of them.
    """

    def __init__(self) -> None:
        self.ended = False
        self.waiting = 0
        self._read = False
        self.is_abandoned = False
        self._on_room: Callable[[], object] | None = None
        self._chunks: deque[bytes] = deque()
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        self._on_end: Callable[[], object] | None = None

    def add(self, chunk: bytes) -> None:
        """Have one more chunk."""
        if self.is_abandoned:
            return
        self._chunks.append(chunk)
        self.waiting += len(chunk)
        self._news.set()

    @property
    def is_full(self) -> bool:
        """Whether no more should come until somebody has taken what is there."""
        return self._read and self.waiting >= _MOST_WAITING

    def when_there_is_room(self, callback: Callable[[], object]) -> None:
        """Have a function called, once, when more may come."""
        self._on_room = callback

    def abandon(self) -> None:
        """Drop what is there and what is to come: nobody reads it any more."""
        self.is_abandoned = True
        self._chunks.clear()
        self.waiting = 0
        self._make_room()

    async def aclose(self) -> None:
        """As `abandon`; so whoever iterates lets go of it."""
        self.abandon()

    def _make_room(self) -> None:
        callback, self._on_room = self._on_room, None
        if callback:
            callback()

    def end(self, failure: Exception | None = None) -> None:
        """Have no more; with ``failure`` the iteration raises it after the last chunk."""
        self.ended = True
        self._failure = failure
        self._news.set()
        if self._on_end:
            self._on_end()

    def when_ended(self, callback: Callable[[], object]) -> None:
        """Have a function called at the end, at once if it has come."""
        if self.ended:
            callback()
        else:
            self._on_end = callback

    def __aiter__(self) -> ReplyStream:
        """Iterate over the chunks."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk, waiting for it if need be."""
        self._read = True
        while not self._chunks:
            if self.ended:
                if self._failure:
                    raise self._failure
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        chunk = self._chunks.popleft()
        self.waiting -= len(chunk)
        # At half: otherwise reading would stop and go with each chunk.
        if self._on_room and self.waiting < _MOST_WAITING // 2:
            self._make_room()
        return chunk


class WorkerReply(NamedTuple):
    """What a worker answers to one request.

    Attributes
    ----------
    message
        The HTTP reason phrase, and what is said of a load that failed.
    properties
        In the order in which they came; on the way to a client they become headers.
    content
        Pairs of a key, which may be None, and bytes.
    stream
        The chunks of an answer that is a stream; its content is empty then.
    """

    status: int
    message: str
    properties: tuple[tuple[str, str], ...]
    content: tuple[tuple[str | None, bytes], ...]
    stream: ReplyStream | None = None

    @property
    def body(self) -> bytes:
        """The content named ``data``, or else the first; empty when there is none."""
        for key, value in self.content:
            if key == "data":
                return value
        return self.content[0][1] if self.content else b""


class ReplyReader:
    """Turns the bytes of one connection, in pieces of any size, into replies."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        # A large reply comes in hundreds of pieces: it is not read anew with each of them.
        self._needed = 0
        self._stream: ReplyStream | None = None

    @property
    def stream(self) -> ReplyStream | None:
        """The stream whose end has not come yet."""
        return self._stream

    @property
    def surplus(self) -> int:
        """How many bytes there are beyond the last whole answer."""
        return 0 if self._stream is not None else len(self._buffer)

    def feed(self, data: bytes) -> WorkerReply | None:
        """Take more bytes; return the reply when it is whole, or when a stream's first chunk is.

        A stream without any chunk is an empty reply, as DJL Serving has it. What follows a reply
        is kept for the next, which ``feed(b"")`` returns if it is whole as well.

        Raises
        ------
        WireError
            The bytes are no reply.
        """
        self._buffer += data
        if self._stream is not None:
            self._read_chunks(self._stream)
            if self._stream is not None:
                return None
        if len(self._buffer) < max(self._needed, 1):
            return None
        cursor = Cursor(self._buffer)
        try:
            status = cursor.short()
            # Three digits, or it is no status line on the way out.
            if not 100 <= status <= 999:  # noqa: PLR2004
                raise WireError(f"the status {status}")
            message = cursor.text() or ""
            properties = read_properties(cursor)
            parts = cursor.short()
            if parts < 0:
                return self._begin_stream(cursor, WorkerReply(status, message, properties, ()))
            content = read_content(cursor, parts)
        except IncompleteError as error:
            self._needed = error.needed
            return None
        except UnicodeDecodeError as error:
            raise WireError("a text that is not UTF-8") from error
        self._drop(cursor.position)
        return WorkerReply(status, message, properties, content)

    def _begin_stream(self, cursor: Cursor, head: WorkerReply) -> WorkerReply:
        more, chunk = _chunk(cursor)
        if not more:
            self._drop(cursor.position)
            return head._replace(content=((None, chunk),))
        del self._buffer[: cursor.position]
        self._needed = 0
        self._stream = stream = ReplyStream()
        stream.add(chunk)
        self._read_chunks(stream)
        return head._replace(stream=stream)

    def _read_chunks(self, stream: ReplyStream) -> None:
        cursor = Cursor(self._buffer)
        done = 0
        try:
            while True:
                more, chunk = _chunk(cursor)
                done = cursor.position
                stream.add(chunk)
                if not more:
                    break
        except IncompleteError:
            del self._buffer[:done]
            return
        self._stream = None
        stream.end()
        self._drop(done)

    def _drop(self, position: int) -> None:
        del self._buffer[:position]
        self._needed = 0


def _chunk(cursor: Cursor) -> tuple[bool, bytes]:
    more = cursor.raw(1) != b"\0"
    return more, cursor.raw(max(0, cursor.integer()))
