"""A closed loop: every connection asks again as soon as it has its answer.

It finds how much a server can do. What it does not find is how long callers wait who do not care
how busy it is: while an answer takes long, none of its connections asks.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from mmekit_bench.pool import Pool
from mmekit_bench.traffic import picks

if TYPE_CHECKING:
    from mmekit_bench.connection import Connection
    from mmekit_bench.destination import Heads
    from mmekit_bench.plan import Plan
    from mmekit_bench.recording import Recorder

__all__ = ["ClosedLoop"]


class ClosedLoop:
    """Keeps as many requests under way as the plan's profile has connections."""

    def __init__(self, plan: Plan, heads: Heads) -> None:
        self._plan = plan
        self._profile = plan.profile
        self._highest = math.ceil(self._profile.highest)
        self._steady = self._profile.begin == self._profile.end and self._profile.spike == 1
        self._picks = picks(plan.shares, plan.seed)
        self._pool = Pool(plan, heads, self)
        self._parked: list[Connection] = []
        self._stopped = False
        self._remaining = math.inf if plan.requests is None else plan.requests
        self._begin = 0.0
        self._level = 0

    async def connect(self) -> None:
        """Open the connections.

        Raises
        ------
        EndpointError
            Nobody answers.
        """
        self._parked = await self._pool.open(self._highest)

    def start(self, recorder: Recorder, begin: float) -> None:
        """Begin to ask.

        Parameters
        ----------
        begin
            When measuring begins; what comes before is warm-up.
        """
        self._recorder = recorder
        self._begin = begin
        self.tick()

    def tick(self) -> None:
        """Follow the profile and give up what takes too long; to be called now and then."""
        self._pool.end_overdue()
        self._level = round(self._profile.level(time.perf_counter() - self._begin))
        parked, self._parked = self._parked, []
        for connection in parked:
            self._next(connection)

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True

    @property
    def done(self) -> bool:
        """Whether all requests that there should be have been sent."""
        return self._stopped or self._remaining <= 0

    @property
    def under_way(self) -> int:
        """How many answers are still to come."""
        return sum(connection.busy for connection in self._pool.connections)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._pool.connections:
            if connection.busy:
                connection.give_up("no answer until the end")
        self._pool.close()

    # Owner

    def answered(self, connection: Connection) -> None:
        """Take down an answer and ask again."""
        done = connection
        if done.error:
            self._recorder.fail(done.finished, done.due, done.target, done.error)
        else:
            self._recorder.add(done.finished, done.due, done.sent, done.target, first=done.first)
        self._next(connection)

    def lost(self, connection: Connection, why: str) -> None:
        """Take down a request without an answer, unless its connection had been closed before."""
        if connection.stale and not self._stopped:  # what is due stays due
            target, due = connection.target, connection.due
            self._pool.reopen(
                connection.number,
                lambda fresh: self._ask(fresh, target, due),
                self._refused,
            )
            return
        self._recorder.fail(connection.finished, connection.due, connection.target, why)
        self._next(connection)

    def _next(self, connection: Connection) -> None:
        if self.done:
            return
        if not connection.usable:
            self._pool.reopen(connection.number, self._next, self._refused)
        elif self._steady or connection.number < self._level:
            now = time.perf_counter()
            if now >= self._begin:
                self._remaining -= 1
            self._ask(connection, next(self._picks), now)
        else:
            self._parked.append(connection)

    def _ask(self, connection: Connection, target: int, due: float) -> None:
        connection.send(target, due, first=self._recorder.is_first(target))

    def _refused(self, why: str) -> bool:
        if self.done:
            return False
        now = time.perf_counter()
        if now >= self._begin:
            self._remaining -= 1
        self._recorder.fail(now, now, next(self._picks), why)
        return not self.done
