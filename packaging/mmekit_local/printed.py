"""Lines that processes print, on their way into a log: as many as the log can bear.

A model that prints a million lines would have whoever reads them do nothing else. So each process
has a limit; what is beyond it is read all the same, as its process would stop otherwise, and left
out, and a line says how much that was. The last lines before the process fell silent are shown:
they may say why.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from typing import TYPE_CHECKING

from mmekit.errors import SettingsError
from mmekit_local.redaction import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "VARIABLE",
    "LineRateLimit",
    "LineSplitter",
    "ProcessOutput",
    "lines_per_second",
    "open_pipe",
    "show_lines",
]

_logger = logging.getLogger("mmekit.server")

VARIABLE = "MMEKIT_LOG_LINES_PER_S"
"""Lines of one process that a log takes each second; 0 for all there are."""

LINES_PER_S = 1000
AT_ONCE_S = 5
"""Seconds' worth of lines that may come at once."""

# As much as a pipe of Linux holds (pipe(7)), so that one reading can take it all.
_LONGEST_LINE = 1 << 16
_GAP_S = 1.0
"""After lines were left out, until a line says so where nothing else is printed."""

_PER_LINE = 1 << 10
"""A line that is longer counts as several."""
_LAST_BYTES = 4 << 10
_LAST_LINES = 20
_SHOWN_AT_ONCE = 100
"""Lines, before others in this process have their turn."""
_REST_S = 0.005
"""Between two readings: each line is a write of its own, and need not be a reading of its own."""


def lines_per_second(environ: Mapping[str, str] = os.environ) -> int:
    """Return what the environment says.

    Raises
    ------
    SettingsError
        It is no number.
    """
    text = environ.get(VARIABLE, "").strip()
    if not text:
        return LINES_PER_S
    if not text.isdecimal():
        remedy = f"give the lines of one process a second, such as {LINES_PER_S}, or 0 for all"
        raise SettingsError(f"not a number: {text!r}", where=VARIABLE, remedy=remedy)
    return int(text)


class LineRateLimit:
    """How many lines may pass: so many a second, and what was not used of late.

    Parameters
    ----------
    per_s
        Lines; 0 for as many as there are, None for what the environment says.
    """

    def __init__(self, per_s: int | None = None) -> None:
        self.per_s = lines_per_second() if per_s is None else per_s
        self._most = float(self.per_s * AT_ONCE_S)
        self._left = self._most
        self._at = time.monotonic()
        self._is_spent = False

    @property
    def is_spent(self) -> bool:
        """Whether nothing more may pass now; once that is so, until there is a second's worth."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self.per_s)
        self._at = now
        if self._left >= self.per_s:
            self._is_spent = False
        return self._is_spent

    def take(self, size: int) -> bool:
        """Have a line of so many bytes pass, if it may."""
        if not self.per_s:
            return True
        if self._is_spent:
            return False
        self._left -= 1 + size // _PER_LINE
        self._is_spent = self._left <= 0
        return True


class LineSplitter:
    """Makes lines of the bytes of one pipe, and leaves out what the limit does not allow."""

    def __init__(self, rate_limit: LineRateLimit) -> None:
        self._rate_limit = rate_limit
        self._rest = b""
        self._left_out = 0
        self._last = b""

    @property
    def has_gap(self) -> bool:
        """Whether lines were left out of which nothing has been said yet."""
        return self._left_out > 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take what has come, and return the lines that are whole and may pass."""
        if self._rate_limit.is_spent:
            self._leave_out(data)
            return []
        gap = self.gap()
        *lines, rest = (self._rest + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines.append(rest)
            rest = b""
        self._rest = rest
        for number, line in enumerate(lines):
            if not self._rate_limit.take(len(line)):
                self._rest = b""
                self._leave_out(b"\n".join([*lines[number:], rest]))
                return [*gap, *lines[:number]]
        return [*gap, *lines]

    def gap(self) -> list[bytes]:
        """Return lines that say what was left out, and the last of what was; nothing if not."""
        if not self._last:
            return []
        *last, self._rest = self._last.split(b"\n")
        last = last[-_LAST_LINES:]
        self._left_out -= len(last)
        note = (
            f"mmekit: {self._left_out} lines left out: more than {self._rate_limit.per_s} a second "
            f"({VARIABLE})"
        )
        lines = [note.encode(), *last] if self._left_out > 0 else last
        self._left_out, self._last = 0, b""
        return lines

    def end(self) -> list[bytes]:
        """Return what is left when the pipe has ended."""
        lines = self.gap()
        rest, self._rest = self._rest, b""
        return [*lines, rest] if rest else lines

    def _leave_out(self, data: bytes) -> None:
        self._left_out += data.count(b"\n")
        # From a line's beginning on, where that is near enough.
        last = self._rest + self._last + data if len(data) < _LAST_BYTES else data
        self._rest = b""
        if len(last) > _LAST_BYTES:
            last = last[-_LAST_BYTES:]
            last = last[last.find(b"\n") + 1 :]
        self._last = last


async def show_lines(
    stream: asyncio.StreamReader,
    rate_limit: LineRateLimit,
    show: Callable[[bytes], object],
    see: Callable[[bytes], object] | None = None,
) -> None:
    """Show what comes from a stream, line by line, until it ends or this is cancelled.

    Parameters
    ----------
    show
        Gets each line that may pass.
    see
        Gets all the bytes before.
    """
    splitter = LineSplitter(rate_limit)
    timer: asyncio.TimerHandle | None = None

    def show_all(lines: Callable[[], list[bytes]]) -> None:
        for line in lines():
            show(line)

    try:
        while data := await stream.read(_LONGEST_LINE):
            if see is not None:
                see(data)
            for number, line in enumerate(splitter.feed(data), 1):
                show(line)
                if number % _SHOWN_AT_ONCE == 0:
                    await asyncio.sleep(0)
            if timer is not None:
                timer.cancel()
                timer = None
            if splitter.has_gap:
                timer = asyncio.get_running_loop().call_later(_GAP_S, show_all, splitter.gap)
            await asyncio.sleep(_REST_S)
    finally:
        if timer is not None:
            timer.cancel()
        show_all(splitter.end)


async def open_pipe() -> tuple[asyncio.StreamReader, asyncio.ReadTransport, int]:
    """Open a pipe for what a process prints: to read it, to close it, and to give to the process.

    Pipes of asyncio's own making may be sockets (uvloop's are), which hold some hundred lines.
    """
    reading, writing = os.pipe()
    # What is not read yet stays in the pipe.
    reader = asyncio.StreamReader(limit=1)
    try:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
        )
    except BaseException:
        os.close(writing)
        raise
    return reader, transport, writing


class ProcessOutput:
    """Pipes for a worker's standard output and error, read line by line into the log.

    Parameters
    ----------
    name
        Stands before every line.
    lines_per_s
        As many reach the log; 0 for all there are.
    on_bytes
        Sees first what has come, whether it gets into the log or not.
    """

    def __init__(
        self,
        name: str,
        lines_per_s: int | None = None,
        on_bytes: Callable[[bytes], None] | None = None,
    ) -> None:
        self.name = visible(name)
        self._on_bytes = on_bytes
        self._rate_limit = LineRateLimit(lines_per_s)
        self._tasks: list[asyncio.Task[None]] = []
        self._transports: list[asyncio.ReadTransport] = []

    async def open(self, level: int) -> int:
        """Open a pipe and read it; return the end to print into, which is the caller's to close."""
        stream, transport, writing = await open_pipe()
        self._transports.append(transport)
        show = functools.partial(self._show, level)
        shown = show_lines(stream, self._rate_limit, show, self._on_bytes)
        self._tasks.append(asyncio.create_task(shown))
        return writing

    async def close(self) -> None:
        """Read what is there, and stop.

        A grandchild may hold the pipe open: what the process itself wrote is there already.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.5)
            for task in self._tasks:
                task.cancel()
        self._tasks.clear()
        # uvloop leaves them open at their end.
        while self._transports:
            self._transports.pop().close()

    def _show(self, level: int, line: bytes) -> None:
        text = line.decode(errors="replace")
        _logger.log(level, "%s: %s", self.name, text, extra={"printed": True})
