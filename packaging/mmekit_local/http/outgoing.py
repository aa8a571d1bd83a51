"""What goes out on a connection, no faster than its client reads."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mmekit_local.http.messages import lines_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mmekit_local.http.messages import HttpResponse

__all__ = ["ONE_WRITE", "ResponseWriter", "close_stream"]

_logger = logging.getLogger("mmekit.http")

ONE_WRITE = 64 << 10
"""Bodies up to this size go out with their head; larger ones are not copied."""
_SLICE = 1 << 20
"""Larger bodies go out slice by slice, so that a client which reads slowly, but does, may."""


class ResponseWriter:
    """Writes the responses of one connection.

    Parameters
    ----------
    transport
        Of the connection.
    stall_s
        How long its client may read nothing of an answer; then the connection is aborted.

    Attributes
    ----------
    lost
        Whether the client has gone.
    streaming
        Whether a stream is going out now.
    """

    def __init__(self, transport: asyncio.Transport, stall_s: float) -> None:
        self.lost = False
        self.streaming = False
        self._transport = transport
        self._stall_s = stall_s
        self._writable = asyncio.Event()
        self._writable.set()
        self._stall: asyncio.TimerHandle | None = None

    def pause(self) -> None:
        """Wait for a client that does not read, but not for ever."""
        self._writable.clear()
        loop = asyncio.get_running_loop()
        self._stall = loop.call_later(self._stall_s, self._stalled)

    def resume(self) -> None:
        """Go on."""
        if self._stall:
            self._stall.cancel()
            self._stall = None
        self._writable.set()

    def lose(self) -> None:
        """Let go of whoever waits for the client."""
        self.lost = True
        self.resume()

    async def drained(self) -> None:
        """Return when the client has read most of what went out, or has gone."""
        if not self._writable.is_set():
            await self._writable.wait()

    def begin(self, response: HttpResponse, *, stays: bool, body: bytes) -> None:
        """Write a head, and as much of the body as goes out with it.

        Raises
        ------
        HeadError
            A header is none; nothing is written.
        """
        head = f"HTTP/1.1 {response.status} {response.reason}\r\n"
        for name, value in response.headers:
            head += f"{name}: {value}\r\n"
        lines = len(response.headers) + 3  # the first, how it stays, and the empty one
        if response.stream is not None:
            head += "transfer-encoding: chunked\r\n"
            lines += 1
        elif response.status != 204:  # noqa: PLR2004  which has neither body nor length
            length = len(response.body) if response.length is None else response.length
            head += f"content-length: {length}\r\n"
            lines += 1
        head += "connection: keep-alive\r\n\r\n" if stays else "connection: close\r\n\r\n"
        self._transport.write(lines_of(head.encode("latin-1", "replace"), lines) + body)

    async def large(self, body: bytes) -> None:
        """Write a body that does not go out with its head."""
        view = memoryview(body)
        for start in range(0, len(body), _SLICE):
            if self.lost:
                return
            self._transport.write(view[start : start + _SLICE])
            await self._writable.wait()

    async def stream(self, stream: AsyncIterator[bytes], *, framed: bool) -> None:
        """Write a stream's chunks as they come, and close it; one that fails ends the connection.

        Parameters
        ----------
        framed
            Whether they go out at all: in an answer to HEAD they do not.
        """
        self.streaming = True
        try:
            async for chunk in stream:
                if self.lost:
                    return
                if chunk and framed:
                    self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await self._writable.wait()
        except Exception as error:  # noqa: BLE001  whatever it was, the answer cannot be finished
            _logger.warning("a stream ended before its end: %s", error)
            # The status has gone out: only a last chunk that never comes tells the client.
            self._transport.abort()
            return
        finally:
            self.streaming = False
            await close_stream(stream)
        if framed and not self.lost:
            self._transport.write(b"0\r\n\r\n")

    def _stalled(self) -> None:
        _logger.warning("a client read nothing of its answer for %g s", self._stall_s)
        self._transport.abort()


async def close_stream(stream: AsyncIterator[bytes]) -> None:
    """Tell whoever makes a stream that nobody reads it any more, if it wants to know."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
