"""The connections of a load: opened, opened anew when they break, closed at the end."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING

from mmekit_bench.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_bench.connection import Owner
    from mmekit_bench.destination import Destination, Heads
    from mmekit_bench.plan import Plan

__all__ = ["Pool"]

_PATIENCE_S = 10.0
_LONGEST_PAUSE_S = 1.0
_TOGETHER = 64  # connections opened at once: a server's queue of new ones is short


class Pool:
    """Opens connections.

    Parameters
    ----------
    owner
        Whom the connections report to.
    """

    def __init__(self, plan: Plan, heads: Heads, owner: Owner) -> None:
        self.connections: set[Connection] = set()
        self._plan = plan
        self._heads = heads
        self._owner = owner
        self._context = _tls(plan.destination)
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, count: int) -> list[Connection]:
        """Open the first connections.

        Raises
        ------
        EndpointError
            Nobody answers.
        """
        opened: list[Connection] = []
        try:
            while len(opened) < count:
                some = range(len(opened), min(count, len(opened) + _TOGETHER))
                opened += await asyncio.gather(*(self._connect(number) for number in some))
        except (OSError, asyncio.TimeoutError) as error:
            raise self._plan.destination.unreachable(_reason(error)) from error
        return opened

    def reopen(
        self,
        number: int,
        ready: Callable[[Connection], None],
        refused: Callable[[str], bool],
    ) -> None:
        """Open one in the background, as often as it takes.

        Parameters
        ----------
        ready
            Is told of the connection.
        refused
            Is told of every failure, and answers whether to go on trying.
        """
        task = asyncio.get_running_loop().create_task(self._reopen(number, ready, refused))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end_overdue(self) -> None:
        """Break connections whose answer takes longer than the plan allows."""
        latest = time.perf_counter() - self._plan.timeout
        for connection in tuple(self.connections):
            if connection.busy and connection.sent < latest:
                connection.give_up(f"no answer in {self._plan.timeout:g} s")
            elif not connection.usable and not connection.busy:
                self.connections.discard(connection)

    def close(self) -> None:
        """Close all of them and open no more."""
        for task in self._tasks:
            task.cancel()
        for connection in self.connections:
            connection.abort()

    async def _reopen(
        self,
        number: int,
        ready: Callable[[Connection], None],
        refused: Callable[[str], bool],
    ) -> None:
        pause = 0.05
        while True:
            try:
                connection = await self._connect(number)
            except (OSError, asyncio.TimeoutError) as error:
                if not refused(_reason(error)):
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            else:
                ready(connection)
                return

    async def _connect(self, number: int) -> Connection:
        host, port = self._plan.destination.address
        connecting = asyncio.get_running_loop().create_connection(
            lambda: Connection(self._owner, self._heads, self._plan.payload.body, number),
            host,
            port,
            ssl=self._context,
        )
        _, connection = await asyncio.wait_for(connecting, _PATIENCE_S)
        self.connections.add(connection)
        return connection


def _reason(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no connection in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _tls(destination: Destination) -> ssl.SSLContext | None:
    if not destination.encrypted:
        return None
    from botocore.httpsession import get_cert_path

    # The same authorities that boto3 trusts, which some systems' Python does not come with.
    return ssl.create_default_context(cafile=get_cert_path(True))  # noqa: FBT003 - botocore's own
