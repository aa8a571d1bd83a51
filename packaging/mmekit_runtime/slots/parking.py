"""A model without a process: its slots stay, and the first byte of a request brings it back."""

from __future__ import annotations

import time
from _socket import MSG_DONTWAIT, MSG_PEEK

from mmekit_runtime.slots.manifest import read_park_after

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmekit_runtime.slots.slot import Slot

MIB = 1 << 20


class Parking:
    """When a model parks, since when it is parked, and what that has cost so far.

    Attributes
    ----------
    after_s
        Seconds without a request after which it parks; 0 for never.
    since
        When it was parked, in seconds of the epoch; 0 while it is awake.
    parks, wakes, wake_s
        How often it was parked and woken, and the seconds that the wakes took.
    given_back
        Bytes that were its process's own when it last parked.
    """

    def __init__(self, model_dir: str, environ: dict[str, str]) -> None:
        self.after_s = read_park_after(model_dir, environ)
        self.since = 0.0
        self.parks = 0
        self.wakes = 0
        self.wake_s = 0.0
        self.given_back = 0
        self._wanted_at = 0.0

    def park(self, private_bytes: int) -> None:
        """Note that the last process has ended, and what was its own."""
        self.since = time.time()
        self.parks += 1
        self.given_back = private_bytes

    def stay(self) -> None:
        """Note that there will be no process for the request that has come."""
        self._wanted_at = 0.0

    def wake(self) -> None:
        """Note that a request has come."""
        self._wanted_at = self._wanted_at or time.monotonic()

    def woken(self) -> float | None:
        """Note that a process has loaded the model; return how long that took, if it was a wake."""
        if not self._wanted_at:
            return None
        took = time.monotonic() - self._wanted_at
        self._wanted_at = self.since = 0.0
        self.wakes += 1
        self.wake_s += took
        return took

    def figures(self) -> dict[str, float]:
        """Return what a server is told."""
        return {
            "since": self.since,
            "parks": self.parks,
            "wakes": self.wakes,
            "wake_s": self.wake_s,
        }


def first_byte(slot: Slot) -> bytes | None:
    """Return the first byte that waits on a connection; nothing at its end, None without one."""
    assert slot.connection is not None  # noqa: S101
    try:
        return slot.connection.recv(1, MSG_PEEK | MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""
