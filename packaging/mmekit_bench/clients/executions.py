"""N clients, behind a barrier until all are there, and what each of them got."""

from __future__ import annotations

import csv
import queue
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NoReturn

from mmekit.errors import EndpointError, MmekitError
from mmekit_runtime.slots.descriptors import raise_descriptor_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from mmekit_bench.clients.calls import Call, CallResult

__all__ = [
    "PERCENTILES",
    "Execution",
    "ExecutionSummary",
    "ExecutionTable",
    "call_together",
    "summary_of",
]

PERCENTILES = (50, 90, 95, 99, 100)

_COLUMNS = (
    "execution_number",
    "client_id",
    "status_response",
    "body_response",
    "elapsed_time",
    "current_date",
)
_START_S = 60.0
_STACK_BYTES = 1 << 20  # hundreds of threads that wait need little


@dataclass(frozen=True)
class Execution:
    """One client's call.

    Attributes
    ----------
    number
        From 1, in the order in which the clients were made.
    client
        A name that no other client has.
    elapsed
        Seconds until the answer was read, retries included.
    ended
        When that was.
    """

    number: int
    client: str
    result: CallResult
    elapsed: float
    ended: datetime


@dataclass(frozen=True)
class ExecutionSummary:
    """What became of so many clients, in figures.

    Attributes
    ----------
    clients
        How many there were; fewer executions than that were interrupted.
    answered, throttled, failed
        How many got an answer, ThrottlingException or TooManyRequestsException, another error.
    seconds
        The elapsed times of those that were answered, at `PERCENTILES`; empty without any.
    retries
        Of those of whom it is known, all together; None when it is known of none.
    most_retries
        The most of one of them.
    first_failure
        What one of the failed got.
    """

    clients: int
    answered: int
    throttled: int
    failed: int
    seconds: tuple[float, ...]
    retries: int | None
    most_retries: int | None
    first_failure: str | None

    @property
    def executions(self) -> int:
        """How many came back."""
        return self.answered + self.throttled + self.failed


def call_together(call: Call, clients: int) -> Iterator[Execution]:
    """Let clients call at the same moment; yield what each got, as it comes.

    Who stops asking for more leaves the rest of the clients to themselves; they end with the
    program.

    Parameters
    ----------
    clients
        How many.

    Raises
    ------
    EndpointError
        This machine cannot have so many threads.
    """
    raise_descriptor_limit()
    make = call.client_maker()
    # Before the threads: clients are made one at a time, which would use up the time that threads
    # have to come to the barrier.
    made = [make() for _ in range(clients)]
    barrier = threading.Barrier(clients)
    done: queue.SimpleQueue[Execution | None] = queue.SimpleQueue()

    def live(number: int) -> None:
        client = made[number]
        try:
            barrier.wait(_START_S)
        except threading.BrokenBarrierError:
            done.put(None)
            return
        began = time.perf_counter()
        result = call.ask(client)
        elapsed = time.perf_counter() - began
        done.put(
            Execution(number + 1, str(uuid.uuid4()), result, elapsed, datetime.now(timezone.utc))
        )
        client.close()

    before = threading.stack_size(_STACK_BYTES)
    try:
        for number in range(clients):
            threading.Thread(target=live, args=(number,), daemon=True).start()
    except RuntimeError as error:
        # Else those that have begun would wait for the missing ones until their time is over.
        barrier.abort()
        what, remedy = f"{clients} clients are too many here: {error}.", "Take fewer --clients."
        raise EndpointError(what, where=f"{clients} clients", remedy=remedy) from error
    finally:
        # It holds for every thread that the process starts from now on.
        threading.stack_size(before)
    for _ in range(clients):
        execution = done.get()
        if execution is None:
            what = f"{clients} clients are too many here: not all had begun after {_START_S:.0f} s."
            raise EndpointError(what, where=f"{clients} clients", remedy="Take fewer --clients.")
        yield execution


def summary_of(clients: int, executions: Iterable[Execution]) -> ExecutionSummary:
    """Count what became of so many clients.

    Examples
    --------
    >>> summary_of(2, []).executions
    0
    """
    import numpy as np

    executions = list(executions)
    outcomes = Counter(one.result.outcome for one in executions)
    times = [one.elapsed for one in executions if one.result.outcome == "answered"]
    retries = [one.result.retries for one in executions if one.result.retries is not None]
    failures = [one.result.body for one in executions if one.result.outcome == "failed"]
    return ExecutionSummary(
        clients=clients,
        answered=outcomes["answered"],
        throttled=outcomes["throttled"],
        failed=outcomes["failed"],
        seconds=tuple(map(float, np.percentile(times, PERCENTILES))) if times else (),
        retries=sum(retries) if retries else None,
        most_retries=max(retries) if retries else None,
        first_failure=failures[0] if failures else None,
    )


class ExecutionTable:
    """A CSV file, a row an execution; every row is in the file as soon as it is added.

    Parameters
    ----------
    path
        Is made, with the folders above it, and must not be there yet.

    Raises
    ------
    MmekitError
        It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("x", encoding="utf-8", newline="")
            self._writer = csv.writer(self._file)
            self._writer.writerow(_COLUMNS)
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def add(self, execution: Execution) -> None:
        """Write a row.

        Raises
        ------
        MmekitError
            It cannot be written; the rows before it are there.
        """
        result = execution.result
        try:
            self._writer.writerow(
                [
                    execution.number,
                    execution.client,
                    "" if result.status is None else result.status,
                    result.body,
                    f"{execution.elapsed:.6f}",
                    execution.ended.isoformat(timespec="milliseconds"),
                ]
            )
            self._file.flush()
        except OSError as error:
            self._fail(error)
        self.rows += 1

    def close(self) -> None:
        """Let go of the file; one without rows goes."""
        self._file.close()
        if not self.rows:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _fail(self, error: OSError) -> NoReturn:
        what = f"The results cannot be written: {error.strerror or error}."
        remedy = "Make room there, or name a folder that can be written with --output."
        raise MmekitError(what, where=str(self.path), remedy=remedy) from error
