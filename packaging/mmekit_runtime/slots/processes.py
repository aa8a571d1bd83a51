"""One process of a model, as the fork server keeps it."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from mmekit_runtime.slots.ledger import MAX_SLOTS, LedgerFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmekit_runtime.slots.channel import Channel
    from mmekit_runtime.slots.slot import Slot
    from mmekit_runtime.slots.tree import Parent

STUCK_S = 1.0
"""That a piece of a stream may still take when nobody wants it any more."""


class Process:
    """One process of a model, from the wish for it to its end.

    Attributes
    ----------
    may_be_spare, was_spare
        Whether it may be one that was forked ahead; whether it was.
    is_further
        Whether it gets slots of other processes, once it is ready, and has none before.
    channel
        To the process; None until it is forked.
    ready
        Whether it has imported model.py, and has loaded the model if it replaces another process.
    initialised
        Whether it has loaded the model.
    is_known
        Whether its parent has learned from it.
    killed
        Whether it is to end, or has been made to.
    parking
        Whether it has been asked to end when it has nothing to do.
    parked, private_bytes
        Whether it has said that it does, and what it shared with no other then.
    suspect
        The number of a slot that has ended while the model was asked for the next piece of its
        stream; None when there is none.
    """

    def __init__(self, *, is_further: bool = False, may_be_spare: bool = True) -> None:
        self.attempt = 1
        self.is_further = is_further
        self.may_be_spare = may_be_spare
        self.was_spare = False
        self.slots: list[Slot] = []
        self.channel: Channel | None = None
        self.ledger: LedgerFile | None = None
        self.parent: Parent | None = None
        self.pid = 0
        self.asked_at = time.monotonic()
        self.fork_ms = 0.0
        self.ready = False
        self.initialised = False
        self.dead = False
        self.is_known = False
        self.killed = False
        self.parking = False
        self.parked = False
        self.private_bytes = 0
        self.suspect: int | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is something for it to do, once it is there."""
        return (bool(self.slots) or self.is_further) and not self.killed

    @property
    def is_there(self) -> bool:
        """Whether it can be given slots."""
        return not (self.dead or self.killed or self.parking)

    def started(self, pid: int, channel: Channel, ledger: LedgerFile) -> None:
        """Note that it has been forked."""
        self.pid, self.channel, self.ledger = pid, channel, ledger

    def seat(self, slot: Slot) -> None:
        """Give a slot to it, with the smallest number that no other has."""
        used = {self.suspect, *(one.number for one in self.slots)}
        slot.number = next(number for number in range(MAX_SLOTS) if number not in used)
        slot.process = self
        slot.move = None
        self.slots.append(slot)
        if self.ledger is not None:
            self.ledger.clear(slot.number)

    def state(self, slot: Slot) -> int:
        """Return a slot's state in the ledger."""
        return 0 if self.ledger is None else self.ledger.settled(slot.number)

    def look_at_suspect(self) -> None:
        """End the process if it is stuck in a piece of a stream that nobody wants any more."""
        if self.suspect is None or self.ledger is None or self.dead:
            return
        worked_s = self.ledger.worked_s(self.suspect)
        if worked_s is None:
            self.suspect = None
        elif worked_s >= STUCK_S:
            self.kill()

    def used_at(self) -> float:
        """Return when it last answered, or was asked for, by the monotonic clock."""
        if self.ledger is None or self.dead:
            return self.asked_at
        return max(self.asked_at, self.ledger.counters()["answered_ns"] / 1e9)

    def ask_to_park(self) -> None:
        """Ask it to end, unless something has come in the meantime."""
        if self.ledger is not None and not self.parking:
            self.parking = True
            self.tell({"park": self.ledger.counters()["answered_ns"]})

    def tell(self, message: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        """Send it a message; where it is gone, that shows on its channel."""
        if self.channel is not None:
            with contextlib.suppress(OSError):
                self.channel.send(message, fds)

    def kill(self) -> None:
        """End it now, and what it has started: no parent may be left to do so."""
        self.killed = True
        if self.pid:
            # It leads no group yet when it has just been forked.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of what belongs to it."""
        self.dead = True
        if self.channel is not None:
            self.channel.close()
        if self.ledger is not None:
            self.ledger.close()
