"""A request that is being read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmekit_local.http.body import Body

if TYPE_CHECKING:
    from mmekit_local.http.exchange import RawHeaders

__all__ = ["Incoming"]

_TELLING = frozenset(map(len, ("expect", "content-length", "transfer-encoding")))
"""The lengths of the headers that matter here: most others are told apart by theirs."""


class Incoming:
    """What has come of a request.

    Attributes
    ----------
    url
        The target, as far as it has come.
    headers
        As they came, trailers not among them.
    head_done
        Whether all of them are there.
    tail_bytes
        Of the trailers.
    body
        What has come of it.
    largest
        How many bytes it may have.
    refused
        Whether the request has had its answer: the rest of its body is to pass.
    coded
        Whether its headers are those of a body on its way, and not of one that is whole.
    awaits
        Whether its client waits to be told that it may send the body.
    """

    __slots__ = (
        "awaits",
        "body",
        "coded",
        "head_done",
        "headers",
        "largest",
        "refused",
        "tail_bytes",
        "url",
    )

    def __init__(self, largest: int) -> None:
        self.url = b""
        self.headers: RawHeaders = []
        self.head_done = False
        self.tail_bytes = 0
        self.body = Body()
        self.largest = largest
        self.refused = False
        self.coded = False
        self.awaits = False

    @property
    def head_bytes(self) -> int:
        """The size of the headers, counted as Netty does: without the ends of lines."""
        return sum(len(name) + len(value) + 2 for name, value in self.headers)

    def announced(self) -> tuple[bytes, bytes]:
        """Return what the client expects and how long the body is, each empty if it is not said."""
        expected = length = b""
        for name, value in self.headers:
            if len(name) not in _TELLING:
                continue
            lower = name.lower()
            if lower == b"expect":
                expected = value.lower()
                self.coded = True
            elif lower == b"content-length":
                length = value
            elif lower == b"transfer-encoding":
                self.coded = True
        return expected, length

    def head_without_offer(self, method: bytes, version: str) -> bytes:
        """Return the head without the header that offers another protocol."""
        lines = [b"%b %b HTTP/%b" % (method, self.url, version.encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0].lower() != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])
