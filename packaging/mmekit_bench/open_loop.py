"""An open loop: requests arrive when they are due, whether or not the last ones were answered.

Time counts from the moment a request was due, so that waiting for a busy server is counted, as
callers who know nothing of each other feel it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

from mmekit_bench.alarm import Alarm
from mmekit_bench.pool import Pool
from mmekit_bench.traffic import picks

if TYPE_CHECKING:
    from mmekit_bench.connection import Connection
    from mmekit_bench.destination import Heads
    from mmekit_bench.plan import Plan
    from mmekit_bench.recording import Recorder

__all__ = ["OpenLoop"]


class OpenLoop:
    """Sends requests when they are due, over as many connections as the plan has."""

    def __init__(self, plan: Plan, heads: Heads) -> None:
        self._plan = plan
        self._picks = picks(plan.shares, plan.seed)
        self._pool = Pool(plan, heads, self)
        self._idle: list[Connection] = []
        self._waiting: deque[tuple[int, float]] = deque()
        self._stopped = False
        self._remaining = math.inf if plan.requests is None else plan.requests
        self._busy = 0

    async def connect(self) -> None:
        """Open the connections.

        Raises
        ------
        EndpointError
            Nobody answers.
        """
        self._idle = await self._pool.open(self._plan.connections)

    def start(self, recorder: Recorder, begin: float) -> None:
        """Begin to ask.

        Parameters
        ----------
        begin
            When measuring begins; what comes before is warm-up.
        """
        self._recorder = recorder
        self._begin = begin
        self._arrivals = self._plan.profile.arrivals(
            poisson=self._plan.poisson,
            seed=self._plan.seed + 1,  # targets and moments are drawn apart
            start=-self._plan.warm_up,
        )
        self._due = begin + next(self._arrivals)
        self._alarm = Alarm(self._send_due)
        self._send_due()

    def tick(self) -> None:
        """Give up what takes too long; to be called now and then."""
        self._pool.end_overdue()

    def stop(self) -> None:
        """Let no more requests arrive."""
        self._stopped = True

    @property
    def done(self) -> bool:
        """Whether all requests that there should be have arrived."""
        return self._stopped or self._remaining <= 0

    @property
    def under_way(self) -> int:
        """How many requests wait or are being answered."""
        return self._busy + len(self._waiting)

    def close(self) -> None:
        """Close the connections."""
        self._alarm.close()
        now = time.perf_counter()
        for target, due in self._waiting:
            self._recorder.fail(now, due, target, "not sent until the end")
        self._waiting.clear()
        for connection in self._pool.connections:
            if connection.busy:
                connection.give_up("no answer until the end")
        self._pool.close()

    # Owner

    def answered(self, connection: Connection) -> None:
        """Take down an answer; the connection takes what has waited longest."""
        done = connection
        self._busy -= 1
        if done.error:
            self._recorder.fail(done.finished, done.due, done.target, done.error)
        else:
            self._recorder.add(done.finished, done.due, done.sent, done.target, first=done.first)
        self._take_on(connection)

    def lost(self, connection: Connection, why: str) -> None:
        """Take down a request without an answer, unless its connection had been closed before."""
        self._busy -= 1
        if connection.stale:
            self._waiting.appendleft((connection.target, connection.due))
        else:
            self._recorder.fail(connection.finished, connection.due, connection.target, why)
        self._take_on(connection)

    def _send_due(self) -> None:
        now = time.perf_counter()
        while self._due <= now and not self.done:
            self._arrive(self._due)
            self._due = self._begin + next(self._arrivals)
        if not self.done and self._due < math.inf:
            self._alarm.set(self._due)

    def _arrive(self, due: float) -> None:
        if due >= self._begin:
            self._remaining -= 1
        if self.under_way >= self._plan.outstanding:
            self._recorder.drop(due)
            return
        target = next(self._picks)
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                self._ask(connection, target, due)
                return
            self._pool.reopen(connection.number, self._take_on, self._refused)
        self._waiting.append((target, due))

    def _take_on(self, connection: Connection) -> None:
        if not connection.usable:
            self._pool.reopen(connection.number, self._take_on, self._refused)
        elif self._waiting:
            self._ask(connection, *self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _ask(self, connection: Connection, target: int, due: float) -> None:
        self._busy += 1
        connection.send(target, due, first=self._recorder.is_first(target))

    def _refused(self, why: str) -> bool:
        alone = not any(connection.usable for connection in self._pool.connections)
        now = time.perf_counter()
        while alone and self._waiting:  # nobody is there to take it on
            target, due = self._waiting.popleft()
            self._recorder.fail(now, due, target, why)
        return not self.done
