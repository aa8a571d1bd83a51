"""What is done for the requests of a process that died, and when a model is given up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from _socket import MSG_DONTWAIT
from collections import deque

from mmekit_runtime.slots.ledger import BEGUN, TAKEN
from mmekit_runtime.wire import Answer, encode_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmekit_runtime.slots.slot import Slot

MAX_DEATHS = 3
DEATH_WINDOW_S = 60.0


class Deaths:
    """The last deaths of a model's processes."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=MAX_DEATHS)

    def one_too_many(self) -> str | None:
        """Count a death; when it is one too many, say when the others were."""
        now = time.monotonic()
        if len(self._last) == MAX_DEATHS and now - self._last[0] < DEATH_WINDOW_S:
            return ", ".join(f"{now - one:.1f}" for one in self._last)
        self._last.append(now)
        return None


def answer_for_the_dead(slot: Slot, state: int, reason: str) -> None:
    """Answer the request that a process had taken when it died, if there is one."""
    if state not in (TAKEN, BEGUN) or slot.connection is None or slot.has_bytes():
        # Bytes that are still there are the request itself: the successor takes it.
        return
    refuse(slot, reason)


def refuse(slot: Slot, reason: str, status: int = 503) -> None:
    """Answer a slot's request with an error."""
    if slot.connection is None:
        return
    content = {"code": status, "message": reason, "error": reason}
    answer = Answer(
        status,
        reason,
        (("Content-Type", "application/json"),),
        ((None, json.dumps(content).encode()),),
    )
    # All earlier answers have been read: there is room for these few bytes.
    with contextlib.suppress(OSError):
        slot.connection.send(encode_answer(answer), MSG_DONTWAIT)


def describe(status: int) -> str:
    """Say how a process ended, by the status that waitpid(2) gave."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"exit code {os.WEXITSTATUS(status)}"
