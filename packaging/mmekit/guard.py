"""Processes that must not outlive the one that started them, not even when that is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["guard_command", "guarded", "when_stdin_ends"]

_SCRIPT = """while read -r _; do :; done
if kill -s TERM -- "-$0"; then
    for _ in $(seq 20); do sleep 0.25; kill -s 0 -- "-$0" || break; done
    kill -s KILL -- "-$0"
fi
"$@"
"""


def guard_command(group: int, afterwards: Sequence[str] = ("true",)) -> list[str]:
    """Return a command that ends a process group when its standard input ends.

    Give it a pipe that is held open and never written to, and a session of its own: however the
    holder ends, the group is asked to end, and killed five seconds later. Kill the guard once the
    group has ended in another way.

    Parameters
    ----------
    group
        The id of the process that leads it.
    afterwards
        A command to run when the group has ended.
    """
    return ["/bin/sh", "-c", _SCRIPT, str(group), *afterwards]


@contextlib.contextmanager
def guarded(group: int) -> Iterator[None]:
    """End a process group when this process is killed within the block."""
    with subprocess.Popen(
        guard_command(group),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as guard:
        try:
            yield
        finally:
            guard.kill()


def when_stdin_ends(end: Callable[[], object]) -> None:
    """Call a function, in a thread, when standard input ends: the other side of a guard."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        end()

    threading.Thread(target=watch, daemon=True, name="stdin").start()
