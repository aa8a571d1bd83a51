"""What a process shares with what it forks, and gives back: copies on write, and how to have few.

A child shares every page of its parent until one of the two writes to it. What a child allocates in
a hole between its parent's objects costs it a copy of the page around the hole; what it allocates
behind them is packed densely.

The kernel copies a page when it is first written to, which takes it microseconds, and a model
writes to more than a thousand before its first answer: the counters of references to what the
libraries have made. Which ones is much the same from one model to the next, so that a process that
is forked ahead can have them copied while it waits.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import mmap
import os
import sys
from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Run = tuple[int, int]

_POOL_BYTES = 14_000
"""Nearly a pool: 16 KiB less its header; before Python 3.10 pools were smaller."""

_POOLS = 3

_MOST_POOLS_OF_A_SIZE, _MOST_POOLS = 600, 1200
"""That is 8 and 16 MiB; holes beyond that are not worth what fills them."""

_MOST_CHUNKS = 100_000

_SMALL_CHUNKS = range(1032, 8, -16)
"""glibc keeps freed chunks of up to 1,032 bytes by their size."""

MOST_BYTES = 16 << 20
"""That are copied in advance."""

_PAGE = mmap.PAGESIZE

# Bits 56 to 63 of an entry (Linux, Documentation/admin-guide/mm/pagemap.rst): mapped by nobody
# else, of a file or shared, present.
_FLAGS_AT, _FLAGS, _OWN = 56, 0b1010_0001, 0b1000_0001

_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, since Linux 5.14."""

_c = ctypes.CDLL(None)

# glibc's alone; other C libraries have nothing like it.
_trim = getattr(_c, "malloc_trim", None)

_madvise = getattr(_c, "madvise")  # noqa: B009  which mypy does not know
_madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def prepare_to_fork() -> list[object]:
    """Make this process ready to be forked from; return what has to live as long as it does."""
    # Nothing of what is here now is ever garbage: the collector must not touch, and so copy, it.
    gc.collect()
    plugs = _plug_pools()
    _plug_chunks()
    gc.freeze()
    return plugs


def give_back() -> None:
    """Give memory that was freed to the system; the C library keeps it otherwise.

    A hundred trees that were unpacked from a compressed file leave half as much again as they
    take themselves, and the process would keep it for as long as it lives.
    """
    if _trim is not None:
        _trim(0)


def _plug_pools() -> list[object]:
    """Fill the free blocks between this process's small objects; return what fills them.

    CPython keeps objects of up to 512 bytes in pools, one size (a multiple of 16) a pool, and takes
    a fresh pool only when no other has a free block: a run of neighbours as long as a pool shows
    that the holes of a size are filled.
    """
    plugs: list[object] = []
    left = _MOST_POOLS if _has_pools() else 0
    for size in range(512, 15, -16):
        for _ in range(min(left, _MOST_POOLS_OF_A_SIZE) // _POOLS):
            # Several pools at once: what is made on the way, and gone again, lies before them.
            blocks = _blocks(size, _POOLS * _POOL_BYTES // size)
            plugs.append(blocks)
            left -= _POOLS
            if _longest_run(blocks, size) * size >= _POOL_BYTES - size:
                break
    return plugs


def _has_pools() -> bool:
    """Whether objects come from CPython's own allocator, as far as one can tell."""
    named = os.environ.get("PYTHONMALLOC") or "default"
    return named in ("default", "pymalloc") and not sys.flags.dev_mode


def _longest_run(blocks: Sequence[object], size: int) -> int:
    run, longest, last = 0, 0, 0
    for address in map(id, blocks):
        run = run + 1 if address - last == size else 1
        longest = max(longest, run)
        last = address
    return longest


def _blocks(size: int, number: int) -> Sequence[object]:
    """Return objects of one size, made without any other of that size in between."""
    # Bytes take 33 at least; an object takes 16, and a float 24, which is of the size 32.
    if size == 16:  # noqa: PLR2004
        return [object() for _ in itertools.repeat(None, number)]
    if size == 32:  # noqa: PLR2004
        return array("d", bytes(8 * number)).tolist()
    return list(map(bytes, itertools.repeat(size - sys.getsizeof(b""), number)))


def _plug_chunks() -> None:
    """Fill the free chunks between the larger objects, which CPython leaves to the C library.

    From the largest to the smallest: one that comes from behind all others shows that there is no
    hole left for its size. What fills them is never freed.
    """
    heap_start = _heap_start()
    if _trim is None or heap_start is None:
        return
    malloc, free, sbrk = _c.malloc, _c.free, _c.sbrk
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    sbrk.restype, sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    _trim(0)
    last_page = sbrk(0) - 2 * _PAGE  # all that is free behind the last object is in it
    left = _MOST_CHUNKS
    for size in _chunk_sizes():
        while left:
            chunk = malloc(size)
            if chunk is None or not heap_start <= chunk < last_page:
                free(chunk)  # behind all others, or of another allocator than glibc's
                break
            left -= 1


def _chunk_sizes() -> list[int]:
    sizes = []
    size = 96 * 1024  # well below what glibc maps apart
    while size > _SMALL_CHUNKS.start:
        sizes.append(size)
        size = size * 7 // 8
    return [*sizes, *_SMALL_CHUNKS]


def _heap_start() -> int | None:
    try:
        with open("/proc/self/maps", errors="replace") as maps:  # noqa: PTH123
            lines = maps.read().splitlines()
    except OSError:
        return None
    starts = [int(line.split("-")[0], 16) for line in lines if line.endswith("[heap]")]
    return min(starts, default=None)


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


def common(first: Sequence[Run], second: Sequence[Run]) -> list[Run]:
    """Return what is in both, of at most `MOST_BYTES`: the rest others rarely write to."""
    runs: list[Run] = []
    left = MOST_BYTES
    for start, length in sorted({*_pages(first)} & {*_pages(second)}):
        if left <= 0:
            break
        left -= length
        _append(runs, (start, length))
    return runs


def copy(runs: Sequence[Run]) -> None:
    """Have pages copied as if they were written to; older kernels do nothing."""
    for start, length in runs:
        # A run that is not mapped any more fails alone, and that does no harm.
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
