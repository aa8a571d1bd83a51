"""What reading one archive may cost: counted here, whichever function reads it.

An archive decides how much work it makes: a few kilobytes of gzip are gigabytes of tar, and a
header says how long the next one is. So everything that is done for an archive is counted in one
`Budget`: what comes in, what comes out, headers, members, what is kept in memory, seconds. A
function that reads archives gets its budget with the archive (`mmekit.archive.tarball`); none
counts by itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NoReturn

from mmekit.errors import BudgetError

_MIB = 1 << 20
_BLOCK = 512
_NAME_SHOWN = 1024
# Deflate makes data larger by a thousandth at most. What takes in more than this for what it gives
# consists of gzip's own fields, such as a long file name, or of streams and blocks without content.
_PACKED_RATIO, _PACKED_FROM_BYTES = 1.25, 1 * _MIB


@dataclass(frozen=True)
class Limits:
    """How much an archive may unpack to, and what reading it may cost.

    Attributes
    ----------
    total_bytes
        Bytes of all files together.
    files
        Files, folders and links together, with the folders that only their names imply.
    ratio
        Unpacked bytes for each byte of the archive, once more than ``ratio_from_bytes`` are
        unpacked. Deflate reaches 1,032; models rarely go beyond 10. Counted are the contents of
        the files, and also whatever is read: data behind folders and links, headers, the end.
    ratio_from_bytes
        Unpacked bytes below which the ratio does not matter.
    header_bytes
        Bytes of all headers together: pax headers, long names and maps of sparse files are part of
        them.
    member_header_bytes
        Bytes of one member's headers.
    chain
        Headers of a member, its own included: each of those before it is about the next, such as
        pax, long name and long link.
    tail_bytes
        Bytes behind the last member; tar fills up a record, of 10 KiB unless it is told otherwise.
    kept_bytes
        Bytes of files that are kept in memory, such as manifest.json.
    seconds
        Time from opening the archive to its end.

    Notes
    -----
    Each is above what SageMaker allows itself, where it says so: ``total_bytes`` is its largest
    volume (VolumeSizeInGB), ``seconds`` the longest download of a model
    (ModelDataDownloadTimeoutInSeconds).
    """

    total_bytes: int = 512 << 30
    files: int = 100_000
    ratio: float = 200.0
    ratio_from_bytes: int = 64 * _MIB
    header_bytes: int = 256 * _MIB
    member_header_bytes: int = 1 * _MIB
    chain: int = 8
    tail_bytes: int = 1 * _MIB
    # The longest manifest (32 MiB), signature (4 MiB) and settings fit in together.
    kept_bytes: int = 40 * _MIB
    seconds: float = 3600.0

    @property
    def read_bytes(self) -> int:
        """Bytes that may be read to get at ``total_bytes`` of files."""
        padding = self.files * (_BLOCK - 1)
        return self.total_bytes + padding + self.header_bytes + self.tail_bytes


class Budget:
    """What one archive has cost so far.

    Each method counts before the work is done and raises `mmekit.errors.BudgetError` when that
    would be more than a limit allows.

    Parameters
    ----------
    where
        What errors call the archive.
    packed
        Bytes of the archive.
    limits
        How much of each there may be.

    Attributes
    ----------
    packed, unpacked
        Bytes that were read from the archive, and that its gzip stream gave.
    content
        Bytes of its files, as their headers say.
    headers, tail, kept
        Bytes of its headers, behind its last member, and in memory.
    members
        Files, folders and links.
    """

    def __init__(self, where: str, packed: int, limits: Limits) -> None:
        self.where = where
        self.limits = limits
        self.packed = self.unpacked = self.content = self.headers = 0
        self.tail = self.kept = self.members = 0
        self._size = max(packed, 1)
        self._most_unpacked = max(limits.ratio_from_bytes, limits.ratio * self._size)
        self._began = time.monotonic()

    def take_packed(self, size: int) -> None:
        """Count bytes of the archive itself."""
        self.packed += size
        if self.packed > _PACKED_FROM_BYTES + _PACKED_RATIO * self.unpacked:
            self._refuse(
                "packed",
                f"{self.packed} bytes of it unpack to {self.unpacked} bytes: there may be "
                f"{_PACKED_RATIO} for each, and {_PACKED_FROM_BYTES}",
            )

    def take_unpacked(self, size: int) -> None:
        """Count bytes that come out of the gzip stream, whatever they are."""
        self.take_time()
        self.unpacked += size
        if self.unpacked > self.limits.read_bytes:
            self._refuse(
                "read_bytes",
                f"more than {self.limits.read_bytes} bytes have to be read",
            )
        if self.unpacked > self._most_unpacked:
            self._refuse("ratio", self._times(self.unpacked))

    def take_header(self, size: int) -> None:
        """Count bytes of headers."""
        self.headers += size
        if self.headers > self.limits.header_bytes:
            self._refuse(
                "header_bytes", f"its headers are more than {self.limits.header_bytes} bytes"
            )

    def take_member(self, name: str) -> None:
        """Count a file, a folder or a link."""
        self.take_time()
        self.members += 1
        if self.members > self.limits.files:
            self._refuse("files", f"the archive holds more than {self.limits.files} members", name)

    def take_content(self, name: str, size: int) -> None:
        """Count what a file holds, before any of it is read."""
        self.content += size
        if self.content > self.limits.total_bytes:
            most = self.limits.total_bytes
            self._refuse("total_bytes", f"with it, more than {most} bytes come out", name)
        # Besides `take_unpacked`: the holes of a sparse file are written and never read.
        if self.content > self._most_unpacked:
            self._refuse("ratio", f"with it, {self._times(self.content)}", name)

    def take_tail(self, size: int) -> None:
        """Count bytes behind the last member."""
        self.tail += size
        if self.tail > self.limits.tail_bytes:
            self._refuse(
                "tail_bytes",
                f"more than {self.limits.tail_bytes} bytes follow its last member",
            )

    def take_kept(self, name: str, size: int) -> None:
        """Count bytes that stay in memory."""
        self.kept += size
        if self.kept > self.limits.kept_bytes:
            most = self.limits.kept_bytes
            self._refuse("kept_bytes", f"with it, more than {most} bytes are kept in memory", name)

    def take_time(self) -> None:
        """See how long it has taken."""
        if time.monotonic() - self._began > self.limits.seconds:
            self._refuse("seconds", f"it takes more than {self.limits.seconds:g} seconds")

    def _times(self, size: int) -> str:
        return (
            f"{size // self._size} times as much comes out as the archive holds; "
            f"{self.limits.ratio:g} times is the most, or {self.limits.ratio_from_bytes} bytes"
        )

    def _refuse(self, limit: str, reason: str, name: str | None = None) -> NoReturn:
        what = "The archive" if name is None else repr(name[:_NAME_SHOWN])
        raise BudgetError(
            f"{what} must not be unpacked: {reason}",
            where=self.where,
            remedy="do not use this archive; pack it again from files that you trust",
            limit=limit,
        )
