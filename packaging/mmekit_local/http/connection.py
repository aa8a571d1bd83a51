"""One client's connection, with the manners of DJL Serving's Netty.

Headers keep their spelling, because handlers see them; a response has the reason phrase that the
handler chose; a body that is too large is refused before it is read; who offers another protocol
(RFC 9110, 7.8) is answered in this one. Source: ServerInitializer (HttpServerCodec and
HttpObjectAggregator with their defaults) and NettyUtils of DJL Serving 0.36.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

import httptools

from mmekit_local.http.incoming import Body, IncomingRequest
from mmekit_local.http.messages import HeadError, HttpRequest, aggregated
from mmekit_local.http.outgoing import ONE_WRITE, ResponseWriter, close_stream

if TYPE_CHECKING:
    from mmekit_local.http.messages import HttpLimits, HttpResponse, RawHeaders, Responder
    from mmekit_local.http.policy import OriginPolicy

_logger = logging.getLogger("mmekit.http")

_ERRORS = 400
_BODILESS = frozenset({204, 304})
_LINGER_S = 2.0
_WAITING = 16
"""Pipelined requests that may wait behind the one that is being answered."""


class Acceptor(Protocol):
    """What a connection needs of the server that has accepted it."""

    @property
    def responder(self) -> Responder:
        """Who answers."""

    @property
    def limits(self) -> HttpLimits:
        """What the client may do."""

    @property
    def policy(self) -> OriginPolicy:
        """Whose requests are answered."""

    @property
    def closing(self) -> bool:
        """Whether connections are to end as soon as nothing is under way on them."""

    def add(self, connection: HttpConnection) -> None:
        """Count a connection that has been made."""

    def discard(self, connection: HttpConnection) -> None:
        """Forget one that has ended."""


class HttpConnection(asyncio.Protocol):
    """One client's connection: requests are answered one after the other, in their order."""

    def __init__(self, server: Acceptor) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[HttpRequest] = deque()
        self._current: HttpRequest | None = None
        self._task: asyncio.Task[None] | None = None
        # Of the request that is being read.
        self._reading = False
        self._incoming = IncomingRequest(self._limits.body_bytes)
        self._overhead = 0
        self._overhead_of_next = 0
        self._upgrade_offered = False
        self._kept_headers: RawHeaders | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Of the connection.
        self._input_ended = False
        self._last = False
        self._out: ResponseWriter | None = None
        self.idle_since = self._loop.time()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]
        self._out = ResponseWriter(transport, self._limits.stall_s)  # type: ignore[arg-type]
        self._server.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse; whole requests are answered."""
        if self._input_ended:
            return
        # What comes and is no body counts as overhead: whoever sends only that would pass no limit.
        # Where in a piece a request begins is known only when it is the first of that piece.
        self._overhead_of_next = 0 if self._reading else len(data)
        self._overhead += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            if not self._input_ended:
                self._refuse(400, "Invalid HTTP message.")
            return
        limits = self._limits
        if not self._reading or self._input_ended:
            return
        # A head, or what comes beside the body: sizes of chunks, what extends them, trailers.
        # With the ends of its lines it is longer than what counts.
        if self._overhead > limits.line_bytes + 2 * limits.head_bytes:
            self._refuse(400, "Invalid HTTP message.")
        elif self._timer is None:
            self._timer = self._loop.call_later(limits.request_s, self._out_of_time)

    def _feed(self, data: bytes) -> None:
        """Parse, and read on where the parser takes an offer of another protocol for its end."""
        rest = memoryview(data)
        while True:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                if self._input_ended:
                    return
                rest = rest[offer.args[0] :]
                self._read_again()
            else:
                return

    def _read_again(self) -> None:
        """Read a head anew without its offer, as that of a request with a body."""
        method, version = self._parser.get_method(), self._parser.get_http_version()
        head = self._incoming.head_without_offer(method, version)
        # Whoever answers sees the headers as they came.
        self._kept_headers = self._incoming.headers
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(head)

    def eof_received(self) -> None:
        """Treat a half-closed connection as closed, as DJL Serving does."""
        # asyncio closes the transport of a protocol that returns nothing here.

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell whoever answers that nobody waits any more."""
        assert self._out  # noqa: S101
        self._input_ended = True
        self._server.discard(self)
        self._out.lose()
        self._stop_timer()
        self._waiting.clear()
        if self._current and self._current.if_gone:
            self._current.if_gone()
        # A load goes on without its client, and what can be given up has `if_gone`.
        if self._out.streaming and self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Wait for a client that does not read."""
        assert self._out  # noqa: S101
        self._out.pause()

    def resume_writing(self) -> None:
        """Go on."""
        assert self._out  # noqa: S101
        self._out.resume()

    # What the server calls.

    def finish(self) -> None:
        """End once what is under way is answered; at once when nothing is."""
        self._end_if_done()

    def end_if_idle(self, since: float) -> None:
        """End when there was no request since a moment of the loop's clock."""
        if self.is_idle and self.idle_since < since:
            self._close()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read or answered."""
        return self._current is None and not self._reading

    @property
    def is_unasked(self) -> bool:
        """Whether no request is being answered; one may be on its way."""
        return self._current is None

    def refuse(self, status: int, message: str) -> None:
        """Answer before anything was asked, and end."""
        self._refuse(status, message)

    def abort(self) -> None:
        """End now."""
        if self._transport:
            self._transport.abort()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Forget the request before."""
        self._reading = True
        self._overhead, self._overhead_of_next = self._overhead_of_next, 0
        self._incoming = IncomingRequest(self._limits.body_bytes)

    def on_url(self, url: bytes) -> None:
        """Gather the target."""
        self._incoming.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Gather a header; trailers are not wanted, and no longer than headers may be."""
        incoming = self._incoming
        if not incoming.head_done:
            # Blanks around a value are no part of it (RFC 9110, 5.5); the parser leaves the last.
            incoming.headers.append((name, value.rstrip(b" \t")))
            return
        incoming.tail_bytes += len(name) + len(value) + 2
        if incoming.tail_bytes > self._limits.head_bytes and not self._input_ended:
            self._refuse(400, "Invalid HTTP message.")

    def on_headers_complete(self) -> None:
        """Refuse what the policy or a limit forbids, before any of the body is read."""
        incoming, method = self._incoming, self._parser.get_method()
        incoming.head_done = True
        self._upgrade_offered = self._parser.should_upgrade()
        if self._input_ended or (self._upgrade_offered and method != b"CONNECT"):
            return  # it is read again
        if self._kept_headers is not None:
            incoming.headers, self._kept_headers = self._kept_headers, None
        limits = self._limits
        # Netty counts the line without its end, and the headers without theirs.
        line = len(incoming.url) + len(method) + len("  HTTP/1.1")
        if line > limits.line_bytes or incoming.head_bytes > limits.head_bytes:
            self._refuse(400, "Invalid HTTP message.")
            return
        rejection = self._server.policy.rejection(method, incoming.url, incoming.headers)
        if rejection is not None:
            self._refuse(*rejection)
            return
        if self._upgrade_offered:
            self._refuse(405, "No connection leads on from here.")
            return
        expected, length = incoming.announced()
        too_large = length.isdigit() and self._is_too_large(int(length))
        if expected and expected != b"100-continue":
            self._refuse(417, "")
        elif too_large and expected:
            self._refuse(413, "")
        elif too_large:
            self._refuse_body()
        elif expected and self._parser.get_http_version() != "1.0":
            # Not to HTTP/1.0, which knows no answer in between (RFC 9110, 10.1.1).
            incoming.awaits = True
            self._let_send()

    def on_body(self, body: bytes) -> None:
        """Gather the body."""
        # Chunks may be of any size: what stands between them counts until the next byte of body.
        self._overhead = 0
        incoming = self._incoming
        if incoming.refused or self._input_ended:
            return
        incoming.awaits = False
        size = incoming.body.size + len(body)
        if size > incoming.largest and self._is_too_large(size):
            self._refuse_body()
        else:
            incoming.body.add(body)

    def on_message_complete(self) -> None:
        """Answer the request, or let it wait for those before it."""
        # The parser takes an offer for the end: the message is whole when it has been read again.
        if self._upgrade_offered and not self._input_ended:
            return
        self._reading = False
        self._stop_timer()
        if self._input_ended:
            return
        keep_alive = self._parser.should_keep_alive()
        incoming = self._incoming
        incoming.awaits = False
        if incoming.refused:
            if keep_alive:
                self._end_if_done()
            else:
                self._close()
            return
        if not keep_alive:
            self._input_ended = True
        headers = incoming.headers
        request = HttpRequest(
            self._parser.get_method().decode("latin-1"),
            incoming.url.decode("latin-1"),
            aggregated(headers, incoming.body.size) if incoming.coded else headers,
            incoming.body.take(),
            keep_alive,
        )
        if self._current is None:
            self._start(request)
        else:
            self._waiting.append(request)
            if len(self._waiting) == _WAITING and self._transport:
                # Each of these has its body in memory: what else comes stays in the kernel.
                self._transport.pause_reading()

    def _let_send(self) -> None:
        """Tell a client that waits for it to send its body, unless others have their turn first."""
        if self._incoming.awaits and self._current is None and self._transport:
            self._incoming.awaits = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # Answering.

    def _start(self, request: HttpRequest) -> None:
        self._current = request
        self._task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: HttpRequest) -> None:
        """Answer a request; whatever goes wrong, its client and its stream wait for nothing."""
        response: HttpResponse | None = None
        try:
            response = await self._server.responder.answer(request)
            request.if_gone = None
            await self._give(request, response)
        except Exception:
            _logger.exception("%s %s has no answer", request.method, request.target)
            self.abort()
        finally:
            if response is not None and response.stream is not None:
                await close_stream(response.stream)

    async def _give(self, request: HttpRequest, response: HttpResponse) -> None:
        out = self._out
        assert out  # noqa: S101
        if out.lost:
            return
        stays = request.keep_alive and (response.status < _ERRORS or not self._limits.errors_end)
        if self._last or self._server.closing:
            # Those that were heard before still have their answers.
            stays = stays and bool(self._waiting)
        try:
            await self._send(request, response, stays=stays)
        except HeadError as error:
            stays = False
            await self._send(request, self._instead_of(error), stays=stays)
        # The next answer waits until the client has read most of this one.
        await out.drained()
        self._current = None
        if out.lost:
            return
        if not stays:
            self._close()
        elif self._waiting:
            self._start(self._waiting.popleft())
            if len(self._waiting) == _WAITING - 1 and self._transport:
                self._transport.resume_reading()
        else:
            self.idle_since = self._loop.time()
            self._let_send()
            self._end_if_done()  # the server may have begun to close in the meantime

    async def _send(self, request: HttpRequest, response: HttpResponse, *, stays: bool) -> None:
        """Send an answer; `HeadError` comes before anything of it is sent."""
        out = self._out
        assert out  # noqa: S101
        bodiless = request.method == "HEAD" or response.status in _BODILESS
        body = b"" if bodiless else response.body
        if len(body) <= ONE_WRITE:
            out.begin(response, stays=stays, body=body)
        else:
            out.begin(response, stays=stays, body=b"")
            await out.large(body)
        if response.stream is not None:
            await out.stream(response.stream, framed=request.method != "HEAD")

    def _instead_of(self, error: HeadError) -> HttpResponse:
        """Return what is said instead of an answer that is none."""
        _logger.error("an answer cannot be sent: %s", error)
        return self._server.responder.refuse(500, f"The answer cannot be sent: {error}.")

    # Refusing.

    def _is_too_large(self, size: int) -> bool:
        largest = self._server.responder.largest_body
        if size > self._limits.body_bytes and largest is not None:
            method = self._parser.get_method().decode("latin-1")
            self._incoming.largest = largest(method, self._incoming.url.decode("latin-1"))
        return size > self._incoming.largest

    def _refuse_body(self) -> None:
        """Say 413, and let the rest of the body pass: the connection can be used afterwards."""
        self._incoming.refused = True
        self._incoming.body = Body()
        if self._current is None and self._out:
            response = self._server.responder.refuse(413, "")
            stays = bool(self._parser.should_keep_alive())
            self._out.begin(response, stays=stays, body=response.body)
        else:
            # Its turn has not come: a refusal has no place among those that wait.
            self._refuse(413, "")

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request and hear no more."""
        self._input_ended = self._last = True
        self._reading = False
        self._stop_timer()
        if self._current is not None or self._out is None:
            # The answers before this one go out, and the connection ends after them.
            return
        if not self._incoming.refused:  # else it has had its answer, before its body came
            response = self._server.responder.refuse(status, message)
            self._out.begin(response, stays=False, body=response.body)
        self._linger()

    def _out_of_time(self) -> None:
        self._timer = None
        self._refuse(408, f"The request was not whole within {self._limits.request_s:g} s.")

    # Ending.

    def _linger(self) -> None:
        """Close, after the client had time to read the answer.

        Closing a socket with unread input resets the connection, and the answer may be lost.
        """
        assert self._transport  # noqa: S101
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._loop.call_later(_LINGER_S, self._transport.abort)
        else:
            self._transport.close()

    def _end_if_done(self) -> None:
        if self._server.closing and self._current is None and not self._reading:
            self._close()

    def _close(self) -> None:
        self._input_ended = True
        if self._transport:
            self._transport.close()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
