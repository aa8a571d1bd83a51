"""A gzip stream, unpacked piece by piece.

Python's own reader takes a header's file name byte by byte, however long it is, and knows no limit.
zlib reads gzip's headers and compares its checksums by itself.
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from mmekit.archive.budget import Budget

_COPY = 1 << 16
_GZIP = zlib.MAX_WBITS | 16


class Gunzip(io.RawIOBase):
    """What a .gz holds, from front to back; a damaged one is a zlib.error or an EOFError.

    Parameters
    ----------
    source
        The .gz.
    budget
        Where bytes are counted on their way in and out.
    """

    def __init__(self, source: BinaryIO, budget: Budget) -> None:
        super().__init__()
        self._source = source
        self._budget = budget
        self._stream = zlib.decompressobj(_GZIP)
        self._waiting = b""
        self._is_first = True

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill a buffer as far as one step goes; 0 is the end."""
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        data = b""
        while size and not data:
            if (self._is_first or self._stream.eof) and not self._begins():
                break
            if not self._waiting and not self._fill():
                raise EOFError("the gzip stream ends in the middle")
            data = self._stream.decompress(self._waiting, size)
            self._waiting = self._stream.unconsumed_tail or self._stream.unused_data
            self._budget.take_unpacked(len(data))
        return data

    def _begins(self) -> bool:
        """Begin the next stream of several; zeros may stand before it, and at the end."""
        while not self._waiting or not (self._is_first or self._waiting.strip(b"\0")):
            if not self._fill():
                return False
        if not self._is_first:
            self._waiting = self._waiting.lstrip(b"\0")
        self._is_first = False
        self._stream = zlib.decompressobj(_GZIP)
        return True

    def _fill(self) -> bool:
        self._waiting = self._source.read(_COPY)
        self._budget.take_packed(len(self._waiting))
        return bool(self._waiting)
