"""Clients that ask all the while, and remember what went wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soak_run.models import request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slot_runs.servers import Server

    from soak_run.models import Loaded

_OK = 200
_THINK_S = 0.002
"""Between an answer and the next request, so that the machine is busy and not choked."""


@dataclass(frozen=True)
class Mishap:
    """A request that was not answered as it should be.

    Attributes
    ----------
    began, ended
        On the monotonic clock.
    """

    model: str
    began: float
    ended: float
    what: str


class Traffic:
    """As many clients as asked for, each on a connection of its own, model after model.

    Attributes
    ----------
    requests
        How many were answered, whatever with.
    errors
        Those that were not answered, or not with what is right.
    """

    def __init__(self, server: Server, models: Sequence[Loaded], clients: int) -> None:
        self.requests = 0
        self.errors: list[Mishap] = []
        self._server = server
        self._models = models
        self._stop = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._asking = 0
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,), daemon=True)
            for number in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each client have its last answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join(130)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have every client wait, after its answer, until the end of the block."""
        self._going.clear()
        try:
            while self._asking:
                time.sleep(_THINK_S)
            yield
        finally:
            self._going.set()

    def _ask(self, number: int) -> None:
        body, expected = request()
        connection = self._server.connect()
        while not self._stop.is_set():
            number += 1
            model = self._models[number % len(self._models)].name
            self._going.wait()
            began = time.monotonic()
            with self._lock:
                self._asking += 1
            try:
                what = _wrong(connection, model, body, json.loads(expected))
            except (OSError, http.client.HTTPException) as error:
                what = f"{type(error).__name__}: {error}"
                connection.close()
            with self._lock:
                self._asking -= 1
                self.requests += 1
                if what:
                    self.errors.append(Mishap(model, began, time.monotonic(), what))
            self._stop.wait(_THINK_S)
        with contextlib.suppress(OSError):
            connection.close()


def _wrong(
    connection: http.client.HTTPConnection, model: str, body: bytes, expected: object
) -> str:
    """Return what is wrong with an answer; nothing if it is right."""
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"/models/{model}/invoke", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != _OK:
        return f"{answer.status} {content.decode(errors='replace')}"
    return "" if json.loads(content) == expected else f"another answer: {content!r}"
