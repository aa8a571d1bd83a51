"""A body, as it comes."""

from __future__ import annotations

__all__ = ["Body"]

_WHOLE = 16 << 10
"""Pieces of this size are kept as they came; smaller ones are joined."""


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
