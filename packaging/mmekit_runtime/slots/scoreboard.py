"""Memory that a model process and the fork server share: who is being answered, and figures.

The first bytes are a state for each slot: when the process dies, they tell the fork server which
requests it had taken. Behind them are counters that anyone who has the page may read at any time,
the header of the last short answer (see `connection`), in which the kernel notes what it has taken,
and since when the process has worked on each slot's request: a server's patience with a request
begins then, and not while it waits for others.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import time

MAX_SLOTS = 2048

IDLE = 0
"""No byte of a request has been taken from the connection."""
READING = 1
"""A part of a request has been taken."""
TAKEN = 2
"""A whole request has been taken and is not answered; it waits for others, or is `BEGUN`."""
SENDING = 3
"""An answer is on its way that the connection does not take in one step."""
SENDING_NOTED = 4
"""An answer is on its way; the page says how much of it the kernel has taken."""
BEGUN = 5
"""The model works on a request, of whose answer nothing is sent yet."""
YIELDING = 6
"""The model works on the next chunk of an answer that is on its way."""

WORKING = (BEGUN, YIELDING)
_WORKING = re.compile(b"[%b]" % bytes(WORKING))

COUNTERS = (
    "requests",
    "errors",
    "calls",
    "largest_batch",
    "queue_ns",
    "predict_ns",
    "load_ns",
    "import_ns",
    "answered_ns",
)
"""Requests answered; with an error among them; calls of the handler; requests of the largest call;
nanoseconds that requests waited in the process and that calls took; nanoseconds of the load and of
model.py's import; when the last call ended, by the monotonic clock."""

# Native, as each is then written in one step.
_COUNTERS = struct.Struct(f"@{len(COUNTERS)}Q")

# struct mmsghdr and struct iovec of a 64-bit Linux, aligned, with room for further counters before.
MESSAGE_AT = MAX_SLOTS + 128
SENT_AT = MESSAGE_AT + 56
VECTOR_AT = MESSAGE_AT + 64
SENT = struct.Struct("@I")
VECTOR = struct.Struct("@PN")

# Milliseconds by the monotonic clock, of which 32 bits are enough to tell what has passed; in one
# step each, as others read them meanwhile.
_STAMPS_AT = VECTOR_AT + VECTOR.size
_STAMP = struct.Struct("@I")
_STAMP_MASK = 0xFFFFFFFF

SIZE = _STAMPS_AT + _STAMP.size * MAX_SLOTS
"""What nobody touches of it takes no memory: the first four hundred slots need one page."""


class Scoreboard:
    """The page.

    Parameters
    ----------
    fd
        A file of `SIZE` bytes, as `ScoreboardFile` makes it; it is mapped, and not kept.
    """

    def __init__(self, fd: int) -> None:
        self.states = mmap.mmap(fd, SIZE)
        self._values = [0] * len(COUNTERS)

    def add(self, *, requests: int, errors: int, queue_ns: int, predict_ns: int) -> None:
        """Count one call of the handler."""
        values = self._values
        values[0] += requests
        values[1] += errors
        values[2] += 1
        values[3] = max(values[3], requests)
        values[4] += queue_ns
        values[5] += predict_ns
        values[8] = time.monotonic_ns()
        self._write()

    def begin(self, number: int, state: int = BEGUN) -> None:
        """Note that the model works on a slot's request from now on."""
        now = time.monotonic_ns() // 1_000_000 & _STAMP_MASK
        # Before the state: whoever sees that must not find the stamp of an earlier request.
        _STAMP.pack_into(self.states, _STAMPS_AT + _STAMP.size * number, now)
        self.states[number] = state

    def worked_s(self, number: int) -> float | None:
        """Return for how long the model has worked on a slot's request; None if it does not."""
        return _worked_s(self.states, number)

    def longest_s(self) -> float | None:
        """Return for how long the model has worked on one request at most; None if on none."""
        states = self.states[:MAX_SLOTS]
        numbers = (match.start() for match in _WORKING.finditer(states))
        # One of them may have been answered since the states were copied.
        return max((self.worked_s(number) or 0.0 for number in numbers), default=None)

    @property
    def answered_ns(self) -> int:
        """When the last call ended; 0 when there was none."""
        return self._values[8]

    def touch(self) -> None:
        """Note that an answer has left that was on its way for a while."""
        self._values[8] = time.monotonic_ns()
        self._write()

    def set_load(self, *, load_ns: int | None = None, import_ns: int | None = None) -> None:
        """Note how long the load or model.py's import took."""
        if load_ns is not None:
            self._values[6] = load_ns
        if import_ns is not None:
            self._values[7] = import_ns
        self._write()

    def counters(self) -> dict[str, int]:
        """Return the counters by name."""
        values = _COUNTERS.unpack_from(self.states, MAX_SLOTS)
        return dict(zip(COUNTERS, values))  # noqa: B905

    def close(self) -> None:
        """Unmap the page."""
        self.states.close()

    def _write(self) -> None:
        _COUNTERS.pack_into(self.states, MAX_SLOTS, *self._values)


def _worked_s(page: bytes | mmap.mmap, number: int) -> float | None:
    if page[number] not in WORKING:
        return None
    (since,) = _STAMP.unpack_from(page, _STAMPS_AT + _STAMP.size * number)
    passed: int = (time.monotonic_ns() // 1_000_000 - since) & _STAMP_MASK
    return passed / 1000


class ScoreboardFile:
    """A scoreboard as the fork server keeps it: a descriptor. A mapping would take another."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("mmekit-scoreboard", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, SIZE)

    def clear(self, number: int) -> None:
        """Note that nothing has been taken from a new slot."""
        os.pwrite(self.fd, bytes((IDLE,)), number)

    def worked_s(self, number: int) -> float | None:
        """Return for how long the model has worked on a slot's request; None if it does not."""
        return _worked_s(os.pread(self.fd, SIZE, 0), number)

    def settled(self, number: int) -> int:
        """Return the state of a slot whose process is dead: what is noted is looked up."""
        page = os.pread(self.fd, SIZE, 0)
        state = page[number]
        if state != SENDING_NOTED:
            return state
        (sent,) = SENT.unpack_from(page, SENT_AT)
        _, length = VECTOR.unpack_from(page, VECTOR_AT)
        # It died before the kernel took anything: the answer is still to be given.
        if sent == 0:
            return TAKEN
        return IDLE if sent == length else SENDING

    def counters(self) -> dict[str, int]:
        """Return the counters by name."""
        values = _COUNTERS.unpack(os.pread(self.fd, _COUNTERS.size, MAX_SLOTS))
        return dict(zip(COUNTERS, values))  # noqa: B905

    def close(self) -> None:
        """Let go of it; whoever has a mapping keeps that."""
        os.close(self.fd)
