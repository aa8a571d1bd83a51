"""A model's workers and the queue in front of them.

What it does is what DJL Serving's WorkLoadManager, WorkerPool and BatchAggregator do, with two
differences on purpose: the queue is first in, first out, and a worker that dies is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmekit.server import refusal
from mmekit.server.link import ModelGivenUp
from mmekit.server.replies import Reply
from mmekit_runtime.wire import encode_request

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from mmekit.server.forms import Content
    from mmekit.server.launcher import WorkerLauncher
    from mmekit.server.link import WorkerFailure
    from mmekit.server.worker import Worker

_logger = logging.getLogger("mmekit.server")

_BATCH_KEY = re.compile(r"batch_(\d+)\.(.*)", re.DOTALL)
_MAX_RESTARTS = 3
_RESTART_WINDOW_S = 60.0


@dataclass(frozen=True)
class PoolSize:
    """How many workers and waiting requests a model may have; the names are DJL Serving's."""

    min_workers: int
    max_workers: int
    queue_size: int = 1000
    batch_size: int = 1
    max_batch_delay_s: float = 0.1
    max_idle_s: float = 60.0
    retry_threshold: int = 0


@dataclass
class Tally:
    """What a pool has counted: requests answered and refused, and seconds in all."""

    answered: int = 0
    refused: int = 0
    queue_s: float = 0.0
    worker_s: float = 0.0


@dataclass
class _Job:
    properties: Mapping[str, str]
    content: Content
    result: asyncio.Future[Reply]
    since: float = field(default_factory=time.monotonic)
    sent: float = 0.0


class Pool:
    """The workers of one model: minimum to maximum, and a queue that is first in, first out.

    Parameters
    ----------
    name
        The model's.
    launcher
        Starts the workers.
    handler
        The function of the model that answers requests.
    """

    def __init__(
        self, name: str, size: PoolSize, launcher: WorkerLauncher, handler: str = "handle"
    ) -> None:
        self.name = name
        self.size = size
        self._handler = handler
        self.failed = False
        self.tally = Tally()
        self.workers: list[Worker] = []
        self._launcher = launcher
        self._idle: list[Worker] = []
        self._queue: deque[_Job] = deque()
        self._running: dict[Worker, list[_Job]] = {}
        self._idle_since: dict[Worker, float] = {}
        self._starting = 0
        self._failures = 0
        self._deaths: deque[tuple[int | None, float]] = deque(maxlen=_MAX_RESTARTS)
        self._batch_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._starts: set[asyncio.Task[None]] = set()
        self._stops: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def queued(self) -> int:
        """The number of requests that wait for a worker."""
        return len(self._queue)

    async def start(self) -> None:
        """Start the minimum of workers; the first failure is raised and the others stopped."""
        self._starting += self.size.min_workers
        starts = [self._start_one() for _ in range(self.size.min_workers)]
        results = await asyncio.gather(*starts, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            await self.close()
            raise failures[0]

    def submit(self, properties: Mapping[str, str], content: Content) -> asyncio.Future[Reply]:
        """Queue a request; the future has the worker's reply or fails with a `Refusal`.

        A request whose future is cancelled before its turn is left out.
        """
        result: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        result.add_done_callback(self._count_refusal)
        if self._closed:
            result.set_exception(refusal.unavailable("Worker shutting down"))
        elif self.failed:
            result.set_exception(refusal.unavailable(f"Model is not ready: {self.name}"))
        elif self._is_full():
            result.set_exception(refusal.no_capacity(self.name))
            if self._wants_more() or self._is_empty():
                self._scale_up()
        else:
            self._queue.append(_Job(properties, content, result))
            self._dispatch()
            if self._wants_more():
                self._scale_up()
        return result

    async def close(self) -> None:
        """Stop every worker; what waits or runs is answered with an error."""
        self._closed = True
        for timer in (self._batch_timer, self._idle_timer):
            if timer:
                timer.cancel()
        for task in self._starts:
            task.cancel()
        jobs = [*self._queue, *(job for batch in self._running.values() for job in batch)]
        self._queue.clear()
        for job in jobs:
            _refuse(job, refusal.unavailable("Worker shutting down"))
        # A stop is not cancelled: nobody else would end that worker.
        await asyncio.gather(*self._starts, *self._stops, return_exceptions=True)
        workers, self.workers, self._idle = self.workers, [], []
        await asyncio.gather(*(worker.stop() for worker in workers))
        await self._launcher.close()

    def _is_full(self) -> bool:
        # WorkLoadManager.runJob: the last place stays free while all are busy, and a model that
        # may have no worker, and has none, refuses whoever makes it start one.
        left = self.size.queue_size - len(self._queue)
        idle = bool(self._idle)
        dormant = not self.workers and self.size.min_workers == 0
        return left < 1 or (left == 1 and not idle) or dormant

    def _is_empty(self) -> bool:
        return not self.workers and not self._starting

    def _count_refusal(self, done: asyncio.Future[Reply]) -> None:
        if not done.cancelled() and done.exception() is not None:
            self.tally.refused += 1

    # Starting and stopping workers.

    async def _start_one(self) -> None:
        # Whoever calls has counted it as starting, at once: two calls may come in one turn.
        try:
            worker = await self._launcher.launch(self._on_death)
        finally:
            self._starting -= 1
        self.workers.append(worker)
        self._release(worker)

    def _wants_more(self) -> bool:
        if self._launcher.gives_slots:
            return len(self._queue) > self._starting
        # The rule of WorkLoadManager.runJob; one start at a time, as each costs a second of a core.
        waiting = len(self._queue) > 2 * self.size.batch_size
        return (waiting or not self.workers) and self._starting == 0

    def _scale_up(self) -> None:
        if len(self.workers) + self._starting < self.size.max_workers:
            workers = len(self.workers) + self._starting + 1
            _logger.info("scaling up the workers of model %s to %d", self.name, workers)
            self._starting += 1
            _spawn(self._start_in_background(), self._starts)

    async def _start_in_background(self) -> None:
        try:
            await self._start_one()
        except Exception as error:  # noqa: BLE001  whatever it was, the model goes on without
            _logger.warning("a worker of model %s did not start: %s", self.name, error)
            if not self.workers and not self._starting:
                self._give_up(f"a worker did not start: {error}")

    def _on_death(self, worker: Worker, failure: WorkerFailure) -> None:
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        self._idle_since.pop(worker, None)
        _spawn(worker.stop(), self._stops)
        if self.failed or self._closed:
            return
        if isinstance(failure, ModelGivenUp):
            self._give_up(f"{_MAX_RESTARTS + 1} deaths within {_RESTART_WINDOW_S:.0f} s")
            return
        if "TimeoutException" in str(failure):
            # DJL Serving counts time-outs and marks the model as failed past the threshold.
            self._failures += 1
            if self._failures > self.size.retry_threshold:
                self._give_up(f"{self._failures} time-outs")
                return
        if not self._may_restart(worker.pid):
            self._give_up(f"{_MAX_RESTARTS + 1} deaths within {_RESTART_WINDOW_S:.0f} s")
            return
        _logger.warning("worker %s of model %s died: %s", worker.pid, self.name, failure)
        if len(self.workers) + self._starting < max(1, self.size.min_workers):
            self._starting += 1
            _spawn(self._start_in_background(), self._starts)

    def _may_restart(self, pid: int | None) -> bool:
        """Note the death of a process, once for all slots of it; False with the fourth in time."""
        if any(known == pid for known, _ in self._deaths):
            return True
        now = time.monotonic()
        often = len(self._deaths) == _MAX_RESTARTS
        if often and now - self._deaths[0][1] < _RESTART_WINDOW_S:
            return False
        self._deaths.append((pid, now))
        return True

    def _give_up(self, reason: str) -> None:
        _logger.error("model %s is marked as failed: %s", self.name, reason)
        self.failed = True
        while self._queue:
            error = refusal.unavailable(f"Model is not ready: {self.name}")
            _refuse(self._queue.popleft(), error)

    # Handing out requests.

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            wanted = self.size.batch_size
            if len(self._queue) < wanted:
                wait = self._queue[0].since + self.size.max_batch_delay_s - time.monotonic()
                if wait > 0:
                    if self._batch_timer is None:
                        loop = asyncio.get_running_loop()
                        self._batch_timer = loop.call_later(wait, self._batch_is_due)
                    return
            batch: list[_Job] = []
            while self._queue and len(batch) < wanted:
                job = self._queue.popleft()
                if not job.result.done():
                    batch.append(job)
            if batch:
                self._run(self._idle.pop(), batch)

    def _batch_is_due(self) -> None:
        self._batch_timer = None
        self._dispatch()

    def _run(self, worker: Worker, batch: list[_Job]) -> None:
        self._running[worker] = batch
        now = time.monotonic()
        for job in batch:
            job.sent = now
            self.tally.queue_s += now - job.since
        if len(batch) == 1:
            properties = {**batch[0].properties, "handler": self._handler}
            request = encode_request(properties, batch[0].content)
        else:
            request = _batched(batch, self._handler)
        answer = worker.send(request)
        answer.add_done_callback(lambda done: self._finished(worker, done))

    def _finished(self, worker: Worker, done: asyncio.Future[Reply]) -> None:
        batch = self._running.pop(worker, [])
        error = done.exception()
        if error is None:
            self.tally.answered += len(batch)
            self.tally.worker_s += time.monotonic() - batch[0].sent if batch else 0.0
            reply = done.result()
            _deliver(batch, reply)
            if reply.stream is None:
                self._release_if_there(worker)
            else:
                reply.stream.when_ended(lambda: self._release_if_there(worker))
            return
        message = str(error)
        if "disconnected" in message:
            message = f"java.util.concurrent.ExecutionException: {message}"
        for job in batch:
            _refuse(job, refusal.unavailable(message))

    def _release_if_there(self, worker: Worker) -> None:
        if worker in self.workers:
            self._release(worker)

    def _release(self, worker: Worker) -> None:
        # Last in, first out: what is not needed stays idle and ends.
        self._idle.append(worker)
        if self._queue:
            self._dispatch()
        if len(self.workers) > self.size.min_workers:
            self._idle_since[worker] = time.monotonic()
            if self._idle_timer is None:
                self._watch_idle(self.size.max_idle_s)

    def _watch_idle(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        self._idle_timer = loop.call_later(delay, self._end_idle)

    def _end_idle(self) -> None:
        self._idle_timer = None
        now = time.monotonic()
        surplus = len(self.workers) - self.size.min_workers
        oldest = now
        for worker in list(self._idle):
            since = self._idle_since.get(worker, now)
            if surplus > 0 and now - since >= self.size.max_idle_s:
                _logger.info("worker %s of model %s was idle and ends", worker.pid, self.name)
                self._idle.remove(worker)
                self.workers.remove(worker)
                self._idle_since.pop(worker, None)
                _spawn(worker.stop(), self._stops)
                surplus -= 1
            else:
                oldest = min(oldest, since)
        if surplus > 0:
            self._watch_idle(max(0.05, oldest + self.size.max_idle_s - now))


def _spawn(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _batched(batch: list[_Job], handler: str) -> bytes:
    # PyPredictor.batchPredict.
    properties = {"batch_size": str(len(batch)), "handler": handler}
    content: list[tuple[str | None, bytes]] = []
    for index, job in enumerate(batch):
        prefix = f"batch_{index:03d}."
        for key, value in job.properties.items():
            properties[prefix + key] = value
        content += [(prefix + (key or "data"), value) for key, value in job.content]
    return encode_request(properties, content)


def _deliver(batch: list[_Job], reply: Reply) -> None:
    if len(batch) == 1:
        _answer(batch[0], reply)
        return
    if reply.status >= 300:  # noqa: PLR2004
        for job in batch:
            _answer(job, reply)
        return
    if len(reply.content) != len(batch):
        for job in batch:
            expected = f"expected: {len(batch)}, actual: {len(reply.content)}"
            _refuse(job, refusal.untranslatable(f"Batch output size mismatch, {expected}"))
        return
    parts: list[list[tuple[str | None, bytes]]] = [[] for _ in batch]
    for key, value in reply.content:
        match = _BATCH_KEY.fullmatch(key or "")
        if match is None or int(match[1]) >= len(batch):
            for job in batch:
                _refuse(job, refusal.untranslatable(f"Unexpected batch output key: {key}"))
            return
        parts[int(match[1])].append((match[2], value))
    for job, content in zip(batch, parts, strict=True):
        own = Reply(reply.status, reply.message, reply.properties, tuple(content))
        _answer(job, own)


def _answer(job: _Job, reply: Reply) -> None:
    if not job.result.done():
        job.result.set_result(reply)


def _refuse(job: _Job, error: refusal.Refusal) -> None:
    if not job.result.done():
        job.result.set_exception(error)
