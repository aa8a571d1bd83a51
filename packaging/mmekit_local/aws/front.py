"""The one port: tells the planes apart."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl, unquote

from mmekit_local.http import HttpLimits, Responder
from mmekit_local.sagemaker.api import ApiReply, ApiRequest, caller_of, new_request_id, response_of
from mmekit_local.sagemaker.errors import (
    access_denied,
    internal_failure,
    runtime_reply,
    service_unavailable,
    unsigned,
    validation_error,
)
from mmekit_runtime.slots.descriptors import descriptor_limit

if TYPE_CHECKING:
    from mmekit_local.aws.cloudformation import Stacks
    from mmekit_local.aws.functions import Functions
    from mmekit_local.aws.moto.aws import Aws
    from mmekit_local.http import HttpRequest, HttpResponse
    from mmekit_local.sagemaker.control.control_plane import ControlPlane
    from mmekit_local.sagemaker.data_plane import DataPlane
    from mmekit_local.sagemaker.errors import AwsError
    from mmekit_local.sagemaker.observability.metrics import Metrics
    from mmekit_local.sagemaker.options import EndpointLimits

__all__ = ["AwsFront"]

logger = logging.getLogger("mmekit.endpoint")

_PREFIX = "/endpoints/"
_INVOKE, _ASYNCHRONOUS, _STREAM = "invocations", "async-invocations", "invocations-response-stream"
_PAGE = b"/_mme"
_READING = ("GET", "HEAD")
_ASKING = ("Get", "List", "Describe")
_SCRIPTED = (b"html", b"xml", b"svg")
_FORM = b"application/x-www-form-urlencoded"
_MOST_FIELDS = 100_000
"""Of a form: PutMetricData, which has most, is refused above a megabyte by AWS."""
# What S3 takes with one PUT, or as one part.
_LARGEST_OBJECT = 5 << 30
_FORBIDDEN, _TOO_LARGE, _TOO_MANY = 403, 413, 503
_LINE_BYTES = 16 << 10
"""Presigned URLs with a session token are longer than Netty's 4 KiB."""
_HEAD_BYTES = 64 << 10
_REQUEST_S = 300.0
_IDLE_S = 75.0
"""Longer than the pauses in a notebook's loop."""


class Routes(Protocol):
    """Whoever answers the paths under ``/_mme``."""

    async def answer(self, request: ApiRequest) -> ApiReply:
        """Answer a request, which needs no signature."""
        ...


class AwsFront:
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
        limits: EndpointLimits,
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

    async def answer(self, request: HttpRequest) -> HttpResponse:
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

    async def _invoke(self, endpoint: str, how: str, request: HttpRequest) -> ApiReply:
        fields = {name.lower(): value for name, value in request.headers}
        caller = caller_of(fields.get(b"authorization"))
        if caller is None:
            return runtime_reply(unsigned(), new_request_id())
        if caller.service != "sagemaker":  # an S3 object may be called what it likes
            return await self._answer(request)
        if how == _ASYNCHRONOUS:
            return self._data_plane.accept(caller, endpoint, fields, request.body)
        if how == _STREAM:
            return await self._data_plane.stream(caller, endpoint, fields, request.body)
        return await self._data_plane.answer(caller, endpoint, fields, request.body)

    async def _answer(self, received: HttpRequest) -> ApiReply:
        path, _, query = received.target.encode("latin-1").partition(b"?")
        request = ApiRequest(
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
        return _without_origin(await self._aws.answer(request), request)

    def _largest_body(self, method: str, target: str) -> int:
        if _invoked(method, target) is not None:
            return self._limits.body_bytes
        return _LARGEST_OBJECT

    def _refuse(self, status: int, message: str) -> HttpResponse:
        if status == _FORBIDDEN:
            error = access_denied(message)
        elif status == _TOO_LARGE:
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


def _refusal(request: ApiRequest) -> AwsError | None:
    """Return why a request is answered by nobody; None for one that is."""
    if not request.path.startswith(b"/"):
        return validation_error("The target of a request is a path.")
    form = request.method == "POST" and (request.header(b"content-type") or b"").startswith(_FORM)
    if form and sum(piece.count(b"&") for piece in request.body) >= _MOST_FIELDS:
        return validation_error(f"A form has at most {_MOST_FIELDS} fields.")
    if request.method not in _READING or request.header(b"authorization") is not None:
        return None
    # A picture's address on a page may say this much, and an old browser does not say whose page.
    query = parse_qsl(request.query.decode("latin-1"))
    if any(name == "Action" and not value.startswith(_ASKING) for name, value in query):
        return unsigned()
    return None


def _without_origin(reply: ApiReply, request: ApiRequest) -> ApiReply:
    """Let an object that a browser shows be a page of nowhere, which reaches nothing here."""
    if request.method != "GET":
        return reply
    # Without a type a browser guesses one, and may guess a page.
    kind = next((value for name, value in reply.headers if name == b"content-type"), b"html")
    if not any(one in kind.lower() for one in _SCRIPTED):
        return reply
    # Not allow-same-origin: so what its scripts ask for comes with the origin null, and is refused.
    sandbox = (b"content-security-policy", b"sandbox allow-scripts allow-downloads")
    return replace(reply, headers=[*reply.headers, sandbox])


def _invoked(method: str, target: str) -> tuple[str, str] | None:
    """Return the endpoint that a request invokes, and which way; None when it invokes none."""
    if method == "POST" and target.startswith(_PREFIX):
        name, _, how = target[len(_PREFIX) :].partition("?")[0].rpartition("/")
        if how in (_INVOKE, _ASYNCHRONOUS, _STREAM):
            return (unquote(name) if "%" in name else name), how
    return None
