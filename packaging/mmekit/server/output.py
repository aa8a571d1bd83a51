"""What workers print, in the server's log."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mmekit.lines import visible

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("mmekit.server")

_LONGEST_LINE = 1 << 16


class Output:
    """Reads a worker's standard output and error, line by line, into the log.

    Parameters
    ----------
    name
        Stands before every line.
    on_line
        Sees every line first.
    """

    def __init__(self, name: str, on_line: Callable[[bytes], None] | None = None) -> None:
        self.name = visible(name)
        self._on_line = on_line
        self._tasks: list[asyncio.Task[None]] = []

    def read(self, stream: asyncio.StreamReader, level: int) -> None:
        """Start reading a stream."""
        self._tasks.append(asyncio.create_task(self._read(stream, level)))

    async def close(self) -> None:
        """Read what is there, and stop.

        A grandchild may hold the pipe open: what the process itself wrote is there already.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.5)
            for task in self._tasks:
                task.cancel()

    async def _read(self, stream: asyncio.StreamReader, level: int) -> None:
        rest = b""
        while chunk := await stream.read(_LONGEST_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._show(line, level)
        if rest:
            self._show(rest, level)

    def _show(self, line: bytes, level: int) -> None:
        if self._on_line:
            self._on_line(line)
        text = line.decode(errors="replace")
        _logger.log(level, "%s: %s", self.name, text, extra={"printed": True})
