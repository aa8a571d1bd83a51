"""Hundreds of customers at once, and thousands of which most are parked."""

from __future__ import annotations

import contextlib
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slot_runs import crowd, servers
from slot_runs.servers import TITLES, ServerFailure, ServerKind, ask, running

from layer_runs import customers as of
from layer_runs.expected import expect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slot_runs.servers import Server

    from layer_runs.customers import Customers
    from layer_runs.expected import Expectation

_AT_ONCE = 2
_CONNECTIONS = 16
_WOKEN = 100
_PARK_AFTER_S = "2"
_WAIT_S = 120.0
_POLL_S = 0.5
# Where models do not park or share nothing, the system would kill something next.
_LEAST_AVAILABLE = 512 << 20


@dataclass(frozen=True)
class Many:
    """What became of many customers.

    Attributes
    ----------
    parked
        Whether they were to park when they had been idle for two seconds.
    wanted, loaded
        Customers.
    own
        Those whose every answer was their own.
    failure
        The first thing that went wrong; None when nothing did.
    apart
        How far the most similar two customers' probabilities are apart.
    seconds
        Of loading them, and of asking each once as soon as it was loaded.
    load_ms
        The median of the loads after the first.
    at_once_s
        Of asking all of them from 16 connections, when all were loaded; of asking some of those
        that have parked.
    asked_later
        How many of them were asked then.
    private
        Bytes that each after the first adds to the private memory of all processes of the server.
    proportional, available
        Bytes of all processes together, and by which the machine's MemAvailable has shrunk.
    awake
        Customers that had a process of their own before they were asked once more.
    """

    server: ServerKind
    parked: bool
    wanted: int
    loaded: int
    own: int
    failure: str | None
    apart: float
    seconds: float
    load_ms: float
    at_once_s: float
    asked_later: int
    private: int
    proportional: int
    available: int
    awake: int

    @property
    def complete(self) -> bool:
        """Whether all were loaded, and all answers were their customers' own."""
        return self.own == self.wanted and self.failure is None


def measure(
    kind: ServerKind,
    work: Path,
    say: Callable[[str], None],
    *,
    customers: Customers,
    count: int,
    parked: bool,
) -> Many:
    """Load thin customers, ask each, and ask again."""
    crowd.allow_descriptors()
    expectation = expect(customers, count)
    layers = of.unpacked_layers(customers.packed("thin", 1), work / "ready-layers")
    say(f"writing the folders of {count} customers")
    folders = [
        customers.folder("thin", number, work / "models" / f"c{number}") for number in range(count)
    ]
    further = {"MMEKIT_LAYERS": str(layers)}
    if parked:
        further["MMEKIT_PARK_AFTER_S"] = _PARK_AFTER_S
    with running(kind, further) as server:
        before = servers.available()
        asked = _Asked(server, expectation)
        began = time.monotonic()
        asked.load(folders[:1])
        if parked:
            say("the first parks")
            _wait_until_parked(server, folders[:1])
        first = servers.of_server(server).private
        asked.load(folders[1:], lambda done: say(f"{done + 1} of {count} customers loaded"))
        seconds = time.monotonic() - began
        again = range(asked.loaded)
        if parked:
            say("they park")
            _wait_until_parked(server, folders)
            again = again[:: max(1, asked.loaded // _WOKEN)]
        say(f"asking {len(again)} of them")
        awake = crowd.awake(server, folders) if parked else asked.loaded
        whole = servers.of_server(server)
        shrunk = before - servers.available()
        began = time.monotonic()
        asked.at_once(again)
        at_once = time.monotonic() - began
        if not parked:
            # Here all have answered, many of them at the same time.
            whole, shrunk = servers.of_server(server), before - servers.available()
            awake = crowd.awake(server, folders)
    return Many(
        server=kind,
        parked=parked,
        wanted=count,
        loaded=asked.loaded,
        own=len(asked.own - asked.wrong),
        failure=asked.failure,
        apart=expectation.apart,
        seconds=seconds,
        load_ms=statistics.median(asked.loads_ms[1:]) if asked.loaded > 1 else float("nan"),
        at_once_s=at_once,
        asked_later=len(again),
        private=(whole.private - first) // max(1, asked.loaded - 1),
        proportional=whole.proportional,
        available=shrunk,
        awake=awake,
    )


class _Asked:
    """Customers that are loaded and asked; what they have answered."""

    def __init__(self, server: Server, expectation: Expectation) -> None:
        self._server = server
        self._expectation = expectation
        self.loads_ms: list[float] = []
        self.own: set[int] = set()
        self.wrong: set[int] = set()
        self.failure: str | None = None

    @property
    def loaded(self) -> int:
        """How many are loaded."""
        return len(self.loads_ms)

    def load(self, folders: Sequence[Path], say: Callable[[int], None] = lambda _: None) -> None:
        """Load customers and ask each at once, until something fails."""
        numbers = iter(range(self.loaded, self.loaded + len(folders)))
        by_number = dict(enumerate(folders, start=self.loaded))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while self.failure is None:
                batch = [number for _, number in zip(range(_AT_ONCE * 10), numbers, strict=False)]
                if not batch:
                    break
                try:
                    times = list(pool.map(lambda n: self._load(n, by_number[n]), batch))
                except (ServerFailure, OSError) as error:
                    self.failure = f"customer {batch[0]} or following: {error}"
                    break
                self.loads_ms += times
                if servers.available() < _LEAST_AVAILABLE:
                    left = servers.available() >> 20
                    self.failure = f"only {left} MiB were left on this machine"
                say(self.loaded)

    def _load(self, number: int, folder: Path) -> float:
        milliseconds = self._server.load(folder.name, folder)
        with contextlib.closing(self._server.connect()) as connection:
            self._ask(connection, number)
        return milliseconds

    def at_once(self, numbers: Sequence[int]) -> None:
        """Ask customers from many connections."""

        def share(of_them: Sequence[int]) -> None:
            with contextlib.closing(self._server.connect()) as connection:
                for number in of_them:
                    self._ask(connection, number)

        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            try:
                list(pool.map(share, [numbers[i::_CONNECTIONS] for i in range(_CONNECTIONS)]))
            except (ServerFailure, OSError) as error:
                self.failure = self.failure or f"asked at once: {error}"

    def _ask(self, connection: object, number: int) -> None:
        answer = ask(
            connection,  # type: ignore[arg-type]
            "POST",
            f"/models/c{number}/invoke",
            self._expectation.request,
        )
        if self._expectation.is_own(number, answer):
            self.own.add(number)
        else:
            self.wrong.add(number)
            self.failure = self.failure or f"customer {number} answered {answer!r}"


def _wait_until_parked(server: Server, folders: Sequence[Path]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while crowd.awake(server, folders):
        if time.monotonic() > deadline:
            awake = crowd.awake(server, folders)
            raise ServerFailure(f"{awake} customers on {TITLES[server.kind]} did not park")
        time.sleep(_POLL_S)
