"""Thousands of models in a container with little memory, asked by an open loop."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit_bench import Destination, LoadPlan, Payload, put_load
from slot_runs import crowd, subjects
from slot_runs.servers import TITLES, ServerKind, running
from slot_runs.targets import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slot_runs.subjects import Trained

_ROOTS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
_EMPTY_S = 60.0
_POLL_S = 0.1


class NoControlGroupError(Exception):
    """No control group can be made here; the text says why."""


class ControlGroup:
    """A group of version 1 or 2 that is there until `limited` ends."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._former = _own_group(folder.parent)
        folder.mkdir()
        is_v2 = (folder / "memory.max").exists()
        self._used, self._events = (
            ("memory.current", "memory.events")
            if is_v2
            else ("memory.usage_in_bytes", "memory.oom_control")
        )
        file = folder / ("memory.max" if is_v2 else "memory.limit_in_bytes")
        file.write_text(str(limit))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have the processes that are started in the block, and theirs, belong to the group."""
        own = str(os.getpid())
        (self._folder / "cgroup.procs").write_text(own)
        try:
            yield
        finally:
            (self._former / "cgroup.procs").write_text(own)

    @property
    def used(self) -> int:
        """Bytes that its processes take now, file pages among them."""
        return int((self._folder / self._used).read_text())

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        text = (self._folder / self._events).read_text()
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else 0

    def remove(self) -> None:
        """Remove it as soon as its last process has ended."""
        deadline = time.monotonic() + _EMPTY_S
        while (self._folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._folder.rmdir()


@contextlib.contextmanager
def limited(limit: int) -> Iterator[ControlGroup]:
    """Make a group with that many bytes.

    Raises
    ------
    NoControlGroupError
        Whoever runs this may make none.
    """
    group = _made(limit)
    try:
        yield group
    finally:
        group.remove()


def _made(limit: int) -> ControlGroup:
    why = "there is none with memory"
    for root in _ROOTS:
        folder = root / f"mmekit-benchmark-{os.getpid()}"
        try:
            return ControlGroup(folder, limit)
        except OSError as error:
            why = str(error)
            with contextlib.suppress(OSError):
                folder.rmdir()
    raise NoControlGroupError(f"no control group can be made: {why}")


def _own_group(root: Path) -> Path:
    """Return the group of this process; the topmost that can be seen where it is not shown."""
    controller = "" if root.name == "cgroup" else root.name
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        folder = root / path.strip("/")
        if controller in controllers.split(",") and folder.is_dir():
            return folder
    return root


_RATE = 50.0
_OUTSTANDING = 1000


@dataclass(frozen=True)
class Container:
    """What became of them.

    Attributes
    ----------
    limit
        Bytes of the control group, in which everything of the server is.
    models, loaded
        Wanted, and loaded.
    failure
        What went wrong while they were loaded; None when nothing did.
    load_s
        Seconds of loading.
    rate, seconds
        Requests a second, and for how long.
    answered, errors, dropped
        Requests, by what became of them.
    p50_ms, p95_ms, p99_ms
        Of the answers, from when each request was due.
    asked
        Models that were asked at all.
    awake
        Models that had a process at the end.
    used
        Bytes of the group at the end.
    kills
        Processes that the kernel killed for want of memory.
    """

    server: ServerKind
    limit: int
    models: int
    loaded: int
    failure: str | None
    load_s: float
    rate: float
    seconds: float
    answered: int
    errors: int
    dropped: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    asked: int
    awake: int
    used: int
    kills: int

    @property
    def complete(self) -> bool:
        """Whether every model was loaded and every request answered."""
        failed = self.errors or self.dropped or self.kills or self.failure
        return self.loaded == self.models and not failed


def serve(
    kind: ServerKind,
    work: Path,
    say: Callable[[str], None],
    *,
    trained: Trained,
    minutes: float,
    count: int = 2000,
    limit: int = 4 * GIB,
) -> Container:
    """Load models into a container with so many bytes, and ask them as Zipf has it.

    Raises
    ------
    NoControlGroupError
        Whoever runs this may make none.
    ServerFailure
        The server did not start.
    """
    crowd.allow_descriptors()
    say("copying the model's folder")
    source = trained.unpacked("slots")
    folders = [subjects.copy(source, work / f"m{number}") for number in range(count)]
    with limited(limit) as group, running(kind, around=group.entered) as server:
        loading = crowd.load(server, folders, say)
        names = tuple(folder.name for folder in folders[: len(loading.times)])
        subject = trained.subject
        plan = LoadPlan(
            Destination.of_url(f"http://127.0.0.1:{server.port}"),
            Payload(subject.load, subject.content_type),
            names,
            distribution="zipf",
            connections=64,
            rate=_RATE,
            poisson=True,
            outstanding=_OUTSTANDING,
            duration=60 * minutes,
        )
        say(f"{TITLES[kind]}: {_RATE:g} requests a second for {minutes:g} minutes")
        found = put_load(plan)
        recording = found.recording
        awake = crowd.awake(server, folders)
        return Container(
            server=kind,
            limit=limit,
            models=count,
            loaded=len(loading.times),
            failure=loading.failure,
            load_s=loading.seconds,
            rate=_RATE,
            seconds=recording.seconds,
            answered=recording.answered,
            errors=recording.failed,
            dropped=recording.dropped,
            p50_ms=recording.later.percentile(50),
            p95_ms=recording.later.percentile(95),
            p99_ms=recording.later.percentile(99),
            asked=sum(one.answered > 0 for one in recording.targets),
            awake=awake,
            used=group.used,
            kills=group.kills,
        )
