"""An open loop of mmekit_bench that tells of each answer whether its model was cold.

A program of its own, so that the load never shares an interpreter with what waits for it. It reads
a plan (JSON) and writes an array with a row for each arrival, in order: model, due (seconds from
the start), response time (seconds from when it was due), status (0: no answer), 1 if it was the
first answer of the model's process::

    python arrivals.py plan.json answers.npy
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmekit_bench import Destination, LoadPlan, Payload
from mmekit_bench.loops import OpenLoop

if TYPE_CHECKING:
    from mmekit_bench.connections import RawConnection

_GIVE_UP_S = 120
_LEAD_S = 0.2
_TICK_S = 0.1
_CONNECTIONS = 256
_OK = 200
_COLD = b"cold=1\r\n"


class _Arrivals(OpenLoop):
    """Takes down a row for each arrival; it is its own recorder."""

    def __init__(self, plan: LoadPlan, requests: list[bytes]) -> None:
        # Models of several classes take bodies of several kinds: whole requests, and no body more.
        super().__init__(plan, requests)
        self.rows: list[tuple[float, ...]] = []

    async def run(self) -> None:
        """Let all requests arrive, and wait for all answers."""
        await self.connect()
        self.start(self, time.perf_counter() + _LEAD_S)
        while self.in_flight or not self.done:
            self.tick()
            await asyncio.sleep(_TICK_S)
        self.close()

    def is_first(self, target: int) -> bool:  # noqa: ARG002 - what a recorder is asked
        """Say that no answer is another: the models say themselves which are cold."""
        return False

    def fail(self, finished: float, due: float, target: int, kind: str) -> None:  # noqa: ARG002
        """Take down a request without an answer."""
        self._row(finished, due, target, 0, cold=False)

    def _record(self, done: RawConnection) -> None:
        status = int(done.error.split()[0]) if done.error else _OK
        head, _, _ = done.begun.partition(b"\r\n\r\n")
        self._row(done.finished, done.due, done.target, status, cold=_COLD in head + b"\r\n")

    def _row(self, finished: float, due: float, target: int, status: int, *, cold: bool) -> None:
        self.rows.append((target, due - self._begin, finished - due, status, cold))


def _plan(given: dict[str, Any]) -> LoadPlan:
    return LoadPlan(
        Destination.of_url(f"http://127.0.0.1:{given['port']}"),
        Payload(b""),
        tuple(map(str, range(len(given["requests"])))),
        distribution=given["distribution"],
        connections=_CONNECTIONS,
        rate=given["rate"],
        outstanding=given["arrivals"],
        duration=None,
        requests=given["arrivals"],
        timeout=_GIVE_UP_S,
    )


async def _run(given: dict[str, Any]) -> np.ndarray:
    arrivals = _Arrivals(_plan(given), [base64.b64decode(text) for text in given["requests"]])
    await arrivals.run()
    return np.array(sorted(arrivals.rows, key=lambda row: row[1]), dtype=float)


def main() -> None:
    """Run a plan."""
    given = json.loads(Path(sys.argv[1]).read_text())
    try:
        import uvloop  # not on Windows
    except ImportError:
        answers = asyncio.run(_run(given))
    else:
        answers = uvloop.run(_run(given))
    np.save(sys.argv[2], answers)


if __name__ == "__main__":
    main()
