"""The connection to one worker: requests, and their replies in the same order."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from mmekit_local.server.replies import ReplyReader, ReplyStream, WorkerReply
from mmekit_runtime.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

_UNSENT = "Failed to send data to python."
_LOST = "java.io.IOException: Python worker disconnected."
_UNASKED = "the worker answered without having been asked"


class WorkerFailure(Exception):  # noqa: N818
    """A worker died, ran out of time or broke the protocol; the text says which."""


class NeverBegun(WorkerFailure):
    """A worker failed over an earlier request: this one lay in its socket, unread."""


class StreamUnwanted(WorkerFailure):
    """A worker goes on with a stream that nobody reads any more."""

    def __init__(self) -> None:
        super().__init__("nobody reads its stream any more")


class ModelGivenUp(WorkerFailure):
    """The model's processes die again and again: there shall be no further worker."""


class NoDescriptors(WorkerFailure):
    """The server has too many open files to start a worker now; it may have fewer later."""

    def __init__(self) -> None:
        super().__init__("Too many open files")


class WorkerConnection(asyncio.Protocol):
    """A connection to a worker that takes one request after the other.

    A request may be sent ahead while the worker is busy with another: it lies in the socket, and
    the worker has not to wait until this process is awake and has written it.

    Parameters
    ----------
    on_failure
        Called once, when the connection ends or can no longer be trusted; returns what those who
        wait are told, who may know more.
    time_left
        Called when nothing has come for the time that a reply may take, with that time and the
        moment, by the monotonic clock, from which it was counted: how many seconds to wait on. It
        may raise `WorkerFailure`.
    drain_s
        The seconds for which a stream may go on that nobody reads any more; None for as many as
        its first chunk was given.
    """

    def __init__(
        self,
        on_failure: Callable[[WorkerFailure], WorkerFailure],
        time_left: Callable[[float, float], float] = lambda _timeout_s, _since: 0.0,
        drain_s: float | None = None,
    ) -> None:
        self._on_failure = on_failure
        self._time_left = time_left
        self._drain_s = drain_s
        self._draining: ReplyStream | None = None
        self._reader = ReplyReader()
        self._transport: asyncio.Transport | None = None
        self._waiters: deque[tuple[asyncio.Future[WorkerReply], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_s = 0.0
        self._since = 0.0
        self._failed = False

    def ask(self, request: bytes, timeout_s: float) -> asyncio.Future[WorkerReply]:
        """Send a request; the future has the reply, or fails with `WorkerFailure`.

        The time is that until the reply, and until each chunk of a stream. It begins when the
        request before is answered, or when ``time_left`` says that it does. One that never had its
        turn fails with `NeverBegun`.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[WorkerReply] = loop.create_future()
        failure = self._write(waiter, request, timeout_s)
        if failure is not None:
            # Those before have been written: they may have begun.
            self._fail(failure)
            if not waiter.done():
                waiter.set_exception(NeverBegun(_UNSENT))
        return waiter

    def _write(
        self, waiter: asyncio.Future[WorkerReply], request: bytes, timeout_s: float
    ) -> WorkerFailure | None:
        """Write a request; return why it cannot be, which is the end of the worker."""
        if self._transport is None or self._transport.is_closing():
            return WorkerFailure(_LOST)
        try:
            self._waiters.append((waiter, timeout_s))
            if len(self._waiters) == 1 and self._reader.stream is None:
                self._wait_for_reply()
            self._transport.write(request)
        except Exception as error:  # noqa: BLE001  how much of it the worker has, nobody knows
            return WorkerFailure(f"{_UNSENT} {type(error).__name__}: {error}")
        return None

    @property
    def has_failed(self) -> bool:
        """Whether the connection has ended, or cannot be trusted."""
        return self._failed

    def close(self) -> None:
        """End the connection; who still waits is told that the worker is gone."""
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Gather replies and hand them to those that wait."""
        # A reply has one time for all of its pieces, a stream one for each.
        moved = self._reader.stream is not None
        while True:
            try:
                reply = self._reader.feed(data)
            except WireError as error:
                self._fail(WorkerFailure(f"the worker answered garbage: {error}"))
                return
            if reply is None:
                break
            if not self._waiters:
                self._fail(WorkerFailure(_UNASKED))
                return
            waiter, self._timeout_s = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(reply)
            data, moved = b"", True
        # Kept, they would be taken for the answer to whoever asks next.
        if self._reader.surplus and not self._waiters:
            self._fail(WorkerFailure(_UNASKED))
        elif moved:
            self._wait_for_reply()
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        """Read no more of a stream than its client does; the worker is not to blame meanwhile."""
        stream, transport = self._reader.stream, self._transport
        if stream is not None and stream.is_full and transport and not transport.is_closing():
            transport.pause_reading()
            self._stop_timer()
            stream.when_there_is_room(self._read_on)

    def _read_on(self) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.resume_reading()
            self._wait_for_reply()

    def _wait_for_reply(self) -> None:
        """Set the timer anew: for the next chunk, or for the next reply."""
        stream = self._reader.stream
        if stream is not None and stream.is_abandoned:
            # Once for all that is left: each chunk would give an endless stream its time anew.
            if self._draining is not stream:
                self._draining = stream
                self._stop_timer()
                self._set_timer(self._timeout_s if self._drain_s is None else self._drain_s)
            return
        self._stop_timer()
        if stream is None:
            if not self._waiters:
                return
            self._timeout_s = self._waiters[0][1]
        self._since = time.monotonic()
        self._set_timer(self._timeout_s)

    def _set_timer(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_out)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Treat the end of the connection as the end of the worker."""
        self._fail(WorkerFailure(_LOST))

    def _time_out(self) -> None:
        if self._draining is not None and self._draining is self._reader.stream:
            self._fail(StreamUnwanted())
            return
        try:
            left = self._time_left(self._timeout_s, self._since)
        except WorkerFailure as failure:
            self._fail(failure)
            return
        except Exception as error:  # noqa: BLE001  whatever it was, nobody waits for ever
            self._fail(WorkerFailure(f"{type(error).__name__}: {error}"))
            return
        if left > 0:
            self._set_timer(left)
            return
        self._fail(WorkerFailure("java.util.concurrent.TimeoutException"))

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _fail(self, failure: WorkerFailure) -> None:
        self._stop_timer()
        # The worker has to be known as dead before whoever waits hears of it.
        if not self._failed:
            self._failed = True
            failure = self._on_failure(failure)
        # While a stream is on its way, the next one has not had its turn.
        begun = self._reader.stream is None
        while self._waiters:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(failure if begun else NeverBegun(str(failure)))
            begun = False
        if self._transport and not self._transport.is_closing():
            self._transport.abort()
        if self._reader.stream is not None:
            self._reader.stream.end(failure)
