"""What workers print, in the server's log."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING

from mmekit_local.lines import visible
from mmekit_local.printed import Ration, open_pipe, show_lines

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("mmekit.server")


class Output:
    """Pipes for a worker's standard output and error, read line by line into the log.

    Parameters
    ----------
    name
        Stands before every line.
    on_bytes
        Sees first what has come, whether it gets into the log or not.
    """

    def __init__(self, name: str, on_bytes: Callable[[bytes], None] | None = None) -> None:
        self.name = visible(name)
        self._on_bytes = on_bytes
        self._ration = Ration()
        self._tasks: list[asyncio.Task[None]] = []
        self._transports: list[asyncio.ReadTransport] = []

    async def open(self, level: int) -> int:
        """Open a pipe and read it; return the end to print into, which is the caller's to close."""
        stream, transport, writing = await open_pipe()
        self._transports.append(transport)
        show = functools.partial(self._show, level)
        shown = show_lines(stream, self._ration, show, self._on_bytes)
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
