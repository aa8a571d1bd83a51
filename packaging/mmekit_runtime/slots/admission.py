"""Admission: who gets the memory that is left, and who parks for it.

A model that is asked gets a process when there is memory for one; the least recently used park for
it. A model that is parked has no process: its slots stay, and the first byte of a request brings it
back.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from typing import Protocol

from mmekit_runtime.slots.memory import AvailableMemory, private_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from mmekit_runtime.slots.channel import Channel
    from mmekit_runtime.slots.lifecycle import ModelProcesses
    from mmekit_runtime.slots.loop import Loop
    from mmekit_runtime.slots.slot import ProcessHandle

WAIT_VARIABLE = "MMEKIT_WAKE_TIMEOUT_S"
WAIT_S = 30.0
"""How long requests of a parked model wait for memory, by default."""

IDLE_S = 0.2
"""Nobody's process ends for another's that has been asked within so many seconds."""

PERIOD_S = 1.0
_SHORT_PERIOD_S = 0.1
"""Between looks while somebody waits."""
_LONGEST_PERIOD_S = 5.0
_MOST_TAKEN_A_SECOND = 1 << 30
"""Bytes by which the memory that is left may shrink before one looks again."""


class ParkingState:
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

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
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

    def report(self) -> dict[str, float]:
        """Return what a server is told."""
        return {
            "since": self.since,
            "parks": self.parks,
            "wakes": self.wakes,
            "wake_s": self.wake_s,
        }


class ParkableModel(Protocol):
    """A model, as far as its memory is concerned."""

    processes: ModelProcesses
    parking: ParkingState

    @property
    def needed(self) -> int:
        """The bytes that one process takes."""

    @property
    def may_park(self) -> bool:
        """Whether all its processes could be asked to end."""

    def dispensable(self) -> list[ProcessHandle]:
        """Return the processes that it could do without, were it not for its speed."""

    def admit(self) -> None:
        """Get a process: there is memory for one."""

    def reject(self, reason: str) -> None:
        """Answer the requests that wait with the reason, and stay without a process."""


class Admission:
    """The memory of one fork server's models.

    Attributes
    ----------
    is_short
        Whether there was too little when one last looked.
    tell_wants
        Called with what a model that waits lacks, when nobody here can park for it.
    """

    def __init__(self) -> None:
        self.memory = AvailableMemory()
        self.is_short = False
        self._spare = 0
        self._reserved: dict[object, int] = {}
        self._waiting: dict[ParkableModel, float] = {}
        self._parking: dict[ParkableModel, int] = {}
        self._ending: dict[ProcessHandle, int] = {}
        self._reclaims: list[_Reclaim] = []
        self.tell_wants: Callable[[int], None] | None = None
        self._wait_s = _seconds(os.environ.get(WAIT_VARIABLE, ""), WAIT_S)

    @property
    def period_s(self) -> float:
        """The seconds after which to look again."""
        if self._waiting or self._reclaims:
            return _SHORT_PERIOD_S
        # With so much left that idle models need not park for a while, one need not look either.
        return max(PERIOD_S, min(_LONGEST_PERIOD_S, self._spare / _MOST_TAKEN_A_SECOND))

    def fits(self, needed: int) -> bool:
        """Whether a process can take so many bytes."""
        return self._left() - needed >= self.memory.floor

    def reserve(self, who: object, needed: int) -> None:
        """Count bytes as taken until `release`: a process is about to take them."""
        self._reserved[who] = needed

    def commit(self, who: object) -> None:
        """Count them as memory that is in use: the process has taken them."""
        self.memory.server_limit.count(self._reserved.pop(who, 0))

    def release(self, who: object) -> None:
        """Count them no more: the process has ended."""
        self._reserved.pop(who, None)

    def given_back(self, size: int) -> None:
        """Note what a process that has parked took."""
        self.memory.server_limit.count(-size)

    def reclaim(self, wanted: int, done: Callable[[bool], None]) -> None:
        """Have models park until so many bytes more are free.

        Parameters
        ----------
        done
            Called when those that can park for it have; with whether others may later.
        """
        self._reclaims.append(_Reclaim(wanted, done))

    def wait(self, model: ParkableModel) -> None:
        """Tell a model, by `admit`, that it fits, or by `reject` that it does not in time."""
        self._waiting.setdefault(model, time.monotonic() + self._wait_s)

    def forget(self, model: ParkableModel) -> None:
        """Wait no more."""
        self._waiting.pop(model, None)
        self._parking.pop(model, None)

    def look(self, models: Collection[ParkableModel]) -> None:
        """Park what has to, and let in whom there is room for, first come, first served."""
        now = time.monotonic()
        for model, deadline in list(self._waiting.items()):
            if self.fits(model.needed):
                model.admit()
            elif now >= deadline:
                del self._waiting[model]
                left = self.memory.available() >> 20
                model.reject(
                    f"no memory for this model: it needs {model.needed >> 20} MiB, {left} MiB are "
                    f"left, of which {self.memory.floor >> 20} MiB stay free, and no other model "
                    f"was idle within {self._wait_s:g} s"
                )
        # Looked at anew: those that were let in have reserved theirs.
        left = self._left()
        missing, wanted = self.memory.low - left, 0
        self._spare = -missing
        if self._waiting:
            first = next(iter(self._waiting))
            wanted = self.memory.floor + first.needed - left
        self.is_short = max(missing, wanted) > 0
        # Other fork servers see that less than the reserve is left, too: each makes up its share,
        # or all of them together would park several times as much as is missing.
        missing = -(-missing // self.memory.server_limit.sharers)
        reclaimed = sum(reclaim.wanted for reclaim in self._reclaims if reclaim.parking is None)
        lacking = self._park(models, max(missing, wanted, reclaimed), now)
        # Not for the reserve, of which each fork server makes up a share of its own.
        if min(wanted, lacking) > 0 and self.tell_wants is not None:
            self.tell_wants(min(wanted, lacking))
        self._answer_reclaims(models)

    def _left(self) -> int:
        return self.memory.available() - sum(self._reserved.values())

    def _answer_reclaims(self, models: Collection[ParkableModel]) -> None:
        """Answer those for which all have parked that could."""
        for reclaim in list(self._reclaims):
            if reclaim.parking is None:
                reclaim.parking = set(self._parking)
            if not reclaim.parking & self._parking.keys():
                self._reclaims.remove(reclaim)
                reclaim.done(any(model.processes and model.parking.after_s for model in models))

    def _park(self, models: Collection[ParkableModel], missing: int, now: float) -> int:
        """Have idle models park; return the bytes that are missing all the same.

        What a model has for speed alone comes first: its processes but one.
        """
        # One that was asked to has parked by now, or stays, as a request had come.
        for model in list(self._parking):
            if not model.processes.are_parking:
                del self._parking[model]
        for process in list(self._ending):
            if process.dead or not process.parking:
                del self._ending[process]
        # What those that were asked before give back is on its way: nobody else need park for it.
        missing -= sum(self._parking.values()) + sum(self._ending.values())
        if missing <= 0:
            return 0
        dispensable = [process for model in models for process in model.dispensable()]
        for process in sorted(dispensable, key=lambda one: one.used_at()):
            if missing <= 0:
                break
            self._ending[process] = private_bytes(process.pid)
            missing -= self._ending[process]
            process.ask_to_park()
        idle = [
            model
            for model in models
            if model.may_park and now - model.processes.used_at() >= IDLE_S
        ]
        for model in sorted(idle, key=lambda one: one.processes.used_at()):
            if missing <= 0:
                break
            self._parking[model] = sum(private_bytes(one.pid) for one in model.processes)
            missing -= self._parking[model]
            model.processes.park()
        return max(0, missing)


class _Reclaim:
    """What the server wants to be free, and who has been asked to park for it, once that is so."""

    def __init__(self, wanted: int, done: Callable[[bool], None]) -> None:
        self.wanted = wanted
        self.done = done
        self.parking: set[ParkableModel] | None = None


class MemoryChannel:
    """The connection to the server that has started this fork server, if it has a memory limit.

    The server tells what is left of a limit of its own (``left``), and how much it wants to be free
    (``wanted``), which is answered when the models that have to park for it have parked. It is told
    what models want that wait for memory, when none of this fork server's can park for them.

    Parameters
    ----------
    look
        To be called when something has changed.
    """

    def __init__(
        self, channel: Channel, loop: Loop, admission: Admission, look: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._loop = loop
        self._admission = admission
        self._look = look
        admission.tell_wants = self._want
        loop.watch(channel.fileno(), self._is_readable, lambda _: self._close())
        self._send({"memory": True})

    def _is_readable(self) -> None:
        messages = self._channel.receive_all()
        if messages is None:
            self._close()
            return
        for message, _ in messages:
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if "left" in message:
            self._admission.memory.server_limit.update(
                message["limit"], message["left"], message["at"], message["sharers"]
            )
        elif "wanted" in message:
            self._admission.reclaim(
                message["wanted"], functools.partial(self._made, message["number"])
            )
        self._look()

    def _made(self, number: int, more: bool) -> None:  # noqa: FBT001
        self._send({"made": number, "more": more})

    def _want(self, size: int) -> None:
        self._send({"wants": size})

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has ended, and so will this process
            self._channel.send(message)

    def _close(self) -> None:
        self._loop.unwatch(self._channel.fileno())
        self._channel.close()
        self._admission.tell_wants = None


def _seconds(text: str, default: float) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return default
