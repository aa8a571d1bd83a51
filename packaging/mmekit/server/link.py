"""The connection to one worker: a request, then its reply."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mmekit.server.replies import Reply, ReplyReader
from mmekit_runtime.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable


class WorkerFailure(Exception):  # noqa: N818
    """A worker died, ran out of time or broke the protocol; the text says which."""


class ModelGivenUp(WorkerFailure):
    """The model's processes die again and again: there shall be no further worker."""


class Link(asyncio.Protocol):
    """A connection that carries one request at a time.

    Parameters
    ----------
    on_failure
        Called once, when the connection ends or can no longer be trusted.
    """

    def __init__(self, on_failure: Callable[[WorkerFailure], None]) -> None:
        self._on_failure = on_failure
        self._reader = ReplyReader()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_s = 0.0
        self._failed = False

    def ask(self, request: bytes, timeout_s: float) -> asyncio.Future[Reply]:
        """Send a request; the future has the reply, or fails with `WorkerFailure`.

        The time is that until the reply, and until each chunk of a stream. Whoever gets a stream
        must not ask again before its end.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Reply] = loop.create_future()
        if self._transport is None or self._transport.is_closing():
            waiter.set_exception(WorkerFailure("Failed to send data to python."))
            return waiter
        self._waiter = waiter
        self._timeout_s = timeout_s
        self._timer = loop.call_later(timeout_s, self._time_out)
        self._transport.write(request)
        return waiter

    def close(self) -> None:
        """End the connection; who still waits is told that the worker is gone."""
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Gather a reply and hand it to whoever waits."""
        streamed = self._reader.stream
        try:
            reply = self._reader.feed(data)
        except WireError as error:
            self._fail(WorkerFailure(f"the worker answered garbage: {error}"))
            return
        if reply is not None:
            waiter = self._take_waiter()
            if waiter is None:
                self._fail(WorkerFailure("the worker answered without having been asked"))
                return
            if not waiter.done():
                waiter.set_result(reply)
        if self._reader.stream is not None or streamed is not None:
            self._wait_for_chunk()

    def _wait_for_chunk(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._reader.stream is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout_s, self._time_out)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Treat the end of the connection as the end of the worker."""
        self._fail(WorkerFailure("java.io.IOException: Python worker disconnected."))

    def _time_out(self) -> None:
        self._fail(WorkerFailure("java.util.concurrent.TimeoutException"))

    def _take_waiter(self) -> asyncio.Future[Reply] | None:
        waiter, self._waiter = self._waiter, None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        return waiter

    def _fail(self, failure: WorkerFailure) -> None:
        waiter = self._take_waiter()
        if waiter and not waiter.done():
            waiter.set_exception(failure)
        if self._transport and not self._transport.is_closing():
            self._transport.abort()
        if not self._failed:
            self._failed = True
            self._on_failure(failure)
        # The worker has to be known as dead before whoever waits for the stream's end hears of it.
        if self._reader.stream is not None:
            self._reader.stream.end(failure)
