"""How answers leave, so that a death in the middle of it leaves no doubt.

A process that is killed between the sending of an answer and its note of it would leave the fork
server to guess: an answer of its own might be the second, none might be the last. So both are one
step: sendmmsg(2) sends, and before it returns writes how many bytes the kernel has taken into the
message's header, which lies in the ledger. A kill takes effect when a system call has returned, or
where one waits; this one never does. What it does not take is a `Departure`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
from typing import TYPE_CHECKING

from mmekit_runtime.slots.ledger import MESSAGE_AT, SENT, SENT_AT, VECTOR, VECTOR_AT

if TYPE_CHECKING:
    from mmekit_runtime.slots.ledger import Ledger

LONGEST = 16 << 10
"""Bytes of an answer that a connection takes in one step."""

# struct msghdr of a 64-bit Linux: no address, one vector, no control data, no flags.
_HEADER = struct.Struct("@PIPNPNi")
_MSG_NOSIGNAL = 0x4000
_MSG_DONTWAIT = 0x40


class Outbox:
    """Sends answers of up to `LONGEST` bytes, one at a time, and has the kernel note it."""

    def __init__(self, ledger: Ledger) -> None:
        self._page = ledger.states
        self._bytes = mmap.mmap(-1, LONGEST)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._bytes))
        page = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._message = page + MESSAGE_AT
        _HEADER.pack_into(self._page, MESSAGE_AT, 0, 0, page + VECTOR_AT, 1, 0, 0, 0)
        self._sendmmsg = ctypes.CDLL(None).sendmmsg
        self._sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)

    @staticmethod
    def is_possible() -> bool:
        """Whether the C library is glibc, whose sendmmsg is the system call and nothing else."""
        return sys.maxsize > 1 << 32 and "CS_GNU_LIBC_VERSION" in os.confstr_names

    def prepare(self, data: bytes) -> None:
        """Take an answer, of which nothing is sent yet."""
        self._bytes[: len(data)] = data
        SENT.pack_into(self._page, SENT_AT, 0)
        VECTOR.pack_into(self._page, VECTOR_AT, self._address, len(data))

    def send(self, fd: int) -> int:
        """Send it, and return how many bytes were taken; none too when the connection has ended."""
        self._sendmmsg(fd, self._message, 1, _MSG_NOSIGNAL | _MSG_DONTWAIT)
        (sent,) = SENT.unpack_from(self._page, SENT_AT)
        return int(sent)
