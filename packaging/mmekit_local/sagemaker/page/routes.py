"""The page under /_mme/: its files, its live events, its form's requests, and the metrics.

Nothing here is signed. That no other page gets at it is the affair of `mmekit_local.http.policy`;
what the form asks for, the page shows besides that it was told by this server: by a token, a new
one at each start, which comes with the events.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from mmekit.errors import ArchiveError, TextError
from mmekit_local.http import is_one_line
from mmekit_local.sagemaker.api import ApiReply, ApiRequest, Caller
from mmekit_local.sagemaker.errors import AwsError
from mmekit_local.sagemaker.observability.prometheus import CONTENT_TYPE, prometheus_text
from mmekit_local.sagemaker.page.feed import Feed
from mmekit_local.sagemaker.page.top import top_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmekit_local.sagemaker.aws_client import ObjectAddress
    from mmekit_local.sagemaker.data_plane import DataPlane
    from mmekit_local.sagemaker.event_log import EventLog
    from mmekit_local.sagemaker.observability.monitor import EndpointMonitor
    from mmekit_local.sagemaker.snapshot import EndpointStatus

__all__ = ["PAGE_PATHS", "PageRoutes"]

_ROOT = "/_mme/"
PAGE_PATHS = ("/_mme", _ROOT)
"""What a link on any page may open."""
_TOKEN = b"x-mme-token"
_FILES = {
    "": ("index.html", b"text/html; charset=utf-8"),
    "page.css": ("page.css", b"text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", b"image/svg+xml"),
    **{
        name: (name, b"text/javascript; charset=utf-8")
        for name in (
            *("page.js", "charts.js", "endpoints.js", "events.js", "failures.js", "form.js"),
            *("overview.js", "tables.js", "text.js"),
        )
    },
}
_SAFE = [
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]
_MODEL = ("account", "region", "endpoint", "target")
_FORMS = {"invoke": (*_MODEL, "contentType", "body"), "sample": _MODEL}
_HEADERS = {"contentType", "target"}


class PageRoutes:
    """Answers whatever is asked under /_mme/.

    Parameters
    ----------
    monitor
        Knows the endpoints in service.
    event_log
        What happened.
    statuses
        Returns every endpoint that exists.
    data_plane
        Answers invocations, and knows what to ask a model.
    list_keys
        Lists a bucket of an account and region.
    """

    def __init__(
        self,
        monitor: EndpointMonitor,
        event_log: EventLog,
        statuses: Callable[[], Sequence[EndpointStatus]],
        data_plane: DataPlane,
        list_keys: Callable[[str, str, ObjectAddress], list[str]],
    ) -> None:
        self._monitor = monitor
        self._event_log = event_log
        self._statuses = statuses
        self._list_keys = list_keys
        self._data_plane = data_plane
        self._files: dict[str, bytes] = {}
        self._token = secrets.token_urlsafe()
        self._feed = Feed(monitor, event_log, statuses, list_keys, self._token)

    async def answer(self, request: ApiRequest) -> ApiReply:
        """Answer a request whose path is /_mme or begins with /_mme/."""
        name = request.path.decode("latin-1").removeprefix(_ROOT)
        if name == "/_mme":
            return ApiReply(308, [(b"location", _ROOT.encode()), *_SAFE])
        methods = ("POST",) if name in _FORMS else ("GET", "HEAD")
        if request.method not in methods:
            allowed = ", ".join(methods)
            return _refusal(405, f"Only {allowed}.", (b"allow", allowed.encode()))
        if name in _FILES:
            return self._file(*_FILES[name])
        return await self._answer_live(name, request)

    async def _answer_live(self, name: str, request: ApiRequest) -> ApiReply:
        if name in _FORMS:
            return await self._answer_form(name, request)
        if name == "events":
            return self._events(request)
        if name == "top":
            return await self._top(request)
        if name == "metrics":
            body = prometheus_text(self._monitor)
            return ApiReply(200, [(b"content-type", CONTENT_TYPE.encode()), *_SAFE], body)
        return _refusal(404, "There is nothing here; the page is /_mme/.")

    async def _top(self, request: ApiRequest) -> ApiReply:
        """Answer what `mme top` asks: NAME, and where two have it, account and region."""
        asked = dict(parse_qsl(request.query.decode("latin-1"), keep_blank_values=True))
        known = [status.id for status in self._statuses()]
        wanted = {name: asked[name] for name in ("account", "region") if name in asked}
        found = [
            one
            for one in known
            if one.name == asked.get("endpoint")
            and all(getattr(one, name) == value for name, value in wanted.items())
        ]
        if not found:
            names = ", ".join(sorted({one.name for one in known})) or "none"
            name = asked.get("endpoint", "")
            return _refusal(404, f"There is no endpoint {name!r} here; there are: {names}.")
        if len(found) > 1:
            there = "; ".join(f"account={one.account}&region={one.region}" for one in found)
            return _refusal(400, f"Several endpoints have this name; add one of: {there}.")
        text = await top_text(found[0], self._monitor, self._event_log, self._list_keys)
        headers = [(b"content-type", b"application/json"), *_SAFE]
        return ApiReply(200, headers, text.encode())

    def close(self) -> None:
        """Let go of the pages that listen, so that the server need not wait for them."""
        self._feed.close()

    def _file(self, name: str, content_type: bytes) -> ApiReply:
        if name not in self._files:
            self._files[name] = (
                resources.files(__package__).joinpath("assets").joinpath(name).read_bytes()
            )
        return ApiReply(200, [(b"content-type", content_type), *_SAFE], self._files[name])

    def _events(self, request: ApiRequest) -> ApiReply:
        headers = [(b"content-type", b"text/event-stream"), *_SAFE]
        if request.method == "HEAD":
            return ApiReply(200, headers)
        if self._feed.is_full:
            return _refusal(503, "Too many pages are open.", (b"retry-after", b"10"))
        return ApiReply(200, headers, stream=self._feed.stream(request.header(b"last-event-id")))

    async def _answer_form(self, name: str, request: ApiRequest) -> ApiReply:
        token = request.header(_TOKEN) or b""
        if not secrets.compare_digest(token, self._token.encode()):
            return _refusal(403, "This is for the page under /_mme/ alone: reload it.")
        content_type = request.header(b"content-type") or b""
        # A form of another site cannot send this type without asking first, and is not answered.
        if content_type.partition(b";")[0].strip().lower() != b"application/json":
            return _refusal(415, "The body must be application/json.")
        try:
            sent = _members(b"".join(request.body), _FORMS[name])
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            return _refusal(400, f"The body is not what the form sends: {error!r}")
        answer = await (self._invoke(sent) if name == "invoke" else self._sample(sent))
        return ApiReply(
            200, [(b"content-type", b"application/json"), *_SAFE], json.dumps(answer).encode()
        )

    async def _invoke(self, sent: dict[str, str]) -> dict[str, object]:
        fields = {
            b"content-type": sent["contentType"].encode("latin-1"),
            b"x-amzn-sagemaker-target-model": sent["target"].encode("latin-1"),
        }
        headers = {name: value for name, value in fields.items() if value}
        began = time.perf_counter()
        reply = await self._data_plane.answer(
            _caller(sent), sent["endpoint"], headers, sent["body"].encode()
        )
        return _answer_members(reply, (time.perf_counter() - began) * 1e3)

    async def _sample(self, sent: dict[str, str]) -> dict[str, object]:
        """Return a request that a model answers; an empty one where nobody knows."""
        try:
            found = await self._data_plane.example(_caller(sent), sent["endpoint"], sent["target"])
        except (AwsError, ArchiveError, TextError, OSError, ValueError):
            found = None  # an invocation will say what is wrong
        if found is None:
            return {"contentType": "", "body": ""}
        return {"contentType": found.content_type, "body": found.request}


def _members(body: bytes, names: Sequence[str]) -> dict[str, str]:
    sent = json.loads(body)
    members = {name: sent[name] for name in names}
    if wrong := [name for name, value in members.items() if not isinstance(value, str)]:
        raise TypeError(f"{', '.join(wrong)}: no text")
    for name in _HEADERS & members.keys():
        members[name].encode("latin-1")
        if not is_one_line(members[name]):
            raise ValueError(f"{name}: more than a line")
    "".join(members.values()).encode()  # half a character has no bytes
    return members


def _caller(sent: dict[str, str]) -> Caller:
    return Caller(sent["account"], sent["region"], "sagemaker")


def _answer_members(reply: ApiReply, milliseconds: float) -> dict[str, object]:
    headers = dict(reply.headers)
    try:
        body, encoding = reply.body.decode(), "text"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(reply.body).decode(), "base64"
    return {
        "status": reply.status,
        "milliseconds": milliseconds,
        "error": headers.get(b"x-amzn-errortype", b"").decode("latin-1"),
        "variant": headers.get(b"x-amzn-invoked-production-variant", b"").decode("latin-1"),
        "contentType": headers.get(b"content-type", b"").decode("latin-1"),
        "encoding": encoding,
        "body": body,
    }


def _refusal(status: int, text: str, *headers: tuple[bytes, bytes]) -> ApiReply:
    kind = (b"content-type", b"text/plain; charset=utf-8")
    return ApiReply(status, [kind, *headers, *_SAFE], f"{text}\n".encode())
