"""Open-loop HTTP load: requests are sent when they are due, however many are still unanswered.

A program of its own, so that the load never shares an interpreter with what waits for it. It reads
a plan (JSON) and writes an array with a row for each arrival: model, due (seconds from the start),
response time (seconds from when it was due), status (0: no answer), 1 if it was the first answer of
the model's process::

    python arrivals.py plan.json answers.npy
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

import httptools
import numpy as np

_GIVE_UP_S = 120
_LEAD_S = 0.2


class _Connection(asyncio.Protocol):
    """A kept-alive connection, one exchange at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.is_open = False
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[tuple[int, bool]] | None = None
        self._cold = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((0, False))

    def on_message_begin(self) -> None:
        self._cold = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._cold = value.endswith(b"cold=1")

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), self._cold))

    async def ask(self, request: bytes) -> tuple[int, bool]:
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await asyncio.wait_for(self._answer, _GIVE_UP_S)


class _Arrivals:
    """Sends what is due."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._port: int = plan["port"]
        self._requests = [base64.b64decode(text) for text in plan["requests"]]
        self._models: list[int] = plan["models"]
        self._due: list[float] = plan["due"]
        self._idle: list[_Connection] = []
        self.answers = np.zeros((len(self._models), 5))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        began = time.perf_counter() + _LEAD_S
        under_way: set[asyncio.Task[None]] = set()
        for place, due in enumerate(self._due):
            wait = began + due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            task = loop.create_task(self._ask(place, began))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _ask(self, place: int, began: float) -> None:
        model, due = self._models[place], self._due[place]
        try:
            connection = await self._connection()
            status, cold = await connection.ask(self._requests[model])
            if connection.is_open:
                self._idle.append(connection)
        except (OSError, asyncio.TimeoutError):
            status, cold = 0, False
        taken = time.perf_counter() - began - due
        self.answers[place] = (model, due, taken, status, cold)

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
        return connection


def main() -> None:
    """Run a plan."""
    arrivals = _Arrivals(json.loads(Path(sys.argv[1]).read_text()))
    try:
        import uvloop  # not on Windows
    except ImportError:
        asyncio.run(arrivals.run())
    else:
        uvloop.run(arrivals.run())
    np.save(sys.argv[2], arrivals.answers)


if __name__ == "__main__":
    main()
