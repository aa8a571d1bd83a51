"""Requests and responses, what a client may send, and what a head may hold.

Whatever becomes a line of a head is text of somebody else's: of a handler, of a form, of an
object's metadata. A line end in it would be a header that nobody set, or a request that nobody
sent; so heads are looked at where they go out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Headers = list[tuple[str, str]]
RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class HttpLimits:
    """What a client may send, and how long it may take over it.

    The defaults are those of a container. Source: ServerInitializer and NettyUtils of DJL Serving
    0.36, which take Netty's.

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
    idle_s
        How long a connection may be without a request; None is for ever, as DJL Serving has it.
    connections
        How many there may be. To make room for others, those end that have had no whole request
        for longest; when all are being answered, one more gets 503. None is as many as there are
        descriptors.
    errors_end
        Whether an answer of 400 and above ends its connection, as in DJL Serving.
    """

    body_bytes: int = 64 << 20
    line_bytes: int = 4096
    head_bytes: int = 8192
    request_s: float = 60.0
    stall_s: float = 60.0
    idle_s: float | None = None
    connections: int | None = None
    errors_end: bool = True


@dataclass
class HttpRequest:
    """One request.

    Attributes
    ----------
    target
        Path and query as the client wrote them, in Latin-1.
    headers
        In their order and spelling, as they came. A body that came in chunks has a
        ``content-length`` instead of ``Transfer-Encoding``, as Netty's aggregator has it.
    pieces
        The body in the pieces in which it came, so that a large upload need not be joined in the
        event loop.
    if_gone
        Called when the client goes away before it has its answer.
    """

    method: str
    target: str
    headers: RawHeaders
    pieces: list[bytes] = field(default_factory=list)
    keep_alive: bool = True
    if_gone: Callable[[], object] | None = field(default=None, compare=False)

    @property
    def body(self) -> bytes:
        """The whole body."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


class HttpResponse(NamedTuple):
    """One answer: a body, or a stream of chunks.

    ``content-length``, ``transfer-encoding`` and ``connection`` are not among the headers.

    Attributes
    ----------
    stream
        Whatever waits in it is cancelled when the client goes away.
    length
        What ``content-length`` says where it is not the body's length: in an answer to HEAD.
    """

    status: int
    reason: str
    headers: Headers
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None
    length: int | None = None


class Responder(NamedTuple):
    """Who answers requests, and what is said to those that are none.

    Attributes
    ----------
    answer
        Never raises.
    refuse
        Makes the answer to what is no request, of a status and a message.
    largest_body
        Says of a method and a target how many bytes a body may have; it is asked only about bodies
        above `HttpLimits.body_bytes`. None: no body may have more.
    """

    answer: Callable[[HttpRequest], Awaitable[HttpResponse]]
    refuse: Callable[[int, str], HttpResponse]
    largest_body: Callable[[str, str], int] | None = None


def aggregated(headers: RawHeaders, size: int) -> RawHeaders:
    """Return the headers of a request whose body is whole, as Netty's aggregator leaves them."""
    coded = any(name.lower() == b"transfer-encoding" for name, _ in headers)
    dropped = (b"expect", b"transfer-encoding")
    kept = [header for header in headers if header[0].lower() not in dropped]
    if coded:
        kept.append((b"content-length", b"%d" % size))
    return kept


class HeadError(ValueError):
    """A head cannot be sent: what was to be one line of it is more, or holds a zero byte."""


def lines_of(head: bytes, count: int) -> bytes:
    r"""Return (a part of) a head that consists of so many lines, each with its end.

    Raises
    ------
    HeadError
        It has more lines than that, or characters that end lines or texts elsewhere.

    Examples
    --------
    >>> lines_of(b"accept: text/csv\r\n", 1)
    b'accept: text/csv\r\n'
    >>> lines_of(b"accept: text/csv\r\nexpect: more\r\n", 1)
    Traceback (most recent call last):
    ...
    mmekit_local.http.messages.HeadError: a header has a line end or a zero byte in it
    """
    # Of each kind as many: to some readers a lone CR or LF ends a line, too.
    ends = (head.count(b"\r\n"), head.count(b"\n"), head.count(b"\r"))
    if ends != (count, count, count) or b"\0" in head:
        raise HeadError("a header has a line end or a zero byte in it")
    return head


def is_one_line(text: str) -> bool:
    r"""Say whether a text can be a header's value.

    Examples
    --------
    >>> is_one_line("text/csv; charset=utf-8"), is_one_line("text/csv\r\nHost: x")
    (True, False)
    """
    return not any(one in text for one in "\r\n\0")
