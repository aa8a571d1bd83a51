"""Requests and responses, and what a client may send.

Source of the limits: ServerInitializer of DJL Serving 0.36, which takes Netty's defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Headers = list[tuple[str, str]]
_AGGREGATED = frozenset({"expect", "transfer-encoding"})


@dataclass(frozen=True)
class HttpLimits:
    """What a client may send, and how long it may take over it.

    Attributes
    ----------
    body_bytes
        ``max_request_size`` of DJL Serving.
    line_bytes, head_bytes
        The request line, and all headers together: Netty's defaults.
    request_s
        From the first byte of a request to its last. DJL Serving waits for ever.
    stall_s
        How long a client may read nothing of its answer.
    """

    body_bytes: int = 64 << 20
    line_bytes: int = 4096
    head_bytes: int = 8192
    request_s: float = 60.0
    stall_s: float = 60.0


@dataclass
class Request:
    """One request.

    Attributes
    ----------
    target
        Path and query as the client wrote them, in Latin-1.
    headers
        In their order and spelling. A body that came in chunks has a ``content-length`` instead
        of ``Transfer-Encoding``, as Netty's aggregator has it.
    if_gone
        Called when the client goes away before it has its answer.
    """

    method: str
    target: str
    headers: Headers
    body: bytes = b""
    keep_alive: bool = True
    if_gone: Callable[[], object] | None = field(default=None, compare=False)


class Response(NamedTuple):
    """One answer: a body, or a stream of chunks.

    ``content-length``, ``transfer-encoding`` and ``connection`` are not among the headers.
    """

    status: int
    reason: str
    headers: Headers
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None


class Responder(NamedTuple):
    """Who answers requests, and what is said to those that are none.

    Attributes
    ----------
    answer
        Never raises.
    refuse
        Makes the answer to what is no request, of a status and a message.
    """

    answer: Callable[[Request], Awaitable[Response]]
    refuse: Callable[[int, str], Response]


def aggregated(headers: Headers, size: int) -> Headers:
    """Return the headers of a request whose body is whole, as Netty's aggregator leaves them."""
    if not any(name.lower() in _AGGREGATED for name, _ in headers):
        return headers
    kept = [(name, value) for name, value in headers if name.lower() not in _AGGREGATED]
    if any(name.lower() == "transfer-encoding" for name, _ in headers):
        kept.append(("content-length", str(size)))
    return kept
