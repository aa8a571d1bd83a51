"""A control group with a memory limit: what a small container is to its processes."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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
