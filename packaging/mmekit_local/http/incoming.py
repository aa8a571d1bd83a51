"""A request that is being read, and its body."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmekit_local.http.messages import RawHeaders

__all__ = ["Body", "IncomingRequest"]

_WHOLE = 16 << 10
"""Pieces of a body of this size are kept as they came; smaller ones are joined."""

_LENGTHS = frozenset(map(len, ("expect", "content-length", "transfer-encoding")))
"""The lengths of the headers that matter here: most others are told apart by theirs."""


class Body:
    r"""The pieces of a body, kept in about as many bytes as it has, however small they came.

    An object takes some forty bytes of its own, and chunks of two bytes are no error.

    Attributes
    ----------
    size
        How many bytes have come.

    Examples
    --------
    >>> body = Body()
    >>> for piece in (b"one", b"two", b"three"):
    ...     body.add(piece)
    >>> body.size, b"".join(body.take())
    (11, b'onetwothree')
    """

    __slots__ = ("_pieces", "_small", "size")

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] = []
        self._small = bytearray()

    def add(self, piece: bytes) -> None:
        """Have one more piece."""
        self.size += len(piece)
        if self._pieces and len(piece) < _WHOLE:  # most bodies have but one
            self._small += piece
            if len(self._small) >= _WHOLE:
                self._flush()
            return
        if self._small:
            self._flush()
        self._pieces.append(piece)

    def take(self) -> list[bytes]:
        """Return what has come, and keep nothing of it."""
        if self._small:
            self._flush()
        pieces, self._pieces = self._pieces, []
        return pieces

    def _flush(self) -> None:
        self._pieces.append(bytes(self._small))
        self._small = bytearray()


class IncomingRequest:
    """What has come of a request that is being read.

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
            if len(name) not in _LENGTHS:
                continue
            lower = name.lower()
            if lower == b"expect":
                expected = value.lower()
                # Netty's aggregator drops Expect and Transfer-Encoding: other heads stay as sent.
                self.coded = True
            elif lower == b"content-length":
                # Two of them are no HTTP to the parser.
                length = value
            elif lower == b"transfer-encoding":
                self.coded = True
        return expected, length

    def head_without_offer(self, method: bytes, version: str) -> bytes:
        """Return the head without the header that offers another protocol."""
        lines = [b"%b %b HTTP/%b" % (method, self.url, version.encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0].lower() != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])
