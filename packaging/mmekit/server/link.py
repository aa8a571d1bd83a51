"""The connection to one worker: a request, then its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mmekit_runtime.wire import Answer, AnswerReader, WireError

if TYPE_CHECKING:
    from collections.abc import Callable


class WorkerFailure(Exception):  # noqa: N818
    """A worker died, ran out of time or broke the protocol; the text says which."""


class Link(asyncio.Protocol):
    """A connection that carries one request at a time.

    Parameters
    ----------
    on_failure
        Called once, when the connection ends or can no longer be trusted.
    """

    def __init__(self, on_failure: Callable[[WorkerFailure], None]) -> None:
        self._on_failure = on_failure
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False

    def ask(self, request: bytes, timeout_s: float) -> asyncio.Future[Answer]:
        """Send a request; the future has the answer, or fails with `WorkerFailure`."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Answer] = loop.create_future()
        if self._transport is None or self._transport.is_closing():
            waiter.set_exception(WorkerFailure("Failed to send data to python."))
            return waiter
        self._waiter = waiter
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
        """Gather an answer and hand it to whoever waits."""
        try:
            answer = self._reader.feed(data)
        except WireError as error:
            self._fail(WorkerFailure(f"the worker answered garbage: {error}"))
            return
        if answer is None:
            return
        waiter = self._take_waiter()
        if waiter is None:
            self._fail(WorkerFailure("the worker answered without having been asked"))
        elif not waiter.done():
            waiter.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Treat the end of the connection as the end of the worker."""
        self._fail(WorkerFailure("java.io.IOException: Python worker disconnected."))

    def _time_out(self) -> None:
        self._fail(WorkerFailure("java.util.concurrent.TimeoutException"))

    def _take_waiter(self) -> asyncio.Future[Answer] | None:
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
