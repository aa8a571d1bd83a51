"""A layer's tar.gz, unpacked with distrust: plain files below one folder, and not too much of it.

Packing writes nothing else: ustar, with pax records for long names and sizes. tarfile would take
links, and headers of any size into memory.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Protocol

from .contents import counts
from .listing import LayerError

if TYPE_CHECKING:
    from .listing import LayerEntry

    class _Source(Protocol):
        def read(self, size: int, /) -> bytes: ...


_BLOCK = 512
_PIECE = 1 << 18
_FILE, _OLD_FILE, _FOLDER, _PAX = b"0", b"\0", b"5", b"x"
_PAX_BYTES = 64 << 10
_MEMBERS_PER_FILE, _MEMBERS = 64, 1024
"""Folders and pax headers have members of their own."""


class TruncatedLayerError(LayerError):
    """Its bytes end too early: the connection may have ended, which is worth another attempt."""


def unpack(source: _Source, folder: str, entry: LayerEntry) -> None:
    """Write the files of a layer's tar.gz into an empty folder.

    What Python has compiled is left out: the layer's name says nothing about it.

    Raises
    ------
    LayerError
        It is damaged, or something that packing does not write, or more than layers.json says.
    OSError
        A file cannot be written.
    """
    stream = _Gunzip(source)
    left, files, pax = entry.bytes, 0, {}
    for _ in range(_MEMBERS_PER_FILE * entry.files + _MEMBERS):
        block = stream.read(_BLOCK)
        if not block.strip(b"\0"):
            return
        kind, name, size, mode = _header(block)
        if kind == _PAX:
            if size > _PAX_BYTES:
                raise _strange("a pax header is too long")
            pax = _records(stream.read(size))
            stream.read(-size % _BLOCK)
            continue
        name = pax.get(b"path", name)
        size = _number(pax[b"size"], 10) if b"size" in pax else size
        pax = {}
        if kind == _FOLDER and not size:
            continue
        if kind not in (_FILE, _OLD_FILE):
            raise _strange(f"{os.fsdecode(name)!r} is no plain file")
        left -= size
        files += 1
        if left < 0 or files > entry.files:
            raise _strange("there is more in it than layers.json says")
        _write(stream, folder, _safe(name), size, mode)
    raise _strange("it has too many members")


class _Gunzip:
    """Reads the tar out of its compression, piece by piece."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(wbits=31)
        # Of a view a piece is taken without a copy of what remains.
        self._waiting = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return just so many bytes; at most a piece is kept besides."""
        pieces, missing = [], size
        while missing:
            if not self._waiting:
                self._waiting = self._more()
            pieces.append(self._waiting[:missing])
            self._waiting = self._waiting[missing:]
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def _more(self) -> memoryview:
        while not self._inflate.eof:
            data = self._inflate.unconsumed_tail or self._source.read(_PIECE)
            if not data:
                raise TruncatedLayerError("its bytes end too early")
            try:
                if found := self._inflate.decompress(data, _PIECE):
                    return memoryview(found)
            except zlib.error as error:
                raise _strange(f"it is no gzip ({error})") from error
        raise _strange("the tar ends too early")


def _header(block: bytes) -> tuple[bytes, bytes, int, int]:
    """Return type, name, size and mode."""
    total = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
    if _number(block[148:156], 8) != total:
        raise _strange("a header's checksum is wrong")
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return block[156:157], name, _number(block[124:136], 8), _number(block[100:108], 8)


def _number(text: bytes, base: int) -> int:
    digits = text.strip(b" \0")
    if len(digits) > 20 or not digits.isdigit():  # noqa: PLR2004  those of 64 bits
        raise _strange("a number is none")
    try:
        return int(digits, base)
    except ValueError:
        raise _strange("a number is none") from None


def _records(data: bytes) -> dict[bytes, bytes]:
    found = {}
    while data:
        length = _number(data.partition(b" ")[0], 10)
        record, data = data[:length], data[length:]
        key, separator, value = record.partition(b" ")[2].partition(b"=")
        if not separator or not value.endswith(b"\n"):
            raise _strange("a pax header cannot be read")
        found[key] = value[:-1]
    return found


def _safe(name: bytes) -> str:
    text = os.fsdecode(name.removeprefix(b"./"))
    if "\0" in text or not all(part not in ("", ".", "..") for part in text.split("/")):
        raise _strange(f"the name {text!r} leads out of it")
    return text


def _write(stream: _Gunzip, folder: str, name: str, size: int, mode: int) -> None:
    path, out = os.path.join(folder, name), None
    padding = -size % _BLOCK
    if counts(name):
        try:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            out = open(os.open(path, flags, 0o755 if mode & 0o100 else 0o644), "wb")  # noqa: SIM115
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise _strange(f"{name!r} is there twice") from None
    try:
        while size:
            data = stream.read(min(size, _PIECE))
            size -= len(data)
            if out is not None:
                out.write(data)
    finally:
        if out is not None:
            out.close()
    stream.read(padding)


def _strange(what: str) -> LayerError:
    return LayerError(f"the tar is not one of a layer: {what}; upload it again")
