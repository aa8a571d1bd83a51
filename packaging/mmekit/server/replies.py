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


class Stream:
    """The chunks of one answer; whoever iterates waits for those to come."""

    def __init__(self) -> None:
        self.ended = False
        self._chunks: deque[bytes] = deque()
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        self._on_end: Callable[[], object] | None = None

    def add(self, chunk: bytes) -> None:
        """Have one more chunk."""
        self._chunks.append(chunk)
        self._news.set()

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

    def __aiter__(self) -> Stream:
        """Iterate over the chunks."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk, waiting for it if need be."""
        while not self._chunks:
            if self.ended:
                if self._failure:
                    raise self._failure
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._chunks.popleft()


class Reply(NamedTuple):
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
    stream: Stream | None = None

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
        self._stream: Stream | None = None

    @property
    def stream(self) -> Stream | None:
        """The stream whose end has not come yet."""
        return self._stream

    def feed(self, data: bytes) -> Reply | None:
        """Take more bytes; return the reply when it is whole, or when a stream's first chunk is.

        A stream without any chunk is an empty reply, as DJL Serving has it.

        Raises
        ------
        WireError
            The bytes are no reply, or go on after its end: a worker has one request at a time.
        """
        self._buffer += data
        if self._stream is not None:
            self._read_chunks(self._stream)
            return None
        if len(self._buffer) < self._needed:
            return None
        cursor = Cursor(self._buffer)
        try:
            status = cursor.short()
            if not 100 <= status <= 999:  # noqa: PLR2004
                raise WireError(f"the status {status}")
            message = cursor.text() or ""
            properties = read_properties(cursor)
            parts = cursor.short()
            if parts < 0:
                return self._begin_stream(cursor, Reply(status, message, properties, ()))
            content = read_content(cursor, parts)
        except IncompleteError as error:
            self._needed = error.needed
            return None
        except UnicodeDecodeError as error:
            raise WireError("a text that is not UTF-8") from error
        self._drop(cursor.position)
        return Reply(status, message, properties, content)

    def _begin_stream(self, cursor: Cursor, head: Reply) -> Reply:
        more, chunk = _chunk(cursor)
        if not more:
            self._drop(cursor.position)
            return head._replace(content=((None, chunk),))
        del self._buffer[: cursor.position]
        self._needed = 0
        self._stream = stream = Stream()
        stream.add(chunk)
        self._read_chunks(stream)
        return head._replace(stream=stream)

    def _read_chunks(self, stream: Stream) -> None:
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
        surplus = len(self._buffer) - position
        if surplus:
            raise WireError(f"{surplus} bytes after the end of the answer")
        self._buffer.clear()
        self._needed = 0


def _chunk(cursor: Cursor) -> tuple[bool, bytes]:
    more = cursor.raw(1) != b"\0"
    return more, cursor.raw(max(0, cursor.integer()))
