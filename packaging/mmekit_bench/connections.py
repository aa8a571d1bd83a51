"""The connections of a load: raw HTTP, or boto3 in threads; each says when it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, cast

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit.settings import Settings
    from mmekit_bench.plan import Destination, LoadPlan
    from mmekit_bench.requests import RequestHeads

__all__ = [
    "ConnectionPool",
    "LoadConnection",
    "RawConnection",
    "ResponseListener",
    "error_kind",
    "runtime_client",
]

_SUCCESS = range(200, 300)
_KEPT = 4096  # bytes of an answer, of which an error's type is read
_SMALL = 1 << 16  # what is cheaper to copy than to send in two pieces

_PATIENCE_S = 10.0
_LONGEST_PAUSE_S = 1.0
_TOGETHER = 64  # connections opened at once: a server's queue of new ones is short

_AWS_TYPE = re.compile(rb"(?im)^x-amzn-errortype:\s*(\w+)")
_ORIGINAL = re.compile(rb'"OriginalStatusCode":\s*(\d+)')
_CONTAINER_TYPE = re.compile(rb'"type":\s*"(\w+)"')


class ResponseListener(Protocol):
    """Whoever decides what a connection does next."""

    def answered(self, connection: LoadConnection) -> None:
        """Take note of an answer; `LoadConnection.error` says whether it is one of success."""

    def lost(self, connection: LoadConnection, why: str) -> None:
        """Take note that a request will have no answer; the connection is closed."""


class LoadConnection(Protocol):
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

    number: int
    target: int
    due: float
    sent: float
    first: bool
    finished: float
    busy: bool
    error: str
    usable: bool
    stale: bool

    def send(self, target: int, due: float, *, first: bool) -> None:
        """Send a request; the connection has to be usable and not busy."""

    def abort(self) -> None:
        """Close it at once; a request under way is lost."""

    def give_up(self, why: str) -> None:
        """Close it; the request under way has no answer, and this is why."""


class RawConnection(asyncio.Protocol):
    """HTTP as it is on the wire.

    As little happens here as possible, because whatever happens is measured along.
    """

    def __init__(
        self, owner: ResponseListener, heads: RequestHeads, body: bytes, number: int
    ) -> None:
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
        self.begun = b""
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    def send(self, target: int, due: float, *, first: bool) -> None:
        """Send a request; the connection has to be usable and not busy."""
        self.target, self.due, self.first = target, due, first
        self.busy = True
        self.begun = b""
        transport = cast("asyncio.Transport", self._transport)
        head = self._heads[target]
        # Only now: a head that had to be signed first is the client's lateness, not the server's.
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
        # The transport says later that it is lost, and then finds no request under way.
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
        if len(self.begun) < _KEPT:
            self.begun += data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.give_up("no HTTP")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell the owner when a request was under way."""
        # A server may close a connection that it takes for idle while a request is on its way. On
        # one that has carried none, and in the middle of an answer, it is no such chance.
        self.stale = self._served > 0 and not self.begun
        self.give_up("connection closed in the middle" if self.begun else "connection closed")
        self._transport = None

    # httptools.HttpResponseParser

    def on_message_complete(self) -> None:
        """Hand the answer over."""
        # First of all: what follows is the client's time.
        self.finished = time.perf_counter()
        status = self._parser.get_status_code()
        self.error = "" if status in _SUCCESS else error_kind(status, self.begun)
        self._served += 1
        # Before the owner hears of it, who may send the next request over it.
        self.busy = False
        if not self._parser.should_keep_alive():
            self.usable = False
            cast("asyncio.Transport", self._transport).close()
        self._owner.answered(self)


class Boto3Connection:
    """A thread that makes signed boto3 calls: what a caller who uses boto3 gets.

    boto3 takes a millisecond of processor time a call, and Python's threads share one processor:
    for a fast server this measures boto3.

    Parameters
    ----------
    client
        Of boto3, which all connections share: it has a pool of its own.
    """

    def __init__(self, owner: ResponseListener, plan: LoadPlan, client: Any, number: int) -> None:
        self.number = number
        self.target = 0
        self.due = self.sent = self.finished = 0.0
        self.first = self.busy = self.stale = False
        self.usable = True
        self.error = ""
        self._owner = owner
        self._plan = plan
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def send(self, target: int, due: float, *, first: bool) -> None:
        """Have the thread call."""
        self.target, self.due, self.first = target, due, first
        self.busy = True
        self._calls.put(target)

    def abort(self) -> None:
        """Let the thread end; a call under way is botocore's, which gives it up in time."""
        self.usable = False
        self._calls.put(None)

    def give_up(self, why: str) -> None:
        """End it; the call under way has no answer, and this is why."""
        self.abort()
        if self.busy:
            self.busy = False
            self.finished = time.perf_counter()
            self._owner.lost(self, why)

    def _work(self) -> None:
        while (target := self._calls.get()) is not None:
            # Both moments are the thread's: the loop hears of them only when Python lets it run.
            sent = time.perf_counter()
            error = self._call(self._plan.targets[target])
            finished = time.perf_counter()
            with contextlib.suppress(RuntimeError):  # the load is over, and its loop closed
                self._loop.call_soon_threadsafe(self._answered, sent, finished, error)

    def _call(self, target: str) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        named = {"TargetModel": target} if target else {}
        try:
            answer = self._client.invoke_endpoint(
                EndpointName=self._plan.destination.endpoint,
                Body=self._plan.payload.body,
                ContentType=self._plan.payload.content_type,
                **named,
            )
            answer["Body"].read()
        except ClientError as refused:
            return client_error_kind(refused.response)
        except BotoCoreError as failed:
            return type(failed).__name__
        return ""

    def _answered(self, sent: float, finished: float, error: str) -> None:
        if self.busy:  # and not given up meanwhile
            self.sent, self.finished, self.error = sent, finished, error
            self.busy = False
            self._owner.answered(self)


class ConnectionPool:
    """The connections of a load: opened, opened anew when they break, closed at the end.

    Parameters
    ----------
    owner
        Whom the connections report to.
    """

    def __init__(self, plan: LoadPlan, heads: RequestHeads, owner: ResponseListener) -> None:
        self.connections: set[LoadConnection] = set()
        self._plan = plan
        self._heads = heads
        self._owner = owner
        self._context = _tls(plan.destination)
        self._client: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, count: int) -> list[LoadConnection]:
        """Open the first connections.

        Raises
        ------
        EndpointError
            Nobody answers.
        """
        opened: list[LoadConnection] = []
        try:
            if self._plan.client == "boto3":
                await self._see_that_somebody_is_there()
                self._client = runtime_client(
                    self._plan.destination.settings, count, self._plan.timeout
                )
            while len(opened) < count:
                some = range(len(opened), min(count, len(opened) + _TOGETHER))
                opened += await asyncio.gather(*(self._connect(number) for number in some))
        except (OSError, asyncio.TimeoutError) as error:
            raise self._plan.destination.unreachable(_reason(error)) from error
        return opened

    def reopen(
        self,
        number: int,
        ready: Callable[[LoadConnection], None],
        refused: Callable[[str], bool],
    ) -> None:
        """Open one in the background, as often as it takes.

        Parameters
        ----------
        ready
            Is told of the connection.
        refused
            Is told of every failure, and answers whether to go on trying.
        """
        task = asyncio.get_running_loop().create_task(self._reopen(number, ready, refused))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end_overdue(self) -> None:
        """Break connections whose answer takes longer than the plan allows."""
        if self._client is not None:  # botocore looks at the time itself
            return
        latest = time.perf_counter() - self._plan.timeout
        for connection in tuple(self.connections):
            if connection.busy and connection.sent < latest:
                connection.give_up(f"no answer in {self._plan.timeout:g} s")
            elif not connection.usable and not connection.busy:
                # Others have taken their place: with a server that closes each they would pile up.
                self.connections.discard(connection)

    def close(self) -> None:
        """Close all of them and open no more."""
        for task in self._tasks:
            task.cancel()
        for connection in self.connections:
            connection.abort()

    async def _reopen(
        self,
        number: int,
        ready: Callable[[LoadConnection], None],
        refused: Callable[[str], bool],
    ) -> None:
        pause = 0.05
        while True:
            try:
                connection = await self._connect(number)
            except (OSError, asyncio.TimeoutError) as error:
                if not refused(_reason(error)):
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            else:
                ready(connection)
                return

    async def _connect(self, number: int) -> LoadConnection:
        if self._client is not None:
            threaded = Boto3Connection(self._owner, self._plan, self._client, number)
            self.connections.add(threaded)
            return threaded
        host, port = self._plan.destination.address
        connecting = asyncio.get_running_loop().create_connection(
            lambda: RawConnection(self._owner, self._heads, self._plan.payload.body, number),
            host,
            port,
            ssl=self._context,
        )
        _, connection = await asyncio.wait_for(connecting, _PATIENCE_S)
        self.connections.add(connection)
        return connection

    async def _see_that_somebody_is_there(self) -> None:
        """Connect once: boto3 itself connects only when it calls."""
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(*self._plan.destination.address), _PATIENCE_S
        )
        writer.close()


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


def client_error_kind(response: Any) -> str:
    """Return what `error_kind` says of the same answer, from what boto3 has made of it."""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    name = f"{status} {response.get('Error', {}).get('Code', '')}".strip()
    original = response.get("OriginalStatusCode")
    return name if original is None else f"{name} ({original})"


def runtime_client(settings: Settings, connections: int, timeout: float = 60.0) -> Any:
    """Return a boto3 client for invocations that tries once, so that whatever fails is seen.

    Parameters
    ----------
    settings
        Whose target it calls.
    connections
        How many it may keep open.
    timeout
        Seconds that an answer may take.
    """
    return settings.client(
        "sagemaker-runtime",
        # botocore keeps ten: of more threads, most would connect anew at each call.
        max_pool_connections=connections,
        retries={"total_max_attempts": 1},
        connect_timeout=min(timeout, _PATIENCE_S),
        read_timeout=timeout,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no connection in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _tls(destination: Destination) -> ssl.SSLContext | None:
    if not destination.encrypted:
        return None
    from botocore.httpsession import get_cert_path

    # The same authorities that boto3 trusts, which some systems' Python does not come with.
    return ssl.create_default_context(cafile=get_cert_path(True))  # noqa: FBT003 - botocore's own
