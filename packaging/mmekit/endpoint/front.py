"""The one port: tells the planes apart."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from mmekit.endpoint.caller import caller_of
from mmekit.endpoint.errors import (
    foreign,
    internal_failure,
    not_found,
    runtime_reply,
    service_unavailable,
    unsigned,
    validation_error,
)
from mmekit.endpoint.http import Reply, Request, is_foreign, new_request_id, response_of
from mmekit.http import HttpLimits, Responder
from mmekit_runtime.slots.descriptors import descriptor_limit

if TYPE_CHECKING:
    from mmekit.endpoint.control.aws import Aws
    from mmekit.endpoint.control.control_plane import ControlPlane
    from mmekit.endpoint.data_plane import DataPlane
    from mmekit.endpoint.errors import AwsError
    from mmekit.endpoint.functions import Functions
    from mmekit.endpoint.observability.metrics import Metrics
    from mmekit.endpoint.options import Limits
    from mmekit.endpoint.stacks import Stacks
    from mmekit.http import Request as HttpRequest
    from mmekit.http import Response

__all__ = ["Front", "Routes"]

logger = logging.getLogger("mmekit.endpoint")

_PREFIX = "/endpoints/"
_INVOKE, _ASYNCHRONOUS, _STREAM = "invocations", "async-invocations", "invocations-response-stream"
_PAGE = b"/_mme"
_MOTO = b"/moto-api"
_READING = ("GET", "HEAD")
_LARGEST_OBJECT = 5 << 30
_TOO_LARGE, _TOO_MANY = 413, 503
_LINE_BYTES = 16 << 10
"""Presigned URLs with a session token are longer than Netty's 4 KiB."""
_HEAD_BYTES = 64 << 10
_REQUEST_S = 300.0
_IDLE_S = 75.0
"""Longer than the pauses in a notebook's loop."""


class Routes(Protocol):
    """Whoever answers the paths under ``/_mme``."""

    async def answer(self, request: Request) -> Reply:
        """Answer a request, which needs no signature."""
        ...


class Front:
    """Takes every request and hands it to whoever answers it.

    Parameters
    ----------
    data_plane
        Answers invocations.
    control_plane
        Answers requests to SageMaker.
    stacks
        Answers requests to CloudFormation.
    aws
        Answers all others.
    functions
        Runs Lambda's functions.
    metrics
        Brought up to date before CloudWatch is asked.
    limits
        Of an invocation's body.
    page
        Answers what is no part of AWS.
    """

    def __init__(
        self,
        data_plane: DataPlane,
        control_plane: ControlPlane,
        stacks: Stacks,
        aws: Aws,
        functions: Functions,
        metrics: Metrics,
        limits: Limits,
        page: Routes | None = None,
    ) -> None:
        self._data_plane = data_plane
        self._control_plane = control_plane
        self._stacks = stacks
        self._aws = aws
        self._functions = functions
        self._metrics = metrics
        self._limits = limits
        self._page = page

    @property
    def responder(self) -> Responder:
        """What an HTTP server needs of this."""
        return Responder(self.answer, self._refuse, self._largest_body)

    @property
    def limits(self) -> HttpLimits:
        """What clients may send, as far as HTTP is concerned."""
        descriptors = descriptor_limit()
        return HttpLimits(
            # The others are for containers, and for moto's files.
            connections=None if descriptors is None else descriptors // 2,
            body_bytes=self._limits.body_bytes,
            line_bytes=_LINE_BYTES,
            head_bytes=_HEAD_BYTES,
            request_s=_REQUEST_S,
            idle_s=_IDLE_S,
            errors_end=False,
        )

    async def answer(self, request: HttpRequest) -> Response:
        """Answer one request."""
        try:
            invoked = _invoked(request.method, request.target)
            if invoked is not None:
                reply = await self._invoke(*invoked, request)
            else:
                reply = await self._answer(request)
        except Exception as error:
            logger.exception("%s %s failed", request.method, request.target)
            failure = internal_failure(f"{type(error).__name__}: {error}")
            reply = runtime_reply(failure, new_request_id())
        return response_of(reply)

    async def _invoke(self, endpoint: str, how: str, request: HttpRequest) -> Reply:
        fields = {name.lower(): value for name, value in request.headers}
        caller = caller_of(fields.get(b"authorization"))
        if caller is None:
            return runtime_reply(unsigned(), new_request_id())
        if caller.service != "sagemaker":  # an S3 object may be called what it likes
            return await self._answer(request)
        if how == _ASYNCHRONOUS:
            return self._data_plane.refuse_asynchronous(caller, endpoint)
        if how == _STREAM:
            return self._data_plane.refuse_stream(caller, endpoint)
        return await self._data_plane.answer(caller, endpoint, fields, request.body)

    async def _answer(self, received: HttpRequest) -> Reply:
        path, _, query = received.target.encode("latin-1").partition(b"?")
        request = Request(
            method=received.method,
            path=path,
            query=query,
            headers=[(name.lower(), value) for name, value in received.headers],
            body=tuple(received.pieces),
        )
        if (refusal := _refusal(request)) is not None:
            return runtime_reply(refusal, new_request_id())
        caller = caller_of(request.header(b"authorization"))
        if self._page is not None and (path == _PAGE or path.startswith(_PAGE + b"/")):
            return await self._page.answer(request)
        if caller is not None and caller.service == "sagemaker":
            return await self._control_plane.answer(request, caller)
        if caller is not None and caller.service == "cloudformation":
            return await self._stacks.answer(request, caller)
        if caller is not None and caller.service == "lambda":
            reply = await self._functions.answer(request, caller)
            if reply is not None:
                return reply
        if caller is not None and caller.service == "monitoring":
            self._metrics.flush()
        return await self._aws.answer(request)

    def _largest_body(self, method: str, target: str) -> int:
        if _invoked(method, target) is not None:
            return self._limits.body_bytes
        return _LARGEST_OBJECT

    def _refuse(self, status: int, message: str) -> Response:
        if status == _TOO_LARGE:
            error = validation_error(
                "1 validation error detected: Value at 'body' failed to satisfy constraint: "
                f"Member must have length less than or equal to {self._limits.body_bytes}"
            )
        elif status == _TOO_MANY:
            error = service_unavailable("There are too many connections.")
        else:
            error = validation_error(message)
            error.status = status
        return response_of(runtime_reply(error, new_request_id()))


def _refusal(request: Request) -> AwsError | None:
    """Return why a request is answered by nobody; None for one that is."""
    if sum(name == b"host" for name, _ in request.headers) > 1:  # RFC 9112, 3.2
        return validation_error("A request has one Host header, and not several.")
    if request.path.startswith(_MOTO):  # its own controls, which nobody asked for
        return not_found()
    page = request.path == _PAGE or request.path.startswith(_PAGE + b"/")  # which looks itself
    # What a presigned URL allows is to read: nobody looks at its signature here.
    presigned = request.method in _READING and b"X-Amz-" in request.query
    # A page to whose name a stranger's DNS has given this address is of this origin, and may sign.
    by_page = request.header(b"origin") is not None or is_foreign(request)
    if not page and not presigned and by_page:
        return foreign()
    return None


def _invoked(method: str, target: str) -> tuple[str, str] | None:
    """Return the endpoint that a request invokes, and which way; None when it invokes none."""
    if method == "POST" and target.startswith(_PREFIX):
        name, _, how = target[len(_PREFIX) :].partition("?")[0].rpartition("/")
        if how in (_INVOKE, _ASYNCHRONOUS, _STREAM):
            return (unquote(name) if "%" in name else name), how
    return None
