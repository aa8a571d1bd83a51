"""Room for one more model: those that nobody asks park before a load is refused."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from mmekit_local.server.fork_servers import ForkServers
    from mmekit_local.server.memory import Memory
    from mmekit_local.server.memory_line import MemoryLine

_WAIT_S = 2.0
"""How long a load waits for models that are busy."""
_AGAIN_S = 0.1
_PERIOD_S = 1.0
"""After which fork servers are told what is left of the limit."""


class Room:
    """The memory of a server and its models, those of all its fork servers.

    Parameters
    ----------
    memory
        Measures.
    fork_servers
        Whose models park.
    answering
        Returns the ids of the processes that answer.
    """

    def __init__(
        self, memory: Memory, fork_servers: ForkServers, answering: Callable[[], Collection[int]]
    ) -> None:
        self._memory = memory
        self._fork_servers = fork_servers
        self._answering = answering
        self._turn = asyncio.Lock()
        self._told: asyncio.Task[None] | None = None
        self._change = asyncio.Event()
        self._passing_on: dict[MemoryLine, asyncio.Task[None]] = {}
        fork_servers.on_open = self._change.set
        fork_servers.on_want = self._pass_on

    @contextlib.asynccontextmanager
    async def admit(self, required: int, reserved: int) -> AsyncIterator[bool]:
        """Say whether ``required`` bytes fit, and count them as taken while the load lasts.

        Before the answer is no, idle models park, the least recently used first.
        """
        if self._told is None and self._memory.own_limit is not None:
            self._told = asyncio.create_task(self._tell())
        missing = self._missing(required, reserved)
        if missing > 0 and required + reserved <= self._memory.limit:
            until = time.monotonic() + _WAIT_S
            async with self._turn:
                missing = await self._make(required, reserved, until)
        if missing > 0:
            yield False
            return
        with self._memory.claimed(required):
            yield True

    async def close(self) -> None:
        """Tell and pass on nothing more."""
        tasks = [*self._passing_on.values(), *([self._told] if self._told else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _missing(self, required: int, reserved: int) -> int:
        shared = self._fork_servers.pids(besides=(pids := self._answering()))
        return self._memory.missing(required, reserved, pids, shared)

    async def _make(self, required: int, reserved: int, until: float) -> int:
        """Have models park until so much is free; return the bytes that are missing then."""
        while True:
            may_park_later = False
            for line in self._fork_servers.lines():
                missing = self._missing(required, reserved)
                if missing <= 0:
                    return missing
                seconds = max(_AGAIN_S, until - time.monotonic())
                may_park_later |= await line.park(missing, seconds)
            missing = self._missing(required, reserved)
            if missing <= 0 or not may_park_later or time.monotonic() > until:
                return missing
            await asyncio.sleep(_AGAIN_S)

    async def _tell(self) -> None:
        """Tell fork servers what is left of the limit, while any model is awake."""
        limit = self._memory.own_limit
        while limit is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._change.wait(), _PERIOD_S)
            news = self._change.is_set()
            self._change.clear()
            lines, pids = self._fork_servers.lines(), self._answering()
            if not lines or not (pids or news):
                continue
            at = time.monotonic()
            shared = self._fork_servers.pids(besides=pids)
            # Measuring takes the kernel a millisecond for each process.
            left = await asyncio.to_thread(self._memory.measure, pids, shared)
            for line in lines:
                line.tell(limit, left, at, len(lines))

    def _pass_on(self, line: MemoryLine, wanted: int) -> None:
        """Have the models of other fork servers park for one that waits in this."""
        others = [one for one in self._fork_servers.lines() if one is not line]
        if line in self._passing_on or not others:
            return

        async def ask() -> None:
            for other in others:
                await other.park(wanted, _WAIT_S)
            self._change.set()

        task = self._passing_on[line] = asyncio.create_task(ask())
        task.add_done_callback(lambda _: self._passing_on.pop(line))
