"""HTTP to one container: kept-alive connections, httptools, no framework.

This is the hot path's second half. A connection is an `asyncio.Protocol`; a call writes one
buffer and waits for one future.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import httptools

from mmekit_local.http import Body, lines_of
from mmekit_local.sagemaker.instances.pieces import Pieces, StreamedReply
from mmekit_local.sagemaker.snapshot import ParkingSnapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

__all__ = [
    "ContainerAbsentError",
    "ContainerClient",
    "ContainerModel",
    "ContainerReply",
    "ContainerSilentError",
    "ContainerTimeoutError",
]

logger = logging.getLogger("mmekit.endpoint")

_SPELLED = {
    name.lower(): name
    for name in (
        b"Content-Type",
        b"Accept",
        b"X-Amzn-SageMaker-Custom-Attributes",
        b"X-Amzn-SageMaker-Inference-Id",
        b"X-Amzn-SageMaker-Target-Model",
    )
}
"""Headers as SageMaker spells them: a handler on Multi Model Server finds them by these names."""

_BODYLESS = (204, 304)
_FINAL = 200
"""Below are answers that announce another."""
_KEPT_SECONDS = 3.0
"""A connection that was idle for longer is not used again: servers close idle ones (uvicorn after
5 s), and a request that meets the end of its connection may have run or not."""
_PAGE_SECONDS = 2.0


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


@dataclass(frozen=True)
class ContainerModel:
    """What a container tells about a model; None where it does not tell.

    AWS's contract promises a name and a URL. DJL Serving adds a status and its workers, and the
    embedded server the memory of its processes and whether it is parked.
    """

    status: str | None = None
    workers: int | None = None
    memory_bytes: int | None = None
    parking: ParkingSnapshot | None = None

    @property
    def is_broken(self) -> bool:
        """Whether it will not answer again before it is loaded anew."""
        return self.status == "FAILED" or self.workers == 0


class ContainerClient:
    """Speaks the container contract of SageMaker multi-model endpoints.

    Source: AWS's "Build your own container for SageMaker AI multi-model endpoints".
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._common = f" HTTP/1.1\r\nHost: {host}:{port}\r\n".encode()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._loop = asyncio.get_running_loop()
        self.answers = 0
        """How many answers there have been."""

    async def is_healthy(self, seconds: float) -> bool:
        """Ask /ping; False when the container is not there, is silent or says it is not well."""
        try:
            reply = await self._call(b"GET /ping" + self._common + b"\r\n", b"", seconds)
        except (ContainerSilentError, ContainerTimeoutError) as error:
            # That this process has no descriptor left says nothing about the container.
            return getattr(error.__cause__, "errno", None) in (errno.EMFILE, errno.ENFILE)
        return reply.status == 200  # noqa: PLR2004 - the contract says 200 and nothing else

    async def load(self, name: str, folder: str, seconds: float) -> ContainerReply:
        """Ask the container to load a model from a folder."""
        body = json.dumps({"model_name": name, "url": folder}).encode()
        head = b"POST /models" + self._common + b"Content-Type: application/json\r\n"
        return await self._call(_sized(head, body), body, seconds)

    async def unload(self, name: str, seconds: float) -> ContainerReply:
        """Ask the container to unload a model and to free its memory."""
        head = b"DELETE /models/" + quote(name, safe="").encode() + self._common
        return await self._call(head + b"\r\n", b"", seconds)

    async def describe(self, name: str, seconds: float) -> ContainerModel | None:
        """Ask the container about a model; None when it has none of that name."""
        head = b"GET /models/" + quote(name, safe="").encode() + self._common
        reply = await self._call(head + b"\r\n", b"", seconds)
        return None if reply.status == 404 else _described(reply.body)  # noqa: PLR2004

    async def failed_models(self) -> list[str]:
        """Return the names of the models that the container lists as failed.

        Source: GET /models of DJL Serving 0.36, whose /ping answers 500 while there is one.
        """
        names: list[str] = []
        query = ""
        while True:
            head = f"GET /models{query}".encode() + self._common + b"\r\n"
            page = _json_object((await self._call(head, b"", _PAGE_SECONDS)).body)
            models = page.get("models") or []
            names += [
                str(model["modelName"])
                for model in models
                if isinstance(model, dict) and model.get("status") == "FAILED"
            ]
            if not page.get("nextPageToken"):
                return names
            query = f"?next_page_token={quote(str(page['nextPageToken']), safe='')}"

    def only_invocation(self) -> bytes:
        """Return the unchanging beginning of every invocation of a single-model container."""
        return b"POST /invocations" + self._common

    def invocation(self, name: str, target: str) -> bytes:
        """Return the unchanging beginning of every invocation of a model.

        Raises
        ------
        HeadError
            The target cannot be a header's value.
        """
        path = b"POST /models/" + quote(name, safe="").encode() + b"/invoke"
        header = b"X-Amzn-SageMaker-Target-Model: " + target.encode("latin-1", "replace")
        return path + self._common + lines_of(header + b"\r\n", 1)

    async def invoke(
        self,
        invocation: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        seconds: float,
    ) -> ContainerReply:
        """Send a request to a model.

        Parameters
        ----------
        invocation
            From `invocation`.
        headers
            What else to forward. Few: in DJL's engine every header costs microseconds.
        body
            The request's body.
        seconds
            How long the answer may take.

        Raises
        ------
        HeadError
            One of the headers has more than a line; nothing is sent.
        """
        head = _sized(invocation + _lines(headers), body)
        return await self._call(head, body, seconds)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        invocation: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        seconds: float,
        whole_seconds: float,
    ) -> AsyncIterator[StreamedReply]:
        """Send a request to a model, and have the answer as it comes for the block.

        Parameters
        ----------
        invocation, headers, body
            As for `invoke`.
        seconds
            How long the answer may take to begin.
        whole_seconds
            How long it may take to end.

        Raises
        ------
        ContainerSilentError
            The container is not there, or its connection closed before it had answered.
        ContainerTimeoutError
            It did not answer in time.
        HeadError
            One of the headers has more than a line; nothing is sent.
        """
        head = _sized(invocation + _lines(headers), body)
        connection = self._kept() or await self._connect()
        began = self._loop.time()
        reply_at = connection.send_for_pieces(head, body)
        expiry = self._loop.call_later(seconds, connection.expire)
        try:
            reply = await reply_at
            expiry.cancel()
            left = max(began + whole_seconds - self._loop.time(), 0.0)
            expiry = self._loop.call_later(left, connection.expire)
            yield reply
        finally:
            expiry.cancel()
            self._give_back(connection)

    def close(self) -> None:
        """Close every connection; calls that still wait raise `ContainerSilentError`."""
        for connection in tuple(self._open):
            connection.abort()

    async def _call(self, head: bytes, body: bytes, seconds: float) -> ContainerReply:
        connection = self._kept() or await self._connect()
        answer = connection.send(head, body)
        expiry = self._loop.call_later(seconds, connection.expire)
        try:
            reply = await answer
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            expiry.cancel()
        self._give_back(connection)
        return reply

    def _give_back(self, connection: _Connection) -> None:
        """Count an answer, and keep its connection for the next call where that can be."""
        self.answers += 1
        if connection.reusable:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        else:
            connection.abort()

    def _kept(self) -> _Connection | None:
        oldest = self._loop.time() - _KEPT_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and connection.idle_since >= oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        try:
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self._loop, self._open), self._host, self._port
            )
        except OSError as error:
            raise ContainerAbsentError(f"no connection: {error.strerror or error}") from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, register: set[_Connection]) -> None:
        self._loop = loop
        self._register = register
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[ContainerReply] | None = None
        self._pieces: Pieces | None = None
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
        return self._transport is not None and not self._transport.is_closing()

    def send_for_pieces(self, head: bytes, body: bytes) -> asyncio.Future[StreamedReply]:
        """Send a request whose answer is wanted as it comes."""
        began: asyncio.Future[StreamedReply] = self._loop.create_future()
        self._head, self._pieces = began, Pieces(self._hold, self._go_on)
        self.send(head, body)
        return began

    def send(self, head: bytes, body: bytes) -> asyncio.Future[ContainerReply]:
        self.reusable = False
        self._answering = False
        self._answer = self._loop.create_future()
        if self._transport is None:
            self._fail(ContainerAbsentError("the connection closed at once"))
        else:
            self._transport.write(head + body)
        return self._answer

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass
        self._register.add(self)

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            self._end_unasked()
            return
        self._answering = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ContainerSilentError(f"the answer is not HTTP: {error}"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio gives it
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
        if self._is_answered:
            self._end_unasked()
        self._headers = {}
        self._body = Body()
        self._head_done = False
        self._ends_with_connection = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # trailers are not wanted
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._head_done = True
        status = self._parser.get_status_code()
        if self._head is not None and self._pieces is not None and status >= _FINAL:
            if not self._head.done():
                self._head.set_result(StreamedReply(status, self._headers, self._pieces))
            self._head = None
        self._ends_with_connection = (
            b"content-length" not in self._headers
            and b"transfer-encoding" not in self._headers
            and self._parser.get_status_code() not in _BODYLESS
        )

    def on_body(self, body: bytes) -> None:
        if self._pieces is not None:
            self._pieces.add(body)
        else:
            self._body.add(body)

    def on_message_complete(self) -> None:
        self._ends_with_connection = False
        if self._is_answered or self._parser.get_status_code() < _FINAL:
            return
        self.reusable = self.is_open and self._parser.should_keep_alive()
        if self._answer is not None and not self._answer.done():
            pieces = self._body.take()
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            status = self._parser.get_status_code()
            self._answer.set_result(ContainerReply(status, self._headers, body))
        if self._pieces is not None:
            self._pieces.end()
            self._pieces = None

    @property
    def _is_answered(self) -> bool:
        return self._answer is None or self._answer.done()

    def _end_unasked(self) -> None:
        """Close: after bytes that nobody asked for, answers and requests no longer match."""
        logger.warning("a container sent what nobody asked for; its connection is closed")
        self.reusable = False
        self.abort()

    def expire(self) -> None:
        self._fail(ContainerTimeoutError("no answer in time"))
        self.abort()

    def _hold(self) -> None:
        """Take in nothing more for now: whoever reads the pieces is slower than they come."""
        if self._transport is not None:
            self._transport.pause_reading()

    def _go_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        if self._pieces is not None:
            pieces, self._pieces = self._pieces, None
            head, self._head = self._head, None
            if head is not None and not head.done():
                head.set_exception(error)
            pieces.fail(error)
            if self._answer is not None:
                self._answer.cancel()  # nobody waits for it
        elif self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    more = [b"%b: %b\r\n" % (_SPELLED.get(name, name), value) for name, value in headers]
    return lines_of(b"".join(more), len(more))


def _sized(head: bytes, body: bytes) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _described(body: bytes) -> ContainerModel:
    """Read GET /models/{name}: DJL Serving's array of workflows, or AWS's flat object."""
    try:
        content = json.loads(body)
        model = content[0]["models"][0] if isinstance(content, list) else content
        groups = model.get("workerGroups")
        processes = model.get("processes")
        return ContainerModel(
            model.get("status"),
            None if groups is None else sum(len(group["workers"]) for group in groups),
            None
            if processes is None
            else sum(process["proportional_bytes"] for process in processes),
            _parking(model.get("parking")),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return ContainerModel()


def _parking(told: dict[str, Any] | None) -> ParkingSnapshot | None:
    if told is None:
        return None
    since = told["since"]
    # Python 3.10 reads no Z.
    parked = None if since is None else datetime.fromisoformat(since.replace("Z", "+00:00"))
    return ParkingSnapshot(None if parked is None else parked.timestamp(), int(told["wakes"]))
