"""The load generator, a process of its own: what else mmekit does must not disturb what it times.

It reads a plan from standard input, a line of JSON, and writes a line about every second and one
about the end to standard output. When standard input ends, so does the load.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from mmekit.errors import MmekitError
from mmekit_bench.clock import OwnTimeMeter, PreciseTimer
from mmekit_bench.loops import ClosedLoop, OpenLoop
from mmekit_bench.plan import LoadPlan
from mmekit_bench.recording import (
    Failure,
    GeneratorMessage,
    LoadProgress,
    LoadRecorder,
    messages,
)
from mmekit_bench.requests import RequestHeads

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_bench.clock import OwnTime
    from mmekit_bench.recording import Recording

__all__ = ["main"]

_TICK_S = 0.1
_LAG_EVERY_S = 0.02
_DRAIN_S = 0.005


class _RunningLoad:
    """One load, from the first connection to the last answer."""

    def __init__(self, plan: LoadPlan, tell: Callable[[LoadProgress], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._heads = RequestHeads(plan.destination, plan.targets, plan.payload)
        self._load = (OpenLoop if plan.is_open else ClosedLoop)(plan, self._heads)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End it early."""
        self._stop.set()

    async def run(self) -> Recording:
        """Put the load on and return what was found."""
        await self._load.connect()
        if self._plan.client == "raw":
            gc.collect()
            gc.disable()  # a pause would be taken for the server's; hardly anything is to be freed
        begin = time.perf_counter() + self._plan.warm_up
        self._recorder = LoadRecorder(self._plan.targets, begin, self._plan.profile)
        if self._plan.duration is not None:
            self._recorder.end = begin + self._plan.duration
        self._meter = OwnTimeMeter()
        self._load.start(self._recorder, begin)
        self._listen_for_lag()
        # Without the time in which the last answers are waited for: idle as it is, it would make
        # the client look less busy.
        own_time = await self._measure(begin)
        self._load.stop()
        await self._drain()
        self._load.close()
        self._timer.close()
        return self._recorder.result(own_time)

    async def _measure(self, begin: float) -> OwnTime:
        recorder, load = self._recorder, self._load
        watching, said = False, 0.0
        while (now := time.perf_counter()) < recorder.end and not self._stop.is_set():
            if load.done and not load.in_flight:
                break
            if not watching and now >= begin:
                watching = True
                self._start_watching()
            with self._meter.housekeeping():
                recorder.fold(now)
            load.tick()
            if now - said >= 1:
                said = now
                self._heads.expire()
                self._say(now - begin)
            await self._pause(min(_TICK_S, recorder.end - now))
        # Requests are counted when they are summed up: all of them, before time is divided by them.
        recorder.fold(now)
        if self._stop.is_set():
            recorder.end = min(recorder.end, max(now, begin))
        elif now < recorder.end:  # all were sent and answered
            recorder.end = recorder.last
        return self._meter.result(recorder.count - self._counted)

    def _start_watching(self) -> None:
        self._counted = self._recorder.count
        self._meter.start()

    _counted = 0

    async def _pause(self, seconds: float) -> None:
        if self._load.done:
            seconds = min(seconds, _DRAIN_S)
        try:
            await asyncio.wait_for(self._stop.wait(), max(seconds, 0.001))
        except asyncio.TimeoutError:
            return

    async def _drain(self) -> None:
        """Wait for what is under way, which counts: it is the slowest that come last."""
        self._stop.clear()
        latest = time.perf_counter() + self._plan.timeout
        while self._load.in_flight and time.perf_counter() < latest:
            await asyncio.sleep(_DRAIN_S)
            self._load.tick()
            self._heads.expire()

    def _listen_for_lag(self) -> None:
        due = time.perf_counter() + _LAG_EVERY_S

        def ring() -> None:
            nonlocal due
            now = time.perf_counter()
            self._meter.late(now - due)
            # From now, and not from when it was due: one long pause is one late ring, not many.
            due = now + _LAG_EVERY_S
            self._timer.set(due)

        self._timer = PreciseTimer(ring)
        self._timer.set(due)

    def _say(self, elapsed: float) -> None:
        series = self._recorder.series
        self._tell(
            LoadProgress(
                elapsed=elapsed,
                in_flight=self._load.in_flight,
                errors=self._recorder.errors,
                latest=series[-1] if series else None,
            )
        )


async def _put_on(plan: LoadPlan) -> Recording:
    run = _RunningLoad(plan, _tell)
    loop = asyncio.get_running_loop()
    _when_input_ends(lambda: loop.call_soon_threadsafe(run.stop))
    return await run.run()


def _when_input_ends(act: Callable[[], object]) -> None:
    def wait() -> None:
        # Not sys.stdin, whose lock would be held when the interpreter ends.
        while os.read(0, 1024):
            pass
        act()

    threading.Thread(target=wait, daemon=True).start()


def _tell(progress: LoadProgress) -> None:
    _write(GeneratorMessage(progress=progress))


def _write(message: GeneratorMessage) -> None:
    sys.stdout.buffer.write(messages.dump_json(message) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Put the load on that standard input describes."""
    plan = TypeAdapter(LoadPlan).validate_json(_first_line())
    try:
        try:
            import uvloop  # not on Windows
        except ImportError:
            recording = asyncio.run(_put_on(plan))
        else:
            recording = uvloop.run(_put_on(plan))
    except MmekitError as error:
        _write(GeneratorMessage(failure=Failure(error.what, error.where, error.remedy)))
    else:
        _write(GeneratorMessage(recording=recording))


def _first_line() -> bytes:
    """Read byte for byte what the pipe brings up to the first line's end."""
    pieces: list[bytes] = []
    while not (pieces and pieces[-1].endswith(b"\n")):
        piece = os.read(0, 1 << 16)
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)


if __name__ == "__main__":
    main()
