"""The same load as signed boto3 calls in threads: what a caller who uses boto3 gets.

boto3 takes a millisecond of processor time a call, and Python's threads share one processor: for a
fast server this measures boto3.
"""

from __future__ import annotations

import math
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from mmekit.errors import EndpointError
from mmekit.settings import Settings
from mmekit_bench.messages import Progress
from mmekit_bench.own_time import Watch
from mmekit_bench.recording import Recorder, Recording
from mmekit_bench.traffic import picks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit_bench.plan import Plan

__all__ = ["Boto3Loop", "runtime_client"]

_PATIENCE_S = 10.0
_TICK_S = 0.1
_POLL_S = 0.02


class Boto3Loop:
    """A load, open or closed; one thread a connection.

    Parameters
    ----------
    tell
        Is told how far it is, every second.
    """

    def __init__(self, plan: Plan, tell: Callable[[Progress], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._profile = plan.profile
        self._picks = picks(plan.shares, plan.seed)
        if plan.destination.endpoint is None:
            raise EndpointError(
                "boto3 calls endpoints, and this is a container.",
                where="--client boto3",
                remedy="Name an endpoint, or take --client raw.",
            )
        self._threads = plan.connections if plan.is_open else math.ceil(self._profile.highest)
        self._client = runtime_client(Settings(), self._threads, plan.timeout)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._remaining = math.inf if plan.requests is None else plan.requests
        self._due: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._outstanding = 0

    def stop(self) -> None:
        """End it early."""
        self._stop.set()

    def run(self) -> Recording:
        """Put the load on and return what was found.

        Raises
        ------
        EndpointError
            Nobody answers.
        """
        plan = self._plan
        try:
            socket.create_connection(plan.destination.address, _PATIENCE_S).close()
        except OSError as error:
            raise plan.destination.unreachable(error.strerror or str(error)) from error
        self._begin = time.perf_counter() + plan.warm_up
        self._recorder = Recorder(plan.targets, self._begin, self._profile)
        if plan.duration is not None:
            self._recorder.end = self._begin + plan.duration
        count = self._threads
        work = self._serve if plan.is_open else self._repeat
        threads = [
            threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)
        ]
        feeder = threading.Thread(target=self._arrive, args=(count,), daemon=True)
        if plan.is_open:
            threads.append(feeder)
        for thread in threads:
            thread.start()
        own_time = self._watch(threads)
        latest = time.perf_counter() + plan.timeout
        for thread in threads:
            thread.join(max(0.0, latest - time.perf_counter()))
        with self._lock:
            return self._recorder.result(own_time)

    def _watch(self, threads: list[threading.Thread]) -> Any:
        recorder, watch = self._recorder, Watch()
        watching, said, counted = False, 0.0, 0
        while (now := time.perf_counter()) < recorder.end and not self._stop.wait(_TICK_S):
            if not any(thread.is_alive() for thread in threads):
                break
            with self._lock, watch.housekeeping():
                recorder.fold(now)
            if not watching and now >= self._begin:
                watching, counted = True, recorder.count
                watch.start()
            if now - said >= 1:
                said = now
                series = recorder.series
                latest = series[-1] if series else None
                under_way = self._outstanding
                self._tell(Progress(now - self._begin, under_way, recorder.errors, latest))
        with self._lock:
            recorder.fold(now)
            if self._stop.is_set():
                recorder.end = min(recorder.end, max(now, self._begin))
            elif now < recorder.end:
                recorder.end = recorder.last
        self._stop.set()
        return watch.result(recorder.count - counted)

    def _repeat(self, number: int) -> None:
        """Be one connection of a closed loop."""
        while not self._is_over():
            now = time.perf_counter()
            if number < round(self._profile.level(now - self._begin)):
                if self._take(now):
                    self._call(now)
            else:
                self._stop.wait(_POLL_S)

    def _arrive(self, threads: int) -> None:
        """Hand out an open loop's requests when they are due."""
        arrivals: Iterator[float] = self._profile.arrivals(
            poisson=self._plan.poisson, seed=self._plan.seed + 1, start=-self._plan.warm_up
        )
        for moment in arrivals:
            due = self._begin + moment
            if self._is_over() or self._stop.wait(max(0.0, due - time.perf_counter())):
                break
            if not self._take(due):
                break
            with self._lock:
                if self._outstanding >= self._plan.outstanding:
                    self._recorder.drop(due)
                    continue
                self._outstanding += 1
            self._due.put(due)
        for _ in range(threads):
            self._due.put(None)

    def _serve(self, _: int) -> None:
        """Be one connection of an open loop."""
        while (due := self._due.get()) is not None:
            self._call(due)
            with self._lock:
                self._outstanding -= 1

    def _is_over(self) -> bool:
        return self._stop.is_set() or self._remaining <= 0

    def _take(self, due: float) -> bool:
        """Take one of the requests that there are to be."""
        with self._lock:
            if self._remaining <= 0:
                return False
            if due >= self._begin:
                self._remaining -= 1
            return True

    def _call(self, due: float) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        with self._lock:
            target = next(self._picks)
            first = self._recorder.is_first(target)
        named = {"TargetModel": self._plan.targets[target]} if self._plan.targets[target] else {}
        sent = time.perf_counter()
        error = ""
        try:
            answer = self._client.invoke_endpoint(
                EndpointName=self._plan.destination.endpoint,
                Body=self._plan.payload.body,
                ContentType=self._plan.payload.content_type,
                **named,
            )
            answer["Body"].read()
        except ClientError as refused:
            error = _kind(refused.response)
        except BotoCoreError as failed:
            error = type(failed).__name__
        finished = time.perf_counter()
        with self._lock:
            if error:
                self._recorder.fail(finished, due, target, error)
            else:
                self._recorder.add(finished, due, sent, target, first=first)


def _kind(response: Any) -> str:
    """Return an error's name as `mmekit_bench.connection.error_kind` writes it."""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    name = f"{status} {response.get('Error', {}).get('Code', '')}".strip()
    original = response.get("OriginalStatusCode")
    return name if original is None else f"{name} ({original})"


def runtime_client(settings: Settings, connections: int, timeout: float = 60.0) -> Any:
    """Return a boto3 client for invocations that tries once, so that whatever fails is seen.

    Parameters
    ----------
    settings
        Whose target it calls.
    connections
        How many it may keep open.
    timeout
        Seconds that an answer may take.
    """
    return settings.client(
        "sagemaker-runtime",
        max_pool_connections=connections,
        retries={"total_max_attempts": 1},
        connect_timeout=min(timeout, _PATIENCE_S),
        read_timeout=timeout,
    )
