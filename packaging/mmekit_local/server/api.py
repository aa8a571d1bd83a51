"""The HTTP face of a server: the container contract, as DJL Serving answers it.

The hot path is `_invoke`. Statuses, bodies and headers were compared with DJL Serving 0.36.0.
Sources: InferenceRequestHandler, ManagementRequestHandler, RequestParser, NettyUtils.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mmekit_local.http import HttpResponse, Responder
from mmekit_local.server import description, errors, metrics, openapi
from mmekit_local.server.forms import (
    LARGE_FORM,
    content_of,
    decoded_path,
    integer,
    is_form,
    parse_query,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from mmekit_local.http import Headers, HttpRequest
    from mmekit_local.http.messages import RawHeaders
    from mmekit_local.server.forms import Content
    from mmekit_local.server.registry import Registry
    from mmekit_local.server.replies import WorkerReply

_logger = logging.getLogger("mmekit.server")

_LONGEST_NAME = 4000
"""Bytes, percent-encoded: with a path around it, it still fits into a request line."""
_LONGEST_LOAD = 256 << 10
_CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
_NO_CACHE: Headers = [
    ("Pragma", "no-cache"),
    ("Cache-Control", "no-cache; no-store, must-revalidate, private"),
    ("Expires", "Thu, 01 Jan 1970 00:00:00 UTC"),
]
# What a handler cannot set: the connection's affairs, and what every answer has.
_OURS = frozenset(
    {
        "connection",
        "content-length",
        "transfer-encoding",
        "x-request-id",
        *(name.lower() for name, _ in _NO_CACHE),
    }
)
_INFERENCE = re.compile(
    r"/(ping|invocations|predictions|v1/chat/completions)([/?].*)?|/models/.+/invoke"
)
_NO_TOKEN = re.compile(r"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_LINE_ENDS = re.compile(r"[\r\n\0]")
_MAX_PAGE = 100
_OK, _UNAVAILABLE = 200, 503
_NO_REQUEST = {
    400: "BadRequestException",
    403: "AccessDeniedException",
    405: "MethodNotAllowedException",
    408: "RequestTimeoutException",
    500: "IllegalArgumentException",
    _UNAVAILABLE: "ServiceUnavailableException",
}


class ContainerApi:
    """What is said to each request."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def responder(self) -> Responder:
        """What an HTTP server needs of this."""
        return Responder(self.answer, no_request)

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        request_id = str(uuid.uuid4())
        try:
            return await self._route(request, request_id)
        except errors.ApiError as error:
            return _refused(error, request_id)
        except Exception as error:
            _logger.exception("the server failed on %s %s", request.method, request.target)
            return _refused(errors.ApiError(500, type(error).__name__, str(error)), request_id)

    async def _route(self, request: HttpRequest, request_id: str) -> HttpResponse:
        path, _, query = request.target.partition("#")[0].partition("?")
        segments = decoded_path(path).split("/")
        while len(segments) > 1 and not segments[-1]:
            segments.pop()  # as java.lang.String.split does
        if path == "/" and request.method == "OPTIONS":
            return _json(b"{}\n", request_id)
        if _INFERENCE.fullmatch(request.target):
            return await self._infer(request, segments, query, request_id)
        if path == "/models" or path.startswith("/models/"):
            return await self._manage(request, segments, query, request_id)
        if path == openapi.PATH and request.method in ("GET", "HEAD"):
            return _json(openapi.body(), request_id)
        if path == "/metrics":
            text = await asyncio.to_thread(metrics.prometheus_text, self._registry)
            return HttpResponse(200, "OK", [("content-type", metrics.CONTENT_TYPE)], text)
        raise errors.no_such_resource()

    # Inference.

    def _infer(
        self, request: HttpRequest, segments: list[str], query: str, request_id: str
    ) -> Awaitable[HttpResponse]:
        kind = segments[1]
        if kind == "ping":
            return self._ping(request_id)
        if kind == "models":
            if len(segments) < 4:  # noqa: PLR2004  /models//invoke
                raise errors.method_not_allowed()
            return self._invoke(segments[2], None, request, query, request_id)
        if kind == "predictions":
            if len(segments) < 3:  # noqa: PLR2004
                raise errors.no_such_resource()
            version = segments[3] if len(segments) > 3 else None  # noqa: PLR2004
            return self._invoke(segments[2], version, request, query, request_id)
        return self._invoke(None, None, request, query, request_id)

    async def _ping(self, request_id: str) -> HttpResponse:
        health = description.health(self._registry)
        content = {name: {"status": status} for name, status in health.items()}
        # In DJL Serving, too, one failed model makes the whole container unhealthy.
        status = 500 if "FAILED" in health.values() else 200
        return _json(errors.pretty(content), request_id, status)

    async def _invoke(
        self,
        name: str | None,
        version: str | None,
        request: HttpRequest,
        query: str,
        request_id: str,
    ) -> HttpResponse:
        properties, content_type = _properties_of(request.headers, request_id)
        content = await _content(query, content_type, request)
        if not name:
            given = (value.decode() for key, value in content if key == "model_name")
            name = properties.get("model_name") or next(given, None) or self._registry.only_model
            if name is None:
                raise errors.bad_request("Parameter model_name is required.")
        model = self._registry.get(name)
        if model is None or version:
            if name in self._registry.loading:
                raise errors.unavailable(f"Model is not ready: {name}")
            raise errors.no_such_model(name)
        if request.method == "OPTIONS":
            return _json(b"{}\n", request_id)
        self._registry.note_request()
        result = model.pool.submit(properties, content)
        request.if_gone = result.cancel
        reply = await result
        try:
            return _response(reply, request_id)
        except Exception:
            # Nobody is going to read it, and its worker is not free before its end.
            if reply.stream is not None:
                reply.stream.abandon()
            raise

    # Management.

    async def _manage(
        self, request: HttpRequest, segments: list[str], query: str, request_id: str
    ) -> HttpResponse:
        method = request.method
        if len(segments) < 3:  # noqa: PLR2004
            if method == "GET":
                return _json(self._list(query), request_id)
            if method == "POST":
                return await self._load(request, query, request_id)
            raise errors.method_not_allowed()
        name = segments[2]
        version = segments[3] if len(segments) > 3 else None  # noqa: PLR2004
        if method == "GET":
            return await self._describe(name, version, request_id)
        if method == "DELETE":
            if version is not None:
                raise errors.no_such_model(name)
            # Whoever asked may go away: the work goes on.
            await asyncio.shield(self._registry.unload(name))
            content = {"status": f'Model or workflow "{name}" unregistered'}
            return _json(errors.pretty(content), request_id)
        raise errors.method_not_allowed()

    async def _describe(self, name: str, version: str | None, request_id: str) -> HttpResponse:
        model = self._registry.get(name)
        if model is None or version is not None:
            called = f"Workflow not found: {name}/{version}" if model else name
            message = f"Workflow not found: {called}"
            raise errors.ApiError(404, "ModelNotFoundException", message)
        # In a thread: the kernel takes its time to tell the memory of a process.
        described = await asyncio.to_thread(description.of_model, model)
        # A list of one, as from DJL Serving; AWS's contract shows the object alone.
        return _json(errors.pretty([described]), request_id)

    async def _load(self, request: HttpRequest, query: str, request_id: str) -> HttpResponse:
        name, url = _load_request(request, query)
        await asyncio.shield(self._registry.load(name, url))
        return _json(errors.pretty({"status": f'Model "{name}" registered.'}), request_id)

    def _list(self, query: str) -> bytes:
        given = dict(parse_query(query))
        limit = _integer(given, "limit", _MAX_PAGE)
        start = max(0, _integer(given, "next_page_token", 0))
        if not 0 <= limit <= _MAX_PAGE:
            limit = _MAX_PAGE
        models = description.listed(self._registry)
        stop = min(start + limit, len(models))
        page: dict[str, Any] = {}
        if stop < len(models):
            page["nextPageToken"] = str(stop)
        page["models"] = models[start:stop]
        return errors.pretty(page)


def _properties_of(headers: RawHeaders, request_id: str) -> tuple[dict[str, str], str]:
    """Return what a handler finds in its input's properties, and the content type.

    Every header is a property, the custom attributes one each; names are those of the client, and
    of two that differ in case alone the last one's value counts (RequestParser.parseRequest).
    """
    spelled: dict[str, str] = {}
    properties: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        lower = name.lower()
        if lower == _CUSTOM_ATTRIBUTES:
            for pair in value.split(";"):
                key, equals, text = pair.partition("=")
                if equals:
                    key = key.strip()
                    properties[spelled.setdefault(key.lower(), key)] = text.strip()
        else:
            properties[spelled.setdefault(lower, name)] = value
    if "handler" in spelled:
        raise errors.bad_request("The handler can't be overridden in a request")
    properties[spelled.setdefault("requestid", "requestId")] = request_id
    return properties, properties.get(spelled.get("content-type", ""), "")


async def _content(query: str, content_type: str, request: HttpRequest) -> Content:
    body = request.body
    if len(body) > LARGE_FORM and is_form(content_type):
        # It is taken apart in a thread, while others are answered.
        return await asyncio.to_thread(content_of, query, content_type, body)
    return content_of(query, content_type, body)


def _load_request(request: HttpRequest, query: str) -> tuple[str, str]:
    types = (value for name, value in request.headers if name.lower() == b"content-type")
    content_type = next(types, b"").partition(b";")[0].strip().lower()
    if content_type != b"application/json":
        given = dict(parse_query(query))
        url = given.get("url")
        if not url:
            raise errors.bad_request("Parameter url is required.")
        return given.get("model_name") or description.name_of(url), url
    body = request.body
    if len(body) > _LONGEST_LOAD:
        message = f"What a load says has at most {_LONGEST_LOAD} bytes."
        raise errors.bad_request(message)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise errors.ApiError(500, "JsonSyntaxException", str(error)) from error
    if not isinstance(content, dict):
        message = f"Expected BEGIN_OBJECT but was {type(content).__name__}"
        raise errors.ApiError(500, "JsonSyntaxException", message)
    for name in ("url", "model_name"):
        if not content.get(name) or not isinstance(content[name], str):
            raise errors.bad_request(f"Parameter {name} is required.")
    _check_name(content["model_name"])
    return content["model_name"], content["url"]


def _check_name(name: str) -> None:
    """Refuse a model that no request line could name any more."""
    try:
        length = len(quote(name, safe=""))
    except UnicodeEncodeError as error:
        raise errors.bad_request("Parameter model_name is no valid Unicode.") from error
    if length > _LONGEST_NAME:
        raise errors.bad_request("Parameter model_name is too long.")


def _integer(given: dict[str, str], name: str, default: int) -> int:
    text = given.get(name)
    if not text:
        return default
    try:
        return integer(text)
    except ValueError as error:
        message = f'For input string: "{text}"'
        raise errors.misconfigured(message, "NumberFormatException") from error


def _json(
    body: bytes, request_id: str, status: int = 200, reason: str | None = None
) -> HttpResponse:
    headers = [("content-type", "application/json"), ("x-request-id", request_id), *_NO_CACHE]
    phrase = errors.reason_phrase(status) if reason is None else _LINE_ENDS.sub(" ", reason)
    return HttpResponse(status, phrase, headers, body)


def _refused(error: errors.ApiError, request_id: str) -> HttpResponse:
    response = _json(error.body, request_id, error.status, error.reason)
    if error.retry_after_s is not None:
        response.headers.append(("Retry-After", str(error.retry_after_s)))
    return response


def no_request(status: int, message: str) -> HttpResponse:
    """Answer what is no request: Netty says 413 and 417 without a body, DJL Serving the rest."""
    if not message:
        return HttpResponse(status, errors.reason_phrase(status), [])
    retry_after_s = 1 if status == _UNAVAILABLE else None
    error = errors.ApiError(status, _NO_REQUEST[status], message, retry_after_s)
    return _refused(error, str(uuid.uuid4()))


def _response(reply: WorkerReply, request_id: str) -> HttpResponse:
    headers: dict[str, tuple[str, str]] = {}
    for name, value in reply.properties:
        _check_header(name, value)
        if name.lower() not in _OURS:
            headers[name.lower()] = (name, value)
    phrase = "OK" if reply.status == _OK else reply.message
    if "\r" in phrase or "\n" in phrase:
        message = "reasonPhrase contains one of the following prohibited characters: \\r\\n: "
        raise errors.ApiError(500, "IllegalArgumentException", message + phrase)
    complete = [*headers.values(), ("x-request-id", request_id), *_NO_CACHE]
    return HttpResponse(reply.status, phrase, complete, reply.body, reply.stream)


def _check_header(name: str, value: str) -> None:
    # Netty refuses them too; sent on, they would be headers that nobody set.
    wrong = _NO_TOKEN.search(name)
    if wrong or not name:
        what = f"0x{ord(wrong[0]):x} at index {wrong.start()}" if wrong else "none"
        message = (
            'a header name can only contain "token" characters, but found invalid character '
            f"{what} of header '{name}'."
        )
        raise errors.ApiError(500, "IllegalArgumentException", message)
    wrong = _LINE_ENDS.search(value)
    if wrong:
        message = (
            f"a header value contains prohibited character 0x{ord(wrong[0]):x} "
            f"at index {wrong.start()}."
        )
        raise errors.ApiError(500, "IllegalArgumentException", message)
