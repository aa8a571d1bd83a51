"""The two loops of a load: a closed one, whose callers wait, and an open one, whose do not."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from mmekit_bench.clock import PreciseTimer
from mmekit_bench.connections import ConnectionPool
from mmekit_bench.traffic import picks

if TYPE_CHECKING:
    from mmekit_bench.connections import LoadConnection
    from mmekit_bench.plan import LoadPlan
    from mmekit_bench.recording import LoadRecorder
    from mmekit_bench.requests import RequestHeads

__all__ = ["ClosedLoop", "OpenLoop"]


class _Loop(ABC):
    """What both have in common: connections, whom to ask next, how much is still to be asked."""

    def __init__(self, plan: LoadPlan, heads: RequestHeads) -> None:
        self._plan = plan
        self._picks = picks(plan.shares, plan.seed)
        self._pool = ConnectionPool(plan, heads, self)
        self._stopped = False
        self._remaining = math.inf if plan.requests is None else plan.requests

    @abstractmethod
    async def connect(self) -> None:
        """Open the connections.

        Raises
        ------
        EndpointError
            Nobody answers.
        """

    def start(self, recorder: LoadRecorder, begin: float) -> None:
        """Begin to ask.

        Parameters
        ----------
        begin
            When measuring begins; what comes before is warm-up.
        """
        self._recorder = recorder
        self._begin = begin

    def tick(self) -> None:
        """Give up what takes too long; to be called now and then."""
        self._pool.end_overdue()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True

    @property
    def done(self) -> bool:
        """Whether all requests that there should be have been sent, or have arrived."""
        return self._stopped or self._remaining <= 0

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """How many requests wait or are being answered."""

    def close(self) -> None:
        """Close the connections."""
        for connection in self._pool.connections:
            if connection.busy:
                connection.give_up("no answer until the end")
        self._pool.close()

    # ResponseListener

    @abstractmethod
    def answered(self, connection: LoadConnection) -> None:
        """Take down an answer, and see what the connection does next."""

    @abstractmethod
    def lost(self, connection: LoadConnection, why: str) -> None:
        """Take down a request without an answer, unless its connection had been closed before."""

    def _record(self, done: LoadConnection) -> None:
        if done.error:
            self._recorder.fail(done.finished, done.due, done.target, done.error)
        else:
            self._recorder.add(done.finished, done.due, done.sent, done.target, first=done.first)

    def _ask(self, connection: LoadConnection, target: int, due: float) -> None:
        connection.send(target, due, first=self._recorder.is_first(target))

    def _count(self, due: float) -> None:
        """Count one of the requests that there are to be; those of the warm-up are none."""
        if due >= self._begin:
            self._remaining -= 1


class ClosedLoop(_Loop):
    """Keeps as many requests under way as the plan's profile has connections.

    Every connection asks again as soon as it has its answer. That finds how much a server can do.
    What it does not find is how long callers wait who do not care how busy it is: while an answer
    takes long, none of its connections asks.
    """

    def __init__(self, plan: LoadPlan, heads: RequestHeads) -> None:
        super().__init__(plan, heads)
        self._profile = plan.profile
        self._steady = self._profile.begin == self._profile.end and self._profile.spike == 1
        self._idle: list[LoadConnection] = []
        self._level = 0

    async def connect(self) -> None:
        """Open as many connections as there will be at most."""
        self._idle = await self._pool.open(math.ceil(self._profile.highest))

    def start(self, recorder: LoadRecorder, begin: float) -> None:
        """Begin to ask."""
        super().start(recorder, begin)
        self.tick()

    def tick(self) -> None:
        """Follow the profile, and give up what takes too long."""
        super().tick()
        self._level = round(self._profile.level(time.perf_counter() - self._begin))
        # Taken out first: whom the level does not want yet comes back into the list.
        idle, self._idle = self._idle, []
        for connection in idle:
            self._next(connection)

    @property
    def in_flight(self) -> int:
        """How many answers are still to come."""
        return sum(connection.busy for connection in self._pool.connections)

    def answered(self, connection: LoadConnection) -> None:
        """Take down an answer and ask again."""
        self._record(connection)
        self._next(connection)

    def lost(self, connection: LoadConnection, why: str) -> None:
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

    def _record(self, done: LoadConnection) -> None:
        # A thread of boto3 begins when Python lets it, up to milliseconds after it was told: that
        # is this generator's affair, and a caller who loops in a thread would not wait for it.
        if self._plan.client == "boto3" and done.due >= self._begin:
            done.due = done.sent
        super()._record(done)

    def _next(self, connection: LoadConnection) -> None:
        if self.done:
            return
        if not connection.usable:
            self._pool.reopen(connection.number, self._next, self._refused)
        elif self._steady or connection.number < self._level:
            # Due when it is sent: there is no plan that a slow answer could upset. Those who would
            # have asked meanwhile are missing from the percentiles, which are left as they are.
            now = time.perf_counter()
            self._count(now)
            self._ask(connection, next(self._picks), now)
        else:
            self._idle.append(connection)

    def _refused(self, why: str) -> bool:
        if self.done:
            return False
        now = time.perf_counter()
        self._count(now)
        self._recorder.fail(now, now, next(self._picks), why)
        return not self.done


class OpenLoop(_Loop):
    """Sends requests when they are due, whether or not the last ones were answered.

    Time counts from the moment a request was due, so that waiting for a busy server is counted, as
    callers who know nothing of each other feel it.
    """

    def __init__(self, plan: LoadPlan, heads: RequestHeads) -> None:
        super().__init__(plan, heads)
        self._idle: list[LoadConnection] = []
        self._waiting: deque[tuple[int, float]] = deque()
        self._busy = 0

    async def connect(self) -> None:
        """Open as many connections as the plan has."""
        self._idle = await self._pool.open(self._plan.connections)

    def start(self, recorder: LoadRecorder, begin: float) -> None:
        """Let requests arrive."""
        super().start(recorder, begin)
        self._arrivals = self._plan.profile.arrivals(
            poisson=self._plan.poisson,
            seed=self._plan.seed + 1,  # targets and moments are drawn apart
            start=-self._plan.warm_up,
        )
        self._due = begin + next(self._arrivals)
        self._timer = PreciseTimer(self._send_due)
        self._send_due()

    @property
    def in_flight(self) -> int:
        """How many requests wait or are being answered."""
        return self._busy + len(self._waiting)

    def close(self) -> None:
        """Close the connections; what waits was not sent."""
        self._timer.close()
        now = time.perf_counter()
        for target, due in self._waiting:
            self._recorder.fail(now, due, target, "not sent until the end")
        self._waiting.clear()
        super().close()

    def answered(self, connection: LoadConnection) -> None:
        """Take down an answer; the connection takes what has waited longest."""
        self._busy -= 1
        self._record(connection)
        self._next(connection)

    def lost(self, connection: LoadConnection, why: str) -> None:
        """Take down a request without an answer, unless its connection had been closed before."""
        self._busy -= 1
        if connection.stale:
            # It was due before all that wait. Its time goes on counting from then.
            self._waiting.appendleft((connection.target, connection.due))
        else:
            self._recorder.fail(connection.finished, connection.due, connection.target, why)
        self._next(connection)

    def _send_due(self) -> None:
        now = time.perf_counter()
        # An alarm that rings late finds several due. Each keeps the moment at which it was due, so
        # that lateness, the client's too, is in its latency (no coordinated omission).
        while self._due <= now and not self.done:
            self._arrive(self._due)
            self._due = self._begin + next(self._arrivals)
        if not self.done and self._due < math.inf:
            self._timer.set(self._due)

    def _arrive(self, due: float) -> None:
        self._count(due)
        # Without a bound, waiting grows without end when the rate is more than the server can do.
        # What is dropped has no latency: it is told beside the percentiles.
        if self.in_flight >= self._plan.outstanding:
            self._recorder.drop(due)
            return
        target = next(self._picks)
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                self._ask(connection, target, due)
                return
            self._pool.reopen(connection.number, self._next, self._refused)
        self._waiting.append((target, due))

    def _next(self, connection: LoadConnection) -> None:
        if not connection.usable:
            self._pool.reopen(connection.number, self._next, self._refused)
        elif self._waiting:
            self._ask(connection, *self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _ask(self, connection: LoadConnection, target: int, due: float) -> None:
        self._busy += 1
        super()._ask(connection, target, due)

    def _refused(self, why: str) -> bool:
        alone = not any(connection.usable for connection in self._pool.connections)
        now = time.perf_counter()
        while alone and self._waiting:  # nobody is there to take it on
            target, due = self._waiting.popleft()
            self._recorder.fail(now, due, target, why)
        return not self.done
