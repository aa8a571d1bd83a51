"""model.tar.gz as bytes: written by construction, read with a bound on every read.

Python's tarfile and zlib leave room: a header's fields have changed between Python's releases, and
zlib and zlib-ng compress the same data differently. What is written here depends on neither: the
tar headers are put together field by field (POSIX.1-2001: ustar, with a pax header where ustar is
too small), and the gzip stream consists of stored blocks (RFC 1951, 3.2.4) unless compression is
asked for. Everything that reading an archive costs is counted (`mmekit.archive.budget`).
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol

from mmekit.archive.budget import Budget, Limits
from mmekit.archive.tar_members import CountingFile, Tarball, pax_record
from mmekit.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_INPUT = 1 << 16
_GZIP = zlib.MAX_WBITS | 16
_BLOCK = 512
_COPY = 1 << 18
_BUFFER = 1 << 16
# RFC 1951, 3.2.4: the length of a stored block has 16 bits.
_STORED_MAX = 0xFFFF
# Eleven octal digits; a larger size goes into a pax header.
_USTAR_SIZE_MAX = 8**11 - 1
_NAME_MAX, _PREFIX_MAX = 100, 155
_FILE, _FOLDER, _PAX = b"0", b"5", b"x"
# Header: no flags, time 0, no word on the level, system unknown (RFC 1952, 2.3.1).
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

# tarfile lets through what int() says of a header's numbers, and what is missing in a short one.
_DAMAGED = (
    tarfile.TarError,
    zlib.error,
    EOFError,
    IndexError,
    OverflowError,
    ValueError,
)


class Gunzip(io.RawIOBase):
    """What a .gz holds, from front to back; a damaged one is a zlib.error or an EOFError.

    Python's own reader takes a header's file name byte by byte, however long it is, and knows no
    limit. zlib reads gzip's headers and compares its checksums by itself.

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
            # With a bound: a few kilobytes may be gigabytes, in memory before they are counted.
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
        self._waiting = self._source.read(_INPUT)
        self._budget.take_packed(len(self._waiting))
        return bool(self._waiting)


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> object:
        """Take data."""


class GzipWriter:
    """A gzip stream whose bytes depend on the data alone.

    Parameters
    ----------
    stream
        Where the bytes go.
    level
        None stores; 1 to 9 compresses with the zlib that this Python is linked with, so that the
        bytes are the same only where that is the same.
    """

    def __init__(self, stream: Sink, level: int | None = None) -> None:
        self._stream = stream
        # Raw deflate: zlib's own gzip header names the system that it was built for.
        self._deflate = None if level is None else zlib.compressobj(level, zlib.DEFLATED, -15)
        self._waiting = bytearray()
        self._crc = 0
        self._size = 0
        stream.write(_GZIP_HEADER)

    def write(self, data: bytes) -> None:
        """Add data."""
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        if self._deflate is not None:
            self._stream.write(self._deflate.compress(data))
            return
        self._waiting += data
        # One block is kept back, as the last one must say that it is the last.
        while len(self._waiting) > _STORED_MAX:
            self._store(self._waiting[:_STORED_MAX], last=False)
            del self._waiting[:_STORED_MAX]

    def close(self) -> None:
        """End the gzip stream; the stream below stays open."""
        if self._deflate is None:
            self._store(self._waiting, last=True)
        else:
            self._stream.write(self._deflate.flush())
        # RFC 1952 has the size modulo 2**32: from 4 GiB on it wraps around.
        self._stream.write(struct.pack("<II", self._crc, self._size & 0xFFFFFFFF))

    def _store(self, block: bytearray, *, last: bool) -> None:
        size = len(block)
        self._stream.write(struct.pack("<BHH", last, size, size ^ 0xFFFF) + block)


class TarWriter:
    """A tar of files and folders with nothing in it but names, sizes and contents.

    Folders have mode 0755, files 0644 unless it is said; owner 0, no owner's name, time 0.
    """

    def __init__(self, stream: GzipWriter) -> None:
        self._stream = stream

    def add_folder(self, name: str) -> None:
        """Add a folder."""
        self._header(f"{name}/", 0, 0o755, _FOLDER)

    def add_file(self, name: str, size: int, content: BinaryIO, *, mode: int = 0o644) -> None:
        """Add a file; ArchiveError when its content is not ``size`` bytes long."""
        self._header(name, size, mode, _FILE)
        written = 0
        while chunk := content.read(_COPY):
            written += len(chunk)
            self._stream.write(chunk)
        if written != size:
            raise ArchiveError(
                "The file changed while it was packed", where=name, remedy="pack again"
            )
        self._stream.write(bytes(-size % _BLOCK))

    def close(self) -> None:
        """Write the two empty blocks that end a tar."""
        self._stream.write(bytes(2 * _BLOCK))

    def _header(self, name: str, size: int, mode: int, kind: bytes) -> None:
        encoded = name.encode()
        records = b""
        split = _split(encoded)
        if split is None:
            records += pax_record(b"path", encoded)
            # For readers without pax; the record has the whole name.
            split = (b"", encoded[:_NAME_MAX])
        if size > _USTAR_SIZE_MAX:
            records += pax_record(b"size", b"%d" % size)
        if records:
            # As tarfile calls it: POSIX's own default holds the number of a process.
            short = b"././@PaxHeader"
            self._stream.write(_ustar(b"", short, len(records), 0o644, _PAX))
            self._stream.write(records + bytes(-len(records) % _BLOCK))
        self._stream.write(_ustar(*split, min(size, _USTAR_SIZE_MAX), mode, kind))


@contextmanager
def open_tarball(
    path: Path, content: bytes | None = None, limits: Limits | None = None
) -> Iterator[Tarball]:
    """Open a .tar.gz for reading from front to back; its checksum is verified at the end.

    Parameters
    ----------
    content
        The archive itself, where it is in memory already; ``path`` is only its name then.
    limits
        What it may cost; the defaults of `Limits` when None.

    Raises
    ------
    ArchiveError
        It does not exist, or is not a whole, undamaged tar in gzip.
    UnsafeArchiveError
        A header in it makes no sense.
    BudgetError
        Reading it would cost more than a limit allows.
    """
    try:
        opened = path.open("rb") if content is None else io.BytesIO(content)
        with opened as raw:
            # Of what was opened: the path may lead to another file by now.
            size = os.fstat(raw.fileno()).st_size if content is None else len(content)
            budget = Budget(str(path), size, limits or Limits())
            with (
                io.BufferedReader(Gunzip(raw, budget), _BUFFER) as stream,
                Tarball(CountingFile(stream, budget)) as tar,
            ):
                yield tar
                # Only at its end does gzip compare the checksum.
                is_padding = True
                while rest := stream.read(_COPY):
                    budget.take_tail(len(rest))
                    is_padding = is_padding and not rest.strip(b"\0")
                if not is_padding:
                    raise tarfile.ReadError("data follows its end")
    except _DAMAGED as error:
        raise ArchiveError(
            f"The archive is damaged, or no tar.gz at all: {error}",
            where=str(path),
            remedy="make it with `mme pack` or `tar czf`, and upload it again",
        ) from error
    except FileNotFoundError:
        raise ArchiveError("The archive does not exist", where=str(path)) from None


def parent_folders(names: Iterable[str]) -> list[str]:
    """Return the folders that files lie in, each after those above it.

    Examples
    --------
    >>> parent_folders(["a/b/c.txt", "a/d.txt", "e.txt"])
    ['a', 'a/b']
    """
    parents = {
        str(parent)
        for name in names
        for parent in PurePosixPath(name).parents
        if str(parent) != "."
    }
    return sorted(parents)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Return ustar's prefix and name fields; None when the name does not fit or is not ASCII."""
    if not name.isascii():
        return None
    if len(name) <= _NAME_MAX:
        return b"", name
    # The slash between the two fields is written in neither; a folder's own stays at the end.
    cut = name.find(b"/", max(len(name) - _NAME_MAX - 1, 1), len(name) - 1)
    if cut < 0 or cut > _PREFIX_MAX:
        return None
    return name[:cut], name[cut + 1 :]


def _ustar(prefix: bytes, name: bytes, size: int, mode: int, kind: bytes) -> bytes:
    header = bytearray(
        b"".join(
            (
                name.ljust(_NAME_MAX, b"\0"),
                b"%07o\0" % mode,
                b"%07o\0" % 0,  # owner
                b"%07o\0" % 0,  # group
                b"%011o\0" % size,
                b"%011o\0" % 0,  # time
                b" " * 8,  # checksum, counted as blanks
                kind,
                bytes(100),  # link's target
                b"ustar\0" + b"00",
                bytes(32 + 32),  # names of owner and group
                bytes(8 + 8),  # device
                prefix.ljust(_PREFIX_MAX, b"\0"),
                bytes(12),
            )
        )
    )
    # The checksum alone has six digits, NUL and blank, as the first tars wrote it.
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)
