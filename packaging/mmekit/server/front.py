"""The HTTP face of a server: the container contract, as DJL Serving answers it.

A bare ASGI application; the hot path is `invoke`. Statuses, bodies and headers were compared with
DJL Serving 0.36.0. Sources: InferenceRequestHandler, ManagementRequestHandler, RequestParser,
NettyUtils.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from mmekit.server import figures, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from mmekit.server.registry import Model, Registry
    from mmekit_runtime.wire import Answer

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    Headers = list[tuple[bytes, bytes]]

_logger = logging.getLogger("mmekit.server")

MAX_REQUEST_BYTES = 64 << 20
"""DJL Serving's ``max_request_size``."""

_CUSTOM_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
_NO_CACHE: Headers = [
    (b"Pragma", b"no-cache"),
    (b"Cache-Control", b"no-cache; no-store, must-revalidate, private"),
    (b"Expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
]
# HTTP header names come in lower case; handlers know them as clients write them.
_SPELLING = {
    b"accept": "Accept",
    b"content-length": "Content-Length",
    b"content-type": "Content-Type",
    b"host": "Host",
    b"user-agent": "User-Agent",
    b"x-amzn-sagemaker-target-model": "X-Amzn-SageMaker-Target-Model",
}
_MAX_PAGE = 100
_ERRORS = 400


class Front:
    """The ASGI application of one server."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        try:
            body = await _read(receive)
            await self._route(scope, body, send)
        except refusal.Refusal as error:
            await _send_json(send, error.status, error.body)
        except _GoneError:
            return
        except Exception as error:
            _logger.exception("the server failed on %s %s", scope["method"], scope["path"])
            failure = refusal.Refusal(500, type(error).__name__, str(error))
            await _send_json(send, 500, failure.body)

    async def _route(self, scope: Scope, body: bytes, send: Send) -> None:
        method = scope["method"]
        path = scope["raw_path"].decode("latin-1")
        segments = path.split("/")
        first = segments[1] if len(segments) > 1 else ""
        if first == "models":
            if path.endswith("/invoke") and len(segments) > 3 and method == "POST":  # noqa: PLR2004
                await self._invoke(
                    unquote(path[len("/models/") : -len("/invoke")]), scope, body, send
                )
                return
            await self._manage(scope, segments, body, send)
        elif path == "/ping":
            await self._ping(send)
        elif path == "/metrics":
            body = await asyncio.to_thread(figures.prometheus_text, self._registry)
            await _send(send, 200, [(b"content-type", figures.CONTENT_TYPE.encode())], body)
        elif path == "/" and method == "OPTIONS":
            await _send_json(send, 200, b"{}\n")
        elif first == "invocations":
            raise refusal.bad_request("Parameter model_name is required.")
        else:
            raise refusal.no_such_resource()

    async def _manage(self, scope: Scope, segments: list[str], body: bytes, send: Send) -> None:
        method = scope["method"]
        name = unquote(segments[2]) if len(segments) > 2 else ""  # noqa: PLR2004
        if not name:
            if method in ("GET", "HEAD"):
                await _send_json(send, 200, self._list(scope))
            elif method == "POST":
                await self._load(scope, body, send)
            else:
                raise refusal.method_not_allowed()
        elif method in ("GET", "HEAD"):
            model = self._registry.get(name)
            if model is None:
                message = f"Workflow not found: {name}"
                raise refusal.Refusal(404, "ModelNotFoundException", message)
            await _send_json(send, 200, _pretty([_description(model)]))
        elif method == "DELETE":
            await self._registry.unload(name)
            message = f'Model or workflow "{name}" unregistered'
            await _send_json(send, 200, _pretty({"status": message}))
        else:
            raise refusal.method_not_allowed()

    async def _load(self, scope: Scope, body: bytes, send: Send) -> None:
        name, url = _load_request(scope, body)
        await self._registry.load(name, url)
        await _send_json(send, 200, _pretty({"status": f'Model "{name}" registered.'}))

    def _list(self, scope: Scope) -> bytes:
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        limit = _integer(query, "limit", _MAX_PAGE)
        start = max(0, _integer(query, "next_page_token", 0))
        if not 0 <= limit <= _MAX_PAGE:
            limit = _MAX_PAGE
        models = list(self._registry)
        stop = min(start + limit, len(models))
        page: dict[str, Any] = {}
        if stop < len(models):
            page["nextPageToken"] = str(stop)
        page["models"] = [
            {"modelName": model.name, "modelUrl": model.url, "status": model.status}
            for model in models[start:stop]
        ]
        return _pretty(page)

    async def _ping(self, send: Send) -> None:
        models = {model.name: _health(model) for model in self._registry}
        pending = dict.fromkeys(self._registry.loading, "PENDING")
        content = {name: {"status": status} for name, status in (models | pending).items()}
        status = 500 if "FAILED" in models.values() else 200
        await _send_json(send, status, _pretty(content))

    async def _invoke(self, name: str, scope: Scope, body: bytes, send: Send) -> None:
        model = self._registry.get(name)
        if model is None:
            if name in self._registry.loading:
                raise refusal.unavailable(f"Model is not ready: {name}")
            raise refusal.no_such_model(name)
        request_id = str(uuid.uuid4())
        properties = _request_properties(scope["headers"], request_id)
        answer = await model.pool.submit(properties, body)
        await _send_answer(send, answer, request_id)


class _GoneError(Exception):
    """The client went away before its request was whole."""


async def _read(receive: Receive) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _GoneError
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts = [body]
    size = len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_REQUEST_BYTES:
            message_text = f"The request is larger than {MAX_REQUEST_BYTES} bytes."
            raise refusal.Refusal(413, "RequestEntityTooLargeException", message_text)
        parts.append(part)
    return b"".join(parts)


def _request_properties(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> dict[str, str]:
    # RequestParser.parseRequest: every header is a property, the custom attributes one each.
    properties = {"requestId": request_id}
    for name, value in headers:
        if name == _CUSTOM_ATTRIBUTES:
            for pair in value.decode("latin-1").split(";"):
                key, equals, text = pair.partition("=")
                if equals:
                    properties[key.strip()] = text.strip()
        elif name == b"handler":
            raise refusal.bad_request("The handler can't be overridden in a request")
        else:
            spelling = _SPELLING.get(name)
            properties[spelling or name.decode("latin-1")] = value.decode("latin-1")
    return properties


def _load_request(scope: Scope, body: bytes) -> tuple[str, str]:
    content_type = dict(scope["headers"]).get(b"content-type", b"")
    if content_type.split(b";")[0].strip().lower() == b"application/json":
        try:
            content = json.loads(body)
        except ValueError as error:
            raise refusal.Refusal(500, "JsonSyntaxException", str(error)) from error
        if not isinstance(content, dict):
            message = f"Expected BEGIN_OBJECT but was {type(content).__name__}"
            raise refusal.Refusal(500, "JsonSyntaxException", message)
    else:
        content = dict(parse_qsl(scope["query_string"].decode("latin-1")))
    url = content.get("url")
    if not url or not isinstance(url, str):
        raise refusal.bad_request("Parameter url is required.")
    name = content.get("model_name") or url.rstrip("/").rpartition("/")[2]
    return str(name), url


def _integer(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError as error:
        message = f'For input string: "{text}"'
        raise refusal.misconfigured(message, "NumberFormatException") from error


def _health(model: Model) -> str:
    if model.pool.failed:
        return "FAILED"
    enough = len(model.pool.workers) >= model.pool.size.min_workers
    return "Healthy" if enough else "Unhealthy"


def _description(model: Model) -> dict[str, Any]:
    pool = model.pool
    workers = [
        {
            "id": worker.number + 1,
            "startTime": _timestamp(worker.started_at),
            "status": "READY",
            "pid": worker.pid,
        }
        for worker in pool.workers
    ]
    group = {
        "device": {"deviceType": "cpu", "deviceId": -1},
        "minWorkers": pool.size.min_workers,
        "maxWorkers": pool.size.max_workers,
        "workers": workers,
    }
    description = {
        "modelName": model.name,
        "modelUrl": model.url,
        "batchSize": pool.size.batch_size,
        "maxBatchDelayMillis": round(pool.size.max_batch_delay_s * 1000),
        "maxIdleSeconds": round(pool.size.max_idle_s),
        "queueSize": pool.size.queue_size,
        "requestInQueue": pool.queued,
        "status": _health(model),
        "loadedAtStartup": False,
        "workerGroups": [group],
        # Not in DJL Serving.
        "processes": [asdict(process) for process in figures.of_processes(model)],
    }
    return {"workflowName": model.name, "models": [description]}


def _timestamp(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _pretty(content: object) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


async def _send_json(send: Send, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"x-request-id", str(uuid.uuid4()).encode()),
        *_NO_CACHE,
    ]
    await _send(send, status, headers, body)


async def _send_answer(send: Send, answer: Answer, request_id: str) -> None:
    headers = [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in answer.properties
    ]
    headers.append((b"x-request-id", request_id.encode()))
    await _send(send, answer.status, headers + _NO_CACHE, answer.body)


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    if status >= _ERRORS:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
