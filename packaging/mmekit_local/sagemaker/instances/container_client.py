"""HTTP to one container: kept-alive connections, httptools, no framework.

This is the hot path's second half; the connections themselves are
`mmekit_local.sagemaker.instances.container_connection`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mmekit_local.http import lines_of
from mmekit_local.sagemaker.instances.container_connection import (
    ContainerAbsentError,
    ContainerConnection,
    ContainerReply,
    ContainerSilentError,
    ContainerTimeoutError,
)
from mmekit_local.sagemaker.snapshot import ParkingSnapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from mmekit_local.sagemaker.instances.container_connection import StreamedReply

__all__ = ["ContainerClient", "ContainerModel"]

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

_KEPT_SECONDS = 3.0
"""A connection that was idle for longer is not used again: servers close idle ones (uvicorn after
5 s), and a request that meets the end of its connection may have run or not."""
_PAGE_SECONDS = 2.0


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
        self._idle: list[ContainerConnection] = []
        self._open: set[ContainerConnection] = set()
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
        reply_at = connection.send_for_stream(head, body)
        expiry = self._loop.call_later(seconds, connection.expire)
        try:
            reply = await reply_at
            expiry.cancel()
            left = max(began + whole_seconds - self._loop.time(), 0.0)
            expiry = self._loop.call_later(left, connection.expire)
            yield reply
        finally:
            expiry.cancel()
            # Left in the middle it is not reusable: the next request would get the rest.
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
            # The answer may still come, and the next request on this connection would get it.
            connection.abort()
            raise
        finally:
            expiry.cancel()
        self._give_back(connection)
        return reply

    def _give_back(self, connection: ContainerConnection) -> None:
        """Count an answer, and keep its connection for the next call where that can be."""
        self.answers += 1
        if connection.reusable:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        else:
            connection.abort()

    def _kept(self) -> ContainerConnection | None:
        oldest = self._loop.time() - _KEPT_SECONDS
        while self._idle:
            # The newest: it is the likeliest to be open still.
            connection = self._idle.pop()
            if connection.is_open and connection.idle_since >= oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> ContainerConnection:
        try:
            _, connection = await self._loop.create_connection(
                lambda: ContainerConnection(self._loop, self._open), self._host, self._port
            )
        except OSError as error:
            raise ContainerAbsentError(f"no connection: {error.strerror or error}") from error
        return connection


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
