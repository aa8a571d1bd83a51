"""A WSGI application, called with one of our requests, whose body may be ``aws-chunked``.

That is chunks, which may be signed, and trailers. moto decodes them too, but one of its two ways
copies what it has for every chunk, which makes a 100 MB upload take many seconds. Format: AWS's
"Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks"
(Amazon S3 API Reference).
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from moto.core.request import (
    PRESERVED_HEADER_NAMES_ENVIRON_KEY,
    environ_key_for_header,
    should_preserve_original_header_name,
)

from mmekit_local.http import Body
from mmekit_local.sagemaker.api import ApiReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from mmekit_local.sagemaker.api import ApiRequest, Headers

    ExceptionInfo = (
        tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None
    )
    Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

__all__ = ["call_wsgi", "decode_chunked", "environ_of", "is_chunked"]

_NOT_PASSED_ON = frozenset(("content-length", "transfer-encoding", "upgrade"))
"""How the request came. (Who offers a websocket would be refused as if it were one.)"""


_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_TRAILER_BYTES = 16 << 10
_LENGTH = b"x-amz-decoded-content-length"
_REPLACED = frozenset(
    {
        b"content-encoding",
        b"content-length",
        b"x-amz-content-sha256",
        _LENGTH,
        b"x-amz-trailer",
    }
)


def call_wsgi(application: Application, request: ApiRequest) -> ApiReply:
    """Return an application's answer; whatever it raises goes through."""
    call = _WsgiCall()
    pieces = application(environ_of(request), call.start_response)
    try:
        body = b"".join(pieces)
    finally:
        getattr(pieces, "close", lambda: None)()
    # The server writes a length of its own. Of what HEAD asks for, moto alone knows it.
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in call.headers
        if request.method == "HEAD" or name.lower() != "content-length"
    ]
    return ApiReply(call.status, headers, b"" if request.method == "HEAD" else body)


class _WsgiCall:
    """Where a WSGI application leaves the status and the headers of its answer."""

    status: int
    headers: list[tuple[str, str]]

    def start_response(
        self, status: str, headers: list[tuple[str, str]], _: ExceptionInfo = None
    ) -> Callable[[bytes], object]:
        self.status = int(status.split(" ", 1)[0])
        self.headers = headers
        return lambda _: None


def environ_of(request: ApiRequest) -> dict[str, Any]:
    """Build the WSGI environ (PEP 3333) that moto's own server would build."""
    body = b"".join(request.body)
    target = request.path + (b"?" + request.query if request.query else b"")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
        "QUERY_STRING": request.query.decode("latin-1"),
        "RAW_URI": target.decode("latin-1"),
        "REQUEST_URI": target.decode("latin-1"),
        "SERVER_NAME": request.server[0],
        "SERVER_PORT": str(request.server[1]),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.client[0],
        "REMOTE_PORT": str(request.client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,  # spares werkzeug a loop over pieces of 64 KiB
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    spelled: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name = raw_name.decode("latin-1")
        if name in _NOT_PASSED_ON:
            continue
        key = environ_key_for_header(name)
        if "_" in name:  # WSGI cannot tell x_y from x-y; S3 can, and moto knows how to be told
            if not should_preserve_original_header_name(name):
                continue
            spelled[key] = name
        value = raw_value.decode("latin-1")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ["CONTENT_LENGTH"] = str(len(body))
    environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = spelled
    return environ


def is_chunked(request: ApiRequest) -> bool:
    """Say whether a request's body is in this coding."""
    return (request.header(b"x-amz-content-sha256") or b"").startswith(b"STREAMING-")


def decode_chunked(request: ApiRequest) -> ApiRequest:
    """Return the request as it would be without the coding; trailers become headers.

    Raises
    ------
    ValueError
        The body ends early, is not in the coding or has not the length that is said.
    """
    body, trailers = _split(b"".join(request.body))
    length = request.header(_LENGTH)
    if length is not None and length != b"%d" % body.size:
        raise ValueError("the body has another length")
    headers = [header for header in request.headers if header[0] not in _REPLACED]
    headers += [(name, value) for name, value in trailers if name.startswith(b"x-amz-checksum-")]
    # As STREAMING-… moto would take it for coded still.
    headers.append((b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"))
    codings = [
        coding.strip()
        for coding in (request.header(b"content-encoding") or b"").split(b",")
        if coding.strip() not in (b"", b"aws-chunked")
    ]
    if codings:
        headers.append((b"content-encoding", b",".join(codings)))
    return replace(request, headers=headers, body=tuple(body.take()))


def _split(coded: bytes) -> tuple[Body, Headers]:
    view = memoryview(coded)
    body = Body()
    position = 0
    while size := _size_at(coded, position):
        start = coded.index(b"\r\n", position) + 2
        position = start + size
        if coded[position : position + 2] != b"\r\n":
            raise ValueError("a chunk does not end where it says")
        body.add(bytes(view[start:position]))
        position += 2
    position = coded.index(b"\r\n", position) + 2
    if len(coded) - position > _TRAILER_BYTES:
        raise ValueError("the trailers are too long")
    lines = coded[position:].split(b"\r\n")
    trailers = [line.partition(b":") for line in lines if b":" in line]
    return body, [(name.strip().lower(), value.strip()) for name, _, value in trailers]


def _size_at(coded: bytes, position: int) -> int:
    """Return the size of the chunk that begins there, which a semicolon or a line end follows."""
    match = _SIZE.match(coded, position)
    if match is None or coded[match.end() : match.end() + 1] not in (b";", b"\r"):
        raise ValueError("a chunk has no size")
    return int(match[0], 16)
