"""A control group with a memory limit, for processes of a test."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.server_process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))


class ControlGroup:
    """One of version 1 or 2."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        folder.mkdir()
        self.is_v2 = (folder / "memory.max").exists()
        (folder / ("memory.max" if self.is_v2 else "memory.limit_in_bytes")).write_text(str(limit))

    def enter(self) -> None:
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def is_empty(self) -> bool:
        return not (self.folder / "cgroup.procs").read_text()

    def kills(self) -> int:
        """Return how many processes the kernel has ended for want of memory."""
        file = "memory.events" if self.is_v2 else "memory.oom_control"
        found = re.search(r"^oom_kill (\d+)$", (self.folder / file).read_text(), re.MULTILINE)
        return int(found[1]) if found else 0


@contextlib.contextmanager
def control_group(limit: int) -> Iterator[ControlGroup]:
    """Make one; the test is skipped where that may not be. At the end it has to be empty."""
    for top in _TOPS:
        folder = top / f"mmekit-test-{os.getpid()}"
        try:
            made = ControlGroup(folder, limit)
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        try:
            yield made
        finally:
            wait_until(made.is_empty)
            folder.rmdir()
        return
    pytest.skip("no control group can be made here")
