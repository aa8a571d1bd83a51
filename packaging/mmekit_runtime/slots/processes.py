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


class Process:
    """One process of a model, from the wish for it to its end.

    Attributes
    ----------
    channel
        To the process; None until it is forked.
    ready
        Whether it has imported model.py, and has loaded the model if it replaces another process.
    initialised
        Whether it has loaded the model.
    killed
        Whether it is to end, or has been made to.
    """

    def __init__(self, attempt: int = 1) -> None:
        self.attempt = attempt
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
        self.killed = False

    @property
    def is_wanted(self) -> bool:
        """Whether there is something for it to do, once it is there."""
        return bool(self.slots) and not self.killed

    def started(self, pid: int, channel: Channel, ledger: LedgerFile) -> None:
        """Note that it has been forked."""
        self.pid, self.channel, self.ledger = pid, channel, ledger

    def seat(self, slot: Slot) -> None:
        """Give a slot to it, with the smallest number that no other has."""
        used = {one.number for one in self.slots}
        slot.number = next(number for number in range(MAX_SLOTS) if number not in used)
        slot.process = self
        self.slots.append(slot)
        if self.ledger is not None:
            self.ledger.clear(slot.number)

    def state(self, slot: Slot) -> int:
        """Return a slot's state in the ledger."""
        return 0 if self.ledger is None else self.ledger.settled(slot.number)

    def tell(self, message: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        """Send it a message; where it is gone, that shows on its channel."""
        if self.channel is not None:
            with contextlib.suppress(OSError):
                self.channel.send(message, fds)

    def kill(self) -> None:
        """End it now."""
        self.killed = True
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of what belongs to it."""
        self.dead = True
        if self.channel is not None:
            self.channel.close()
        if self.ledger is not None:
            self.ledger.close()
