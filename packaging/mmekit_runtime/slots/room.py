"""Who gets the memory that is left: the least recently used park for those that are asked."""

from __future__ import annotations

import os
import time

from mmekit_runtime.slots.memory import Memory, private_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mmekit_runtime.slots.hosts import Host
    from mmekit_runtime.slots.processes import Process

WAIT_VARIABLE = "MMEKIT_WAKE_TIMEOUT_S"
WAIT_S = 30.0
"""How long requests of a parked model wait for memory, by default."""

IDLE_S = 0.2
"""Nobody's process ends for another's that has been asked within so many seconds."""

PERIOD_S = 1.0
_SHORT_PERIOD_S = 0.1


class Room:
    """The memory of one fork server's models.

    Attributes
    ----------
    is_short
        Whether there was too little when one last looked.
    tell_wants
        Called with what a model that waits lacks, when nobody here can park for it.
    """

    def __init__(self) -> None:
        self.memory = Memory()
        self.is_short = False
        self._claims: dict[object, int] = {}
        self._waiting: dict[Host, float] = {}
        self._parking: dict[Host, int] = {}
        self._ending: dict[Process, int] = {}
        self._orders: list[_Order] = []
        self.tell_wants: Callable[[int], None] | None = None
        self._wait_s = _seconds(os.environ.get(WAIT_VARIABLE, ""), WAIT_S)

    @property
    def period_s(self) -> float:
        """The seconds after which to look again."""
        return _SHORT_PERIOD_S if self._waiting or self._orders else PERIOD_S

    def fits(self, needed: int) -> bool:
        """Whether a process can take so many bytes."""
        return self._left() - needed >= self.memory.floor

    def claim(self, who: object, needed: int) -> None:
        """Count bytes as taken until `free`: a process is about to take them."""
        self._claims[who] = needed

    def take(self, who: object) -> None:
        """Count them as memory that is in use: the process has taken them."""
        self.memory.allowance.taken(self._claims.pop(who, 0))

    def free(self, who: object) -> None:
        """Count them no more: the process has ended."""
        self._claims.pop(who, None)

    def give_back(self, size: int) -> None:
        """Note what a process that has parked took."""
        self.memory.allowance.taken(-size)

    def order(self, wanted: int, made: Callable[[bool], None]) -> None:
        """Have models park until so many bytes more are free.

        Parameters
        ----------
        made
            Called when those that can park for it have; with whether others may later.
        """
        self._orders.append(_Order(wanted, made))

    def wait(self, host: Host) -> None:
        """Tell a model, by `enter`, that it fits, or by `stay_out` that it does not in time."""
        self._waiting.setdefault(host, time.monotonic() + self._wait_s)

    def forget(self, host: Host) -> None:
        """Wait no more."""
        self._waiting.pop(host, None)
        self._parking.pop(host, None)

    def look(self, hosts: Collection[Host]) -> None:
        """Park what has to, and let in whom there is room for, first come, first served."""
        now = time.monotonic()
        for host, deadline in list(self._waiting.items()):
            if self.fits(host.needed):
                host.enter()
            elif now >= deadline:
                del self._waiting[host]
                left = self.memory.available() >> 20
                host.stay_out(
                    f"no memory for this model: it needs {host.needed >> 20} MiB, {left} MiB are "
                    f"left, of which {self.memory.floor >> 20} MiB stay free, and no other model "
                    f"was idle within {self._wait_s:g} s"
                )
        left = self._left()
        missing, wanted = self.memory.low - left, 0
        if self._waiting:
            first = next(iter(self._waiting))
            wanted = self.memory.floor + first.needed - left
        self.is_short = max(missing, wanted) > 0
        # Other fork servers see that less than the reserve is left, too.
        missing = -(-missing // self.memory.allowance.sharers)
        ordered = sum(order.wanted for order in self._orders if order.parking is None)
        lacking = self._park(hosts, max(missing, wanted, ordered), now)
        if min(wanted, lacking) > 0 and self.tell_wants is not None:
            self.tell_wants(min(wanted, lacking))
        self._tell_orders(hosts)

    def _left(self) -> int:
        return self.memory.available() - sum(self._claims.values())

    def _tell_orders(self, hosts: Collection[Host]) -> None:
        """Answer the orders for which all have parked that could."""
        for order in list(self._orders):
            if order.parking is None:
                order.parking = set(self._parking)
            if not order.parking & self._parking.keys():
                self._orders.remove(order)
                order.made(any(host.processes and host.parking.after_s for host in hosts))

    def _park(self, hosts: Collection[Host], missing: int, now: float) -> int:
        """Have idle models park; return the bytes that are missing all the same.

        What a model has for speed alone comes first: its processes but one.
        """
        for host in list(self._parking):
            if not host.is_parking:
                del self._parking[host]
        for process in list(self._ending):
            if process.dead or not process.parking:
                del self._ending[process]
        missing -= sum(self._parking.values()) + sum(self._ending.values())
        if missing <= 0:
            return 0
        further = [process for host in hosts for process in host.further()]
        for process in sorted(further, key=lambda one: one.used_at()):
            if missing <= 0:
                break
            self._ending[process] = private_bytes(process.pid)
            missing -= self._ending[process]
            process.ask_to_park()
        idle = [host for host in hosts if host.may_park and now - host.used_at() >= IDLE_S]
        for host in sorted(idle, key=lambda one: one.used_at()):
            if missing <= 0:
                break
            self._parking[host] = sum(private_bytes(one.pid) for one in host.processes)
            missing -= self._parking[host]
            host.park()
        return max(0, missing)


class _Order:
    """What the server wants to be free, and who has been asked to park for it, once that is so."""

    def __init__(self, wanted: int, made: Callable[[bool], None]) -> None:
        self.wanted = wanted
        self.made = made
        self.parking: set[Host] | None = None


def _seconds(text: str, default: float) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return default
