"""The members of a tar, read by Python's tarfile within a budget.

tarfile believes what a header says: it reads a pax header of any size in one piece, hands every
record of a global one to each member, follows chains of headers by recursion, searches digits in a
way that takes the square of their number (CVE-2024-6232), jumps backwards for a negative size
(CVE-2025-8194), and keeps every member. Here it gets a file that counts and only moves forward, and
of pax headers only what has a say in which bytes are whose.
"""

from __future__ import annotations

import re
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from mmekit.errors import BudgetError, UnsafeArchiveError

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

    from mmekit.archive.budget import Budget

_BLOCK = 512
_COPY = 1 << 18
# A file's content is read in smaller pieces.
_LARGEST_READ = 1 << 20
# Linux opens no longer path (PATH_MAX).
_NAME_MAX_BYTES = 4096
# A size of 64 bits has 20.
_NUMBER_MAX_DIGITS = 32
_REMEDY = "do not use this archive: no honest one looks like this"

_RECORD = re.compile(rb"(\d{1,10}) ([^=\n]{1,1024})=")
_LINE_END = 0x0A
_GLOBAL = tarfile.XGLTYPE
_PLAIN = (tarfile.REGTYPE, tarfile.DIRTYPE)
_PLAIN_NUMBERS = re.compile(rb"([0-7]{11})[\0 ]([0-7]{6,7})[\0 ]{1,2}")  # size and checksum
_CHARSET = b"hdrcharset"
_BINARY, _UTF8 = b"21 hdrcharset=BINARY\n", b"20 hdrcharset=UTF-8\n"
# GNU tar has written sparse files into pax headers in three ways: 0.0, 0.1 and 1.0.
_SPARSE = tuple(
    b"GNU.sparse." + key
    for key in (
        b"major",
        b"map",
        b"minor",
        b"name",
        b"numblocks",
        b"numbytes",
        b"offset",
        b"realsize",
        b"size",
    )
)
_NAMES = (b"path", b"linkpath", b"GNU.sparse.name")
_ACTED_UPON = frozenset((*_NAMES, *_SPARSE, _CHARSET, b"size"))


class Tarball(tarfile.TarFile):
    """A tar that is read once, from front to back.

    Attributes
    ----------
    budget
        What reading it has cost.
    """

    fileobj: CountingFile  # type: ignore[assignment]

    def __init__(self, fileobj: CountingFile) -> None:
        self.budget = fileobj.budget
        super().__init__(fileobj=fileobj, mode="r", tarinfo=_TarMember, errorlevel=2)  # type: ignore[arg-type]

    def next(self) -> tarfile.TarInfo | None:
        """Return the next member, and forget those before it."""
        # tarfile reads the first member when it opens, and then its next() returns the same again.
        is_counted = getattr(self, "firstmember", None) is not None
        member = super().next()
        self.members: list[tarfile.TarInfo] = []
        if member is not None and not is_counted:
            self.budget.take_member(member.name)
            if member.isreg():
                self.budget.take_content(member.name, member.size)
        return member

    def pass_over(self, folder: str) -> None:
        """Move on behind the files and folders that come next, as far as they lie in a folder.

        They count as any other, but no header is taken apart further than need be: a folder may
        have ten thousand of them. What has a header of another kind ends it.
        """
        start = f"{folder}/".encode()
        while True:
            self.fileobj.seek(self.offset)
            if self.fileobj.tell() != self.offset:
                return  # it ends in the middle, as whoever reads on is told
            with self.fileobj.header():
                header = self.fileobj.read(_BLOCK)
            found = _plain_member(header)
            if found is None or not found[0].startswith(start):
                self.fileobj.put_back(header)
                return
            name = found[0].decode("utf-8", "replace")
            self.budget.take_member(name)
            self.budget.take_content(name, found[1])
            self.offset += _BLOCK + found[1] + -found[1] % _BLOCK

    def read_whole(self, member: tarfile.TarInfo) -> bytes:
        """Return what a file holds; it counts as kept in memory."""
        self.budget.take_kept(member.name, member.size)
        source = self.extractfile(member)
        if source is None:
            return b""
        pieces = []
        while piece := source.read(_COPY):
            pieces.append(piece)
        return b"".join(pieces)


class CountingFile:
    """What tarfile reads from: it only moves forward, and counts headers.

    Parameters
    ----------
    stream
        The tar, out of its compression, which counts every byte.
    budget
        Where headers are counted.
    """

    def __init__(self, stream: io.BufferedIOBase, budget: Budget) -> None:
        self.budget = budget
        self._stream = stream
        self._position = 0
        self._chain = 0
        self._header = 0
        self._instead = b""
        self._put_back = b""

    def read(self, size: int = -1) -> bytes:
        """Read as much as is asked for, within reason."""
        if self._instead:
            data, self._instead = self._instead, b""
            return data
        limits = self.budget.limits
        if self._chain:
            self._header += max(size, 0)
        if not 0 <= size <= _LARGEST_READ or self._header > limits.member_header_bytes:
            raise BudgetError(
                f"A header of the archive claims {size} bytes; "
                f"{limits.member_header_bytes} is the most for all headers of a member",
                where=self.budget.where,
                remedy=_REMEDY,
                limit="member_header_bytes",
            )
        if self._chain:
            self.budget.take_header(size)
        data, self._put_back = self._put_back, b""
        if not data:
            data = self._stream.read(size)
        self._position += len(data)
        return data

    def put_back(self, data: bytes) -> None:
        """Have what was read last come once more, by a read of its size."""
        self._put_back = data
        self._position -= len(data)

    def read_next(self, data: bytes) -> None:
        """Let the next read return this, in place of what it replaces."""
        self._instead = data

    def seek(self, position: int) -> int:
        """Move forward, by reading."""
        if position < self._position:
            self.refuse("leads backwards")
        while self._position < position:
            data = self._stream.read(min(_COPY, position - self._position))
            if not data:
                break
            self._position += len(data)
        return self._position

    def tell(self) -> int:
        """Return how much was read."""
        return self._position

    @contextmanager
    def header(self) -> Iterator[None]:
        """Count what is read meanwhile as headers, each of which may be about the next."""
        if self._chain == 0:
            self._header = 0
        self._chain += 1
        try:
            if self._chain > self.budget.limits.chain:
                raise BudgetError(
                    f"One member has a chain of more than {self.budget.limits.chain} headers",
                    where=self.budget.where,
                    remedy=_REMEDY,
                    limit="chain",
                )
            yield
        finally:
            self._chain -= 1

    def refuse(self, reason: str) -> NoReturn:
        """Raise what says that a header is none that an honest archive has."""
        raise UnsafeArchiveError(
            f"A header of the archive {reason}", where=self.budget.where, remedy=_REMEDY
        )


class _TarMember(tarfile.TarInfo):
    """A member whose headers are bounded, and make sense."""

    @classmethod
    def fromtarfile(cls, tarfile: Tarball) -> _TarMember:  # type: ignore[override]
        with tarfile.fileobj.header():
            member: _TarMember = cls._read(tarfile)
        if member.size < 0:
            tarfile.fileobj.refuse(f"has a negative size: {member.name[:_NAME_MAX_BYTES]!r}")
        if max(len(member.name), len(member.linkname)) > _NAME_MAX_BYTES:
            tarfile.fileobj.refuse(f"names more than {_NAME_MAX_BYTES} characters")
        _see_sparse(tarfile.fileobj, member)
        return member

    @classmethod
    def _read(cls, tar: Tarball) -> _TarMember:
        try:
            return super().fromtarfile(tar)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            # tarfile takes this for the end, and what is behind it would be missing unseen.
            raise tarfile.ReadError(f"a header in it is none: {error}") from error

    def _proc_pax(self, tarfile: Tarball) -> tarfile.TarInfo:
        file = tarfile.fileobj
        records = file.read(self._block(self.size))[: self.size]  # type: ignore[attr-defined]
        kept = _acted_upon(file, records)
        if self.type == _GLOBAL and any(key != _CHARSET for key, _ in kept):
            # Each member would have the name, or the size, of all.
            file.refuse("says of every member what can only be said of one")
        is_binary = (_CHARSET, b"BINARY") in kept or (
            tarfile.pax_headers.get("hdrcharset") == "BINARY"
            and not any(key == _CHARSET for key, _ in kept)
        )
        # Before everything else: tarfile searches for it, and finds it at once.
        data = _BINARY if is_binary else _UTF8
        data += b"".join(pax_record(key, value) for key, value in kept if key != _CHARSET)
        self.size = len(data)
        file.read_next(data + bytes(-len(data) % _BLOCK))
        return super()._proc_pax(tarfile)  # type: ignore[misc, no-any-return]


def _plain_member(header: bytes) -> tuple[bytes, int] | None:
    """Return name and size of a file or a folder, from a header that POSIX knows and nothing more.

    None for every other.
    """
    if header[257:263] != b"ustar\0" or header[156:157] not in _PLAIN:
        return None
    numbers = _PLAIN_NUMBERS.fullmatch(header[124:136] + header[148:156])
    if numbers is None or int(numbers[2], 8) != sum(header) - sum(header[148:156]) + 8 * 32:
        return None
    size = int(numbers[1], 8)
    name, before = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    name = before + b"/" + name if before else name
    if b".." in name or (size and header[156:157] == tarfile.DIRTYPE):
        return None
    return name, size


def _acted_upon(file: CountingFile, records: bytes) -> list[tuple[bytes, bytes]]:
    """Return the records of a pax header that say which bytes are whose, in their order."""
    kept = []
    position = 0
    # A zero ends the records, as it does to tarfile since CVE-2024-6232.
    while position < len(records) and records[position] != 0:
        match = _RECORD.match(records, position)
        end = 0 if match is None else position + int(match[1])
        if match is None or not match.end() < end <= len(records) or records[end - 1] != _LINE_END:
            raise tarfile.ReadError("a pax header holds what is no record")
        key, value = match[2], records[match.end() : end - 1]
        if key in _ACTED_UPON:
            _see(file, key, value)
            kept.append((key, value))
        position = end
    return kept


def _see(file: CountingFile, key: bytes, value: bytes) -> None:
    """Refuse values that cost more to read than they can be worth."""
    if key in _NAMES:
        if len(value) > _NAME_MAX_BYTES:
            file.refuse(f"names more than {_NAME_MAX_BYTES} bytes")
    elif max(map(len, value.split(b",")), default=0) > _NUMBER_MAX_DIGITS:
        # GNU.sparse.map is many numbers in one record.
        file.refuse(f"has a number of more than {_NUMBER_MAX_DIGITS} digits")


def _see_sparse(file: CountingFile, member: tarfile.TarInfo) -> None:
    """Refuse a map whose parts overlap, go backwards or beyond the end."""
    parts: list[tuple[int, int]] = getattr(member, "sparse", None) or []
    end = 0
    for offset, size in parts:
        # GNU tar ends the map of a file that ends with a hole with such a part.
        if size == 0:
            continue
        if size < 0 or offset < end or offset + size > member.size:
            file.refuse(f"has a map of a sparse file that makes no sense: {member.name!r}")
        end = offset + size


def pax_record(key: bytes, value: bytes) -> bytes:
    """Return a record of a pax header."""
    # The length counts its own digits.
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest
