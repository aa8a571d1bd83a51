"""The bytes between a server and DJL's Python engine, read and written on either side.

Everything is big endian. A text is its length as int32 and its UTF-8; -1 is none. A request is an
int16 count and that many pairs of texts (its properties), then an int16 count and that many pairs
of a text and bytes (its content). An answer is an int16 status, a text, its properties and its
content; a content count of -1 announces a stream of chunks: a byte (1: more follow), an int32
length and that many bytes.

Source: djl_python/inputs.py and outputs.py of the engine; Connection.java and CodecUtils.java of
DJL Serving.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_PART_BYTES = 1 << 30
"""A single text or content longer than this is taken for garbage."""

MAX_ITEMS = 0x7FFF
"""So many properties, or contents, a message may have."""

_INT = struct.Struct(">i")
_SHORT = struct.Struct(">h")


class WireError(Exception):
    """The bytes follow no format that is spoken here, or what is to be sent does not fit it."""


class IncompleteError(Exception):
    """More bytes are needed.

    Attributes
    ----------
    needed
        The length of a buffer in which the reading would come further.
    """

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class WireRequest(NamedTuple):
    """A request.

    Attributes
    ----------
    properties
        Headers, and what the server adds.
    content
        Pairs of a key, which may be None, and bytes; empty in the initialisation request.
    """

    properties: dict[str, str]
    content: tuple[tuple[str | None, bytes], ...]


class WireAnswer(NamedTuple):
    """What a worker answers to one request.

    Attributes
    ----------
    properties
        In the order in which they came; on the way to a client they become headers.
    content
        Pairs of a key, which may be None, and bytes.
    """

    status: int
    message: str
    properties: tuple[tuple[str, str], ...]
    content: tuple[tuple[str | None, bytes], ...]


def encode_request(
    properties: Mapping[str, str], content: Sequence[tuple[str | None, bytes]] = ()
) -> bytes:
    """Return the bytes of a request.

    Raises
    ------
    WireError
        More than 32,767 properties or parts.
    """
    parts: list[bytes] = []
    _write_properties(parts, properties.items(), len(properties))
    _write_content(parts, content)
    return b"".join(parts)


def encode_answer(answer: WireAnswer) -> bytes:
    """Return the bytes of an answer, as ``Output.send`` writes them.

    Raises
    ------
    WireError
        More than 32,767 properties or parts.
    """
    parts = [_SHORT.pack(answer.status)]
    _write_text(parts, answer.message)
    _write_properties(parts, answer.properties, len(answer.properties))
    _write_content(parts, answer.content)
    return b"".join(parts)


def _write_text(parts: list[bytes], text: str | None) -> None:
    if text is None:
        parts.append(_INT.pack(-1))
    else:
        raw = text.encode()
        parts += (_INT.pack(len(raw)), raw)


def _write_properties(parts: list[bytes], pairs: Iterable[tuple[str, str]], count: int) -> None:
    if count > MAX_ITEMS:
        raise WireError(f"{count} properties: too many")
    parts.append(_SHORT.pack(count))
    for key, value in pairs:
        raw_key = key.encode()
        raw_value = value.encode()
        parts += (_INT.pack(len(raw_key)), raw_key, _INT.pack(len(raw_value)), raw_value)


def _write_content(parts: list[bytes], content: Sequence[tuple[str | None, bytes]]) -> None:
    if len(content) > MAX_ITEMS:
        raise WireError(f"{len(content)} parts: too many")
    parts.append(_SHORT.pack(len(content)))
    for key, value in content:
        _write_text(parts, key)
        parts += (_INT.pack(len(value)), value)


def decode_request(data: bytes | bytearray) -> tuple[WireRequest, int] | None:
    """Read the request at the beginning of ``data``; return it and its length in bytes.

    None when it is not whole yet.

    Raises
    ------
    WireError
        The bytes are no request.
    """
    cursor = Cursor(data)
    try:
        properties = dict(read_properties(cursor))
        return WireRequest(properties, read_content(cursor, _count(cursor))), cursor.position
    except IncompleteError:
        return None
    except UnicodeDecodeError as error:
        raise WireError("a text that is not UTF-8") from error


class Cursor:
    """Reads a buffer from its beginning; `IncompleteError` when more bytes are needed."""

    __slots__ = ("buffer", "position")

    def __init__(self, buffer: bytes | bytearray) -> None:
        self.buffer = buffer
        self.position = 0

    def short(self) -> int:
        """Read an int16."""
        return self._unpack(_SHORT)

    def integer(self) -> int:
        """Read an int32."""
        return self._unpack(_INT)

    def raw(self, length: int) -> bytes:
        """Read so many bytes."""
        # Before one waits for so many bytes: garbage may announce two gigabytes.
        if length > MAX_PART_BYTES:
            raise WireError(f"a part of {length} bytes")
        end = self.position + length
        if end > len(self.buffer):
            raise IncompleteError(end)
        value = bytes(self.buffer[self.position : end])
        self.position = end
        return value

    def text(self) -> str | None:
        """Read a text; None when its length is negative."""
        length = self.integer()
        return None if length < 0 else self.raw(length).decode()

    def _unpack(self, kind: struct.Struct) -> int:
        end = self.position + kind.size
        if end > len(self.buffer):
            raise IncompleteError(end)
        value: int = kind.unpack_from(self.buffer, self.position)[0]
        self.position = end
        return value


def _count(cursor: Cursor) -> int:
    count = cursor.short()
    if count < 0:
        raise WireError(f"{count} items")
    return count


def read_properties(cursor: Cursor) -> tuple[tuple[str, str], ...]:
    """Read a count and that many pairs of texts."""
    return tuple((cursor.text() or "", cursor.text() or "") for _ in range(_count(cursor)))


def read_content(cursor: Cursor, parts: int) -> tuple[tuple[str | None, bytes], ...]:
    """Read so many pairs of a text and bytes."""
    # To the engine, a length below 0 is that of no bytes.
    return tuple((cursor.text(), cursor.raw(max(0, cursor.integer()))) for _ in range(parts))
