"""N clients, behind a barrier until all are there."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from mmekit.errors import EndpointError
from mmekit_runtime.slots.descriptors import raise_descriptor_limit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit_bench.clients.calls import Call, Reply

__all__ = ["Execution", "crowd"]

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
    reply: Reply
    elapsed: float
    ended: datetime


def crowd(call: Call, clients: int) -> Iterator[Execution]:
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
        reply = call.ask(client)
        elapsed = time.perf_counter() - began
        done.put(
            Execution(number + 1, str(uuid.uuid4()), reply, elapsed, datetime.now(timezone.utc))
        )
        client.close()

    before = threading.stack_size(_STACK_BYTES)
    try:
        for number in range(clients):
            threading.Thread(target=live, args=(number,), daemon=True).start()
    except RuntimeError as error:
        barrier.abort()
        what, remedy = f"{clients} clients are too many here: {error}.", "Take fewer --clients."
        raise EndpointError(what, where=f"{clients} clients", remedy=remedy) from error
    finally:
        threading.stack_size(before)
    for _ in range(clients):
        execution = done.get()
        if execution is None:
            what = f"{clients} clients are too many here: not all had begun after {_START_S:.0f} s."
            raise EndpointError(what, where=f"{clients} clients", remedy="Take fewer --clients.")
        yield execution
