"""A model's workers and the queue in front of them.

What it does is what DJL Serving's WorkLoadManager, WorkerPool and BatchAggregator do, with two
differences on purpose: the queue is first in, first out, and a worker that dies is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmekit_local.server import errors
from mmekit_local.server.batches import QueuedRequest, deliver_replies, encode_batch, take_batch
from mmekit_local.server.worker import MAX_CRASHES, WINDOW_S, CrashCounter
from mmekit_local.server.worker_connection import (
    ModelGivenUp,
    NeverBegun,
    NoDescriptors,
    StreamUnwanted,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from mmekit_local.server.forms import Content
    from mmekit_local.server.replies import ReplyStream, WorkerReply
    from mmekit_local.server.slots import WorkerLauncher
    from mmekit_local.server.worker import Worker
    from mmekit_local.server.worker_connection import WorkerFailure

_logger = logging.getLogger("mmekit.server")

_TOO_OFTEN = f"{MAX_CRASHES + 1} workers died or did not start within {WINDOW_S:.0f} s"
# Measured with it at 8 connections: 1.98 times DJL Serving's requests a second, 0.91 without.
_QUICK_S = 0.01
"""An answer that takes less is worth to have the next request ready."""
_RETRY_S = 1.0
"""After a worker that did not start, before the next is tried."""


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
    keeps_growing: bool = False
    """Whether workers are added for as long as requests wait, and not only as one comes."""


@dataclass
class PoolCounters:
    """What a pool has counted: requests answered and refused, and seconds in all."""

    answered: int = 0
    refused: int = 0
    queue_s: float = 0.0
    worker_s: float = 0.0


class WorkerPool:
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
        self.counters = PoolCounters()
        self.workers: list[Worker] = []
        self._launcher = launcher
        self._idle: list[Worker] = []
        self._queue: deque[QueuedRequest] = deque()
        self._running: dict[Worker, deque[list[QueuedRequest]]] = {}
        self._takes_ahead = size.max_workers == size.batch_size == 1
        self._quick = False
        self._idle_since: dict[Worker, float] = {}
        self._starting = 0
        self._failures = 0
        self._overdue: set[int | None] = set()
        self._crashes = CrashCounter()
        self._batch_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._starts: set[asyncio.Task[None]] = set()
        self._stops: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def queued(self) -> int:
        """The number of requests that wait for a worker, those sent ahead among them."""
        return len(self._queue) + sum(len(batches) > 1 for batches in self._running.values())

    @property
    def is_busy(self) -> bool:
        """Whether requests wait or are being answered."""
        return bool(self._queue or self._running)

    async def start(self) -> None:
        """Start the minimum of workers; the first failure is raised and the others stopped."""
        self._starting += self.size.min_workers
        starts = [self._start_one() for _ in range(self.size.min_workers)]
        results = await asyncio.gather(*starts, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            await self.close()
            raise failures[0]

    def submit(
        self, properties: Mapping[str, str], content: Content
    ) -> asyncio.Future[WorkerReply]:
        """Queue a request; the future has the worker's reply or fails with an `ApiError`.

        A request whose future is cancelled before its turn is left out.
        """
        result: asyncio.Future[WorkerReply] = asyncio.get_running_loop().create_future()
        result.add_done_callback(self._count_refusal)
        if self._closed:
            result.set_exception(errors.unavailable("Worker shutting down"))
        elif self.failed:
            result.set_exception(errors.unavailable(f"Model is not ready: {self.name}"))
        elif self._is_full():
            result.set_exception(errors.no_capacity(self.name))
            if self._wants_more() or self._is_empty():
                self._scale_up()
        else:
            self._queue.append(QueuedRequest(properties, content, result))
            self._dispatch()
            # After handing out: what an idle worker has taken is no reason for another one.
            if self._wants_more():
                self._scale_up()
        return result

    async def close(self) -> None:
        """Stop every worker; what waits or runs is answered with an error."""
        self._closed = True
        for timer in (self._batch_timer, self._idle_timer, self._retry_timer):
            if timer:
                timer.cancel()
        for task in self._starts:
            task.cancel()
        running = (
            request for batches in self._running.values() for batch in batches for request in batch
        )
        requests = [*self._queue, *running]
        self._queue.clear()
        # Before the workers end, of whose loss these would be told otherwise.
        for request in requests:
            request.refuse(errors.unavailable("Worker shutting down"))
        # A stop is not cancelled: nobody else would end that worker.
        await asyncio.gather(*self._starts, *self._stops, return_exceptions=True)
        workers, self.workers, self._idle = self.workers, [], []
        await asyncio.gather(*(worker.stop() for worker in workers))
        await self._launcher.close()

    def _is_full(self) -> bool:
        # WorkLoadManager.runJob: the last place stays free while all are busy, and a model that
        # may have no worker, and has none, refuses whoever makes it start one.
        left = self.size.queue_size - self.queued
        idle = bool(self._idle)
        dormant = not self.workers and self.size.min_workers == 0
        return left < 1 or (left == 1 and not idle) or dormant

    def _is_empty(self) -> bool:
        return not self.workers and not self._starting

    def _count_refusal(self, done: asyncio.Future[WorkerReply]) -> None:
        if not done.cancelled() and done.exception() is not None:
            self.counters.refused += 1

    # Starting and stopping workers.

    async def _start_one(self) -> None:
        # Whoever calls has counted it as starting, at once: two calls may come in one turn.
        try:
            worker = await self._launcher.launch(self._on_exit)
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
        if self._retry_timer is None and len(self.workers) + self._starting < self.size.max_workers:
            workers = len(self.workers) + self._starting + 1
            _logger.info("scaling up the workers of model %s to %d", self.name, workers)
            self._starting += 1
            _spawn(self._start_in_background(), self._starts)

    async def _start_in_background(self) -> None:
        try:
            await self._start_one()
        except Exception as error:  # noqa: BLE001  whatever it was, the model goes on without
            _logger.warning("a worker of model %s did not start: %s", self.name, error)
            self._try_again_later(error)
        else:
            if self.size.keeps_growing and self._wants_more() and not self._closed:
                self._scale_up()

    def _try_again_later(self, error: Exception) -> None:
        """Have a start that failed follow by others, unless the model is to blame too often."""
        if self.failed or self._closed or self._retry_timer or self._missing() <= 0:
            return
        # Of the starts that fail together, as the slots of one process do, the first counts. One
        # that this server had no descriptors for counts for nothing.
        blameless = isinstance(error, NoDescriptors)
        if blameless or not self._crashes.too_often(None, f"did not start: {error}"):
            self._retry_timer = asyncio.get_running_loop().call_later(_RETRY_S, self._try_again)
        elif self._is_empty():
            self._mark_failed(f"{_TOO_OFTEN}: {self._crashes}")

    def _try_again(self) -> None:
        self._retry_timer = None
        self._replace()

    def _missing(self) -> int:
        return max(1, self.size.min_workers) - len(self.workers) - self._starting

    def _replace(self) -> None:
        for _ in range(self._missing()):
            self._starting += 1
            _spawn(self._start_in_background(), self._starts)

    def _on_exit(self, worker: Worker, failure: WorkerFailure) -> None:
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
            # What the fork server has counted, which replaces processes without asking.
            self._mark_failed(str(failure))
            return
        if isinstance(failure, StreamUnwanted):
            _logger.info("worker %s of model %s is replaced: %s", worker.pid, self.name, failure)
            self._replace()
            return
        # One process may have had several requests together, of which one was too much for it.
        if "TimeoutException" in str(failure) and worker.pid not in self._overdue:
            self._overdue.add(worker.pid)
            # DJL Serving counts time-outs and marks the model as failed past the threshold.
            self._failures += 1
            if self._failures > self.size.retry_threshold:
                seconds, allowed = worker.spec.predict_timeout_s, self.size.retry_threshold
                took = f"{self._failures} of its requests took longer than {seconds:g} s"
                self._mark_failed(f"{took}, retry_threshold allows {allowed}")
                return
        _logger.warning("worker %s of model %s died: %s", worker.pid, self.name, failure)
        if self._crashes.too_often(worker.pid, f"died: {failure}"):
            self._mark_failed(f"{_TOO_OFTEN}: {self._crashes}")
        elif self._retry_timer is None:
            self._replace()

    def _mark_failed(self, reason: str) -> None:
        _logger.error("model %s is marked as failed: %s", self.name, reason)
        self.failed = True
        while self._queue:
            error = errors.unavailable(f"Model is not ready: {self.name}")
            self._queue.popleft().refuse(error)

    # Handing out requests.

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            wanted = self.size.batch_size
            if len(self._queue) < wanted:
                wait = self._queue[0].queued_at + self.size.max_batch_delay_s - time.monotonic()
                if wait > 0:
                    if self._batch_timer is None:
                        loop = asyncio.get_running_loop()
                        self._batch_timer = loop.call_later(wait, self._batch_is_due)
                    return
            batch = take_batch(self._queue, wanted)
            message = self._message(batch)
            if message is not None:
                self._begin(batch)
                self._send(self._idle.pop(), batch, message)
        # Not to a slot: when its process dies, bytes in its socket tell the fork server that the
        # process had not taken the request, and the next one would be answered in its place.
        if self._queue and self._takes_ahead and self._quick and not self._launcher.gives_slots:
            self._send_ahead()

    def _send_ahead(self) -> None:
        """Send a model's only worker its next request: it need not wait for this process then.

        Of several workers the next request belongs to the one that is free first, and where
        answers take their time, those whose clients go meanwhile are left out.
        """
        for worker, batches in self._running.items():
            while self._queue and len(batches) == 1 and worker in self.workers:
                batch = take_batch(self._queue, 1)
                message = self._message(batch)
                if message is not None:
                    self._send(worker, batch, message)

    def _batch_is_due(self) -> None:
        self._batch_timer = None
        self._dispatch()

    def _message(self, batch: list[QueuedRequest]) -> bytes | None:
        """Return what carries a batch; None where there is none, or where nothing can carry it.

        Before a worker is taken: what fails here costs no worker.
        """
        try:
            return encode_batch(batch, self._handler) if batch else None
        except Exception as error:  # whatever it was, these requests have an answer
            _logger.exception("requests to model %s cannot be sent to a worker", self.name)
            _refuse_batch(batch, error)
            return None

    def _begin(self, batch: list[QueuedRequest]) -> None:
        now = time.monotonic()
        for request in batch:
            request.sent_at = now
            self.counters.queue_s += now - request.queued_at

    def _send(self, worker: Worker, batch: list[QueuedRequest], message: bytes) -> None:
        """Give a worker a batch; `_finished` gives it back, whatever becomes of either."""
        self._running.setdefault(worker, deque()).append(batch)
        answer = worker.send(message)
        answer.add_done_callback(lambda done: self._finished(worker, done))

    def _finished(self, worker: Worker, done: asyncio.Future[WorkerReply]) -> None:
        """Answer a batch, and give its worker back; one that failed is known as dead by now."""
        batch = self._running[worker][0]
        stream: ReplyStream | None = None
        try:
            failure = done.exception()
            if failure is None:
                stream = done.result().stream
                self._answer(batch, done.result())
            else:
                self._fail_batch(batch, failure)
        except Exception as error:  # whatever it was, nobody waits for ever
            _logger.exception("answers of model %s are lost", self.name)
            _refuse_batch(batch, error)
            if stream is not None:
                stream.abandon()
        finally:
            if stream is None:
                self._finish_batch(worker, alive=not done.exception())
            else:
                stream.when_ended(lambda: self._finish_batch(worker))

    def _answer(self, batch: list[QueuedRequest], reply: WorkerReply) -> None:
        took = time.monotonic() - batch[0].sent_at
        self.counters.answered += len(batch)
        self.counters.worker_s += took
        self._quick = took < _QUICK_S
        deliver_replies(batch, reply)

    def _fail_batch(self, batch: list[QueuedRequest], failure: BaseException) -> None:
        if isinstance(failure, NeverBegun) and not self.failed and not self._closed:
            self._queue.extendleft(reversed(batch))  # which puts one before the other
            return
        message = str(failure)
        if "disconnected" in message:
            # Java's Future.get wraps what its task has thrown, but not its own time-out.
            message = f"java.util.concurrent.ExecutionException: {message}"
        for request in batch:
            request.refuse(errors.unavailable(message))

    def _finish_batch(self, worker: Worker, *, alive: bool = True) -> None:
        """Go on after a batch: with what was sent ahead, or with what waits."""
        batches = self._running[worker]
        batches.popleft()
        if not batches:
            del self._running[worker]
        if not alive or worker not in self.workers:
            self._dispatch()
            return
        if not batches:
            self._release(worker)
            return
        self._begin(batches[0])
        self._dispatch()

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


def _refuse_batch(batch: list[QueuedRequest], error: Exception) -> None:
    for request in batch:
        request.refuse(errors.ApiError(500, type(error).__name__, str(error)))


def _spawn(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
