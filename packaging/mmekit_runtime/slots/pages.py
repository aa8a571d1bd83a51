"""Pages that a process has from its parent: which of them it has written to, and copies in advance.

A fork shares every page until one of the two writes to it. The kernel copies it then, which takes
it microseconds a page, and a model writes to more than a thousand before its first answer: the
counters of references to what the libraries have made. Which ones is much the same from one model
to the next, so that a process that is forked ahead can have them copied while it waits.
"""

from __future__ import annotations

import ctypes
import mmap
from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Run = tuple[int, int]

MOST_BYTES = 16 << 20
"""That are copied in advance."""

_PAGE = mmap.PAGESIZE

# Bits 56 to 63 of an entry (Linux, Documentation/admin-guide/mm/pagemap.rst): mapped by nobody
# else, of a file or shared, present.
_FLAGS_AT, _FLAGS, _OWN = 56, 0b1010_0001, 0b1000_0001

_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, since Linux 5.14."""

_madvise = getattr(ctypes.CDLL(None), "madvise")  # noqa: B009  which mypy does not know
_madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def written(pid: int) -> list[Run]:
    """Return what a child of this process has for itself of what both have mapped.

    Returns
    -------
    list
        Addresses and lengths in bytes, of whole pages, in ascending order.

    Raises
    ------
    OSError
        The child is gone, or the kernel does not tell.
    """
    runs: list[Run] = []
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:  # noqa: PTH123
        for start, end in _private_mappings():
            pagemap.seek(start // _PAGE * 8)
            entries = array("Q", pagemap.read((end - start) // _PAGE * 8))
            for number, entry in enumerate(entries):
                if entry >> _FLAGS_AT & _FLAGS == _OWN:
                    _append(runs, (start + number * _PAGE, _PAGE))
    return runs


def merged(first: Sequence[Run], second: Sequence[Run]) -> list[Run]:
    """Return what is in either, of at most `MOST_BYTES`."""
    runs: list[Run] = []
    left = MOST_BYTES
    for start, length in sorted({*_pages(first), *_pages(second)}):
        if left <= 0:
            break
        left -= length
        _append(runs, (start, length))
    return runs


def copy(runs: Sequence[Run]) -> None:
    """Have pages copied as if they were written to; older kernels do nothing."""
    for start, length in runs:
        _madvise(start, length, _POPULATE_WRITE)


def _append(runs: list[Run], run: Run) -> None:
    if runs and sum(runs[-1]) == run[0]:
        runs[-1] = runs[-1][0], runs[-1][1] + run[1]
    else:
        runs.append(run)


def _pages(runs: Sequence[Run]) -> Iterator[Run]:
    for start, length in runs:
        for address in range(start, start + length, _PAGE):
            yield address, _PAGE


def _private_mappings() -> Iterator[Run]:
    """Yield where what this process may write to, and shares with nobody on purpose, lies."""
    with open("/proc/self/maps", "rb") as maps:  # noqa: PTH123
        lines = maps.read().splitlines()
    for line in lines:
        addresses, permissions, _ = line.split(None, 2)
        if permissions == b"rw-p":
            start, _, end = addresses.partition(b"-")
            yield int(start, 16), int(end, 16)
