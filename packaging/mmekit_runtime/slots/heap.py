"""Memory that was freed and that the C library keeps, in case it is asked for again."""

from __future__ import annotations

import ctypes

# glibc's alone; other C libraries have nothing like it.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Give it to the system.

    A hundred trees that were unpacked from a compressed file leave half as much again as they
    take themselves, and the process would keep it for as long as it lives.
    """
    if _trim is not None:
        _trim(0)
