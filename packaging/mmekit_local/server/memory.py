"""Whether there is memory for one more model.

DJL Serving answers 507 when what is available, less what the model requires, is less than what
shall stay free (ModelInfo.checkAvailableMemory). Here loads under way count as well, and a limit
can be set below the machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mmekit_runtime.slots.memory import taken_back

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator

    from mmekit_local.server.fork_servers import ForkServers, ServerMemoryChannel

MIB = 1 << 20
DEFAULT_RESERVED_MB = 500
_MEASURED_AGAIN = 8
"""Processes beyond the new ones that a look measures, at a millisecond each."""
_YOUNG_S = 3.0
"""A process may still be loading its model when it is measured for the first time."""
_WAIT_S = 2.0
"""How long a load waits for models that are busy."""
_PARKING_S = 10.0
"""How much longer it waits for models that were asked to park and are about to, in all."""
_AGAIN_S = 0.1
_PERIOD_S = 1.0
"""After which fork servers are told what is left of the limit."""
_AWAKE_S, _REST_PERIOD_S = 10.0, 30.0
"""So long after the latest request they are, and from then on after so many seconds alone: to look
at models that nobody asks would cost a hundredth of a core for each server."""
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Cgroup:
    """What the kernel allows the processes of one control group together.

    Attributes
    ----------
    limit
        Bytes after which it kills one of them.
    used
        Bytes that they have now, without file pages that it can take back at any time.
    """

    limit: int
    used: int


def own_cgroup(root: Path = _CGROUP_ROOT, own: Path = _OWN_CGROUP) -> Cgroup | None:
    """Return the narrowest control group with a memory limit around this process, if any.

    Both versions of the interface are read (cgroup-v1/memory.txt and cgroup-v2.rst of the Linux
    documentation), from this process's own group up to the topmost that can be seen.
    """
    return _narrowest(_limited_cgroups(root, own))


@dataclass(frozen=True)
class _Limited:
    limit: int
    folder: Path
    use: str


def _narrowest(groups: Iterable[_Limited]) -> Cgroup | None:
    found = []
    for one in groups:
        with contextlib.suppress(OSError, ValueError):
            total = int((one.folder / one.use).read_text())
            found.append(Cgroup(one.limit, max(0, total - taken_back(str(one.folder)))))
    return min(found, key=lambda one: one.limit - one.used, default=None)


def _limited_cgroups(root: Path, own: Path) -> list[_Limited]:
    found = [_limited(folder) for folder in _cgroup_folders(root, own)]
    return [one for one in found if one is not None]


def _cgroup_folders(root: Path, own: Path) -> Iterator[Path]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # Version 2 names no controllers: it has one group for all of them.
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        # A container sees its own group at the top, and may be told the path that the host knows.
        folder = top / path.strip("/")
        while folder != top:
            yield folder
            folder = folder.parent
        yield top


def _limited(folder: Path) -> _Limited | None:
    for limit, use in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError):
            text = (folder / limit).read_text().strip()
            # "max", or in version 1 a number beyond any memory.
            if not text.isdigit() or int(text) >= psutil.virtual_memory().total:
                return None
            return _Limited(int(text), folder, use)
    return None


@dataclass(frozen=True)
class ProcessMemory:
    """Bytes that a process shares with no other, and those with its share of what it shares."""

    private_bytes: int
    proportional_bytes: int


def process_memory(pid: int) -> ProcessMemory:
    """Return the memory of a process, nothing when it has ended.

    Where the kernel does not tell (macOS), the resident size is the nearest there is.
    """
    try:
        # The kernel adds up; smaps would have some twenty lines for each mapping.
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        try:
            resident = int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            resident = 0
        return ProcessMemory(resident, resident)

    def total(*names: str) -> int:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))

    return ProcessMemory(total("Private_Clean:", "Private_Dirty:"), total("Pss:"))


def proportional_bytes(pid: int) -> int:
    """Return a process's proportional set size in bytes; 0 when it has ended."""
    return process_memory(pid).proportional_bytes


class ServerMemory:
    """The memory of one server.

    Parameters
    ----------
    limit
        Bytes that the server and its workers may use; None for no limit of our own.
    cgroup
        Tells the control group's limit and use now; None where there is none. By default, of the
        groups that have a limit when this is made.

    Attributes
    ----------
    own_limit : int or None
        What was given.
    limit : int
        The least of that, the control group's and the machine's.
    loading : int
        Bytes that loads under way have been admitted for.
    """

    def __init__(
        self, limit: int | None = None, cgroup: Callable[[], Cgroup | None] | None = None
    ) -> None:
        self.own_limit = limit
        if cgroup is None:
            # Every load asks: there is little to read where no group has a limit.
            groups = _limited_cgroups(_CGROUP_ROOT, _OWN_CGROUP)
            cgroup = partial(_narrowest, groups)
        self._cgroup = cgroup
        around = cgroup()
        limits = [int(psutil.virtual_memory().total)]
        limits += [limit] if limit is not None else []
        limits += [around.limit] if around is not None else []
        self.limit = min(limits)
        self.loading = 0
        self._measured: dict[int, int] = {}
        self._first: dict[int, float] = {}
        self._merging = threading.Lock()

    def available(self, pids: Collection[int], shared: Collection[int] = ()) -> int:
        """Return the bytes that are left, loads under way not counted.

        Parameters
        ----------
        pids
            The processes of the server's models.
        shared
            All others but this one: what counts of them changes with each that is forked from them.
        """
        free = [int(psutil.virtual_memory().available)]
        around = self._cgroup()
        if around is not None:
            free.append(around.limit - around.used)
        if self.own_limit is not None:
            free.append(self.left_of_limit(pids, shared))
        return min(free)

    def left_of_limit(self, pids: Collection[int], shared: Collection[int] = ()) -> int:
        """Return what the processes leave of the limit that was given."""
        assert self.own_limit is not None  # noqa: S101
        return self.own_limit - self._used(pids, shared)

    def measure(self, pids: Collection[int], shared: Collection[int]) -> int:
        """Measure the young ones among them again as well; for another thread, as it takes long."""
        with self._merging:
            now = time.monotonic()
            young = {pid for pid, first in self._first.items() if now - first < _YOUNG_S}
        return self.left_of_limit(pids, {*shared, *(pid for pid in pids if pid in young)})

    def _used(self, pids: Iterable[int], shared: Collection[int]) -> int:
        """Return the memory of all processes, each measured now or lately.

        Measuring one takes the kernel a millisecond: each is measured when it is new, and a few of
        the others again at each call, what is shared first, then the longest ago.
        """
        own = {os.getpid(), *pids, *shared}
        with self._merging:
            known = [pid for pid in self._measured if pid in own]
            first = [pid for pid in known if pid in shared]
            others = [pid for pid in known if pid not in shared]
            again = [*first, *others[: max(0, _MEASURED_AGAIN - len(first))]]
            new = own - self._measured.keys()
        # Of forked processes, only these sizes can be added: each shared page counts once in all.
        measured = {pid: proportional_bytes(pid) for pid in (*again, *new)}
        with self._merging:
            now = time.monotonic()
            self._first = {pid: self._first.get(pid, now) for pid in own}
            kept = {pid: size for pid, size in self._measured.items() if pid in own}
            for pid in measured:
                kept.pop(pid, None)
            # What was measured now goes to the end.
            self._measured = {**kept, **measured}
            return sum(self._measured.values())

    def missing(
        self, required: int, reserved: int, pids: Collection[int], shared: Collection[int] = ()
    ) -> int:
        """Return the bytes by which ``required`` more do not fit; none is missing up to 0."""
        return required + reserved + self.loading - self.available(pids, shared)

    @contextlib.contextmanager
    def claimed(self, required: int) -> Iterator[None]:
        """Count bytes as taken while a load lasts."""
        # In the event loop's thread alone, so without a lock.
        self.loading += required
        try:
            yield
        finally:
            self.loading -= required


class MemoryAdmission:
    """The memory of a server and its models, those of all its fork servers.

    Parameters
    ----------
    memory
        Measures.
    fork_servers
        Whose models park.
    model_pids
        Returns the ids of the processes that answer.
    is_busy
        Says whether requests are being answered.
    """

    def __init__(
        self,
        memory: ServerMemory,
        fork_servers: ForkServers,
        model_pids: Callable[[], Collection[int]],
        is_busy: Callable[[], bool],
    ) -> None:
        self._memory = memory
        self._fork_servers = fork_servers
        self._model_pids = model_pids
        self._is_busy = is_busy
        self._awake_until = 0.0
        self._was_asked = False
        self._rests = False
        self._one_at_a_time = asyncio.Lock()
        self._reporting: asyncio.Task[None] | None = None
        self._change = asyncio.Event()
        self._forwarding: dict[ServerMemoryChannel, asyncio.Task[None]] = {}
        fork_servers.on_open = self._change.set
        fork_servers.on_want = self._forward

    def note_request(self) -> None:
        """Take note that a model is asked or loaded, and may take memory from now on."""
        self._was_asked = True
        if self._rests:
            self._rests = False
            self._change.set()

    @contextlib.asynccontextmanager
    async def admit(self, required: int, reserved: int) -> AsyncIterator[bool]:
        """Say whether ``required`` bytes fit, and count them as taken while the load lasts.

        Before the answer is no, idle models park, the least recently used first.
        """
        self.note_request()
        if self._reporting is None and self._memory.own_limit is not None:
            self._reporting = asyncio.create_task(self._report_regularly())
        missing = self._missing(required, reserved)
        # For a model that could never fit nobody parks.
        if missing > 0 and required + reserved <= self._memory.limit:
            until = time.monotonic() + _WAIT_S
            # Of two at once, each would take what parks for its own.
            async with self._one_at_a_time:
                missing = await self._park_others(required, reserved, until)
        if missing > 0:
            yield False
            return
        with self._memory.claimed(required):
            yield True
        # It is young, and measured again a few times.
        self.note_request()

    async def close(self) -> None:
        """Tell and pass on nothing more."""
        tasks = [*self._forwarding.values(), *([self._reporting] if self._reporting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _missing(self, required: int, reserved: int) -> int:
        shared = self._fork_servers.pids(besides=(pids := self._model_pids()))
        return self._memory.missing(required, reserved, pids, shared)

    async def _park_others(self, required: int, reserved: int, until: float) -> int:
        """Have models park until so much is free; return the bytes that are missing then."""
        latest = until + _PARKING_S
        while True:
            may_park_later = False
            for channel in self._fork_servers.channels():
                missing = self._missing(required, reserved)
                if missing <= 0:
                    return missing
                asked = time.monotonic()
                may_park_later |= await channel.park(missing, max(_AGAIN_S, latest - asked))
                # The answer comes when those have parked that were asked: however long that takes
                # a machine under load, what they give back is on its way.
                until = min(latest, until + time.monotonic() - asked)
            missing = self._missing(required, reserved)
            if missing <= 0 or not may_park_later or time.monotonic() > until:
                return missing
            await asyncio.sleep(_AGAIN_S)

    async def _report_regularly(self) -> None:
        """Tell fork servers what is left of the limit, while any model is awake."""
        limit = self._memory.own_limit
        while limit is not None:
            period = _REST_PERIOD_S if self._rests else _PERIOD_S
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._change.wait(), period)
            news = self._change.is_set()
            self._change.clear()
            self._watch_rest(active=news)
            channels, pids = self._fork_servers.channels(), self._model_pids()
            if not channels or not (pids or news):
                continue
            at = time.monotonic()
            shared = self._fork_servers.pids(besides=pids)
            # Measuring takes the kernel a millisecond for each process.
            left = await asyncio.to_thread(self._memory.measure, pids, shared)
            for channel in channels:
                channel.report(limit, left, at, len(channels))

    def _watch_rest(self, *, active: bool) -> None:
        """Look less often from now on, when nobody has asked for a while, until somebody does."""
        now = time.monotonic()
        if active or self._was_asked or self._memory.loading or self._is_busy():
            self._awake_until = now + _AWAKE_S
        self._was_asked = False
        self._rests = now >= self._awake_until

    def _forward(self, channel: ServerMemoryChannel, wanted: int) -> None:
        """Have the models of other fork servers park for one that waits in this."""
        # What it was told last may be from before its only model parked: then nobody is awake, and
        # nothing is told regularly.
        self._change.set()
        others = [one for one in self._fork_servers.channels() if one is not channel]
        if channel in self._forwarding or not others:
            return

        async def ask() -> None:
            for other in others:
                await other.park(wanted, _WAIT_S)
            self._change.set()

        task = self._forwarding[channel] = asyncio.create_task(ask())
        task.add_done_callback(lambda _: self._forwarding.pop(channel))
