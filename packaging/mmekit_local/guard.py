"""Processes that must not outlive the one that started them, not even when that is killed.

As a script, ``python -I -S FILE NAME=VALUE``, it kills whatever has that variable in its
environment: what a server that was killed has left. A process is found by what it was started
with, whoever started it, in whatever session, and whoever its parent is by now. So this module
imports nothing but Python's own, and the script looks into /proc: Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["ProcessTag", "guard_command", "guarded", "killing_descendants", "when_stdin_ends"]

_SCRIPT = """while read -r _; do :; done
if kill -s TERM -- "-$0"; then
    for _ in $(seq 20); do sleep 0.25; kill -s 0 -- "-$0" || break; done
    kill -s KILL -- "-$0"
fi
"$@"
"""
_TAG = "MMEKIT_STARTED_BY"
_KILLING_S = 10.0
_PAUSE_S = 0.01
# A shell that waits costs less than a Python does.
_SWEEPER = 'while read -r _; do :; done; exec "$@"'


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


@dataclass(frozen=True)
class ProcessTag:
    """Variables by which processes are found that were started with them, or inherit them.

    What clears its environment is not found. Linux only; elsewhere there are no variables.

    Attributes
    ----------
    sweep
        A command that kills whatever has the tag: this module as a script.
    """

    variables: dict[str, str]
    sweep: tuple[str, ...]

    @classmethod
    def new(cls) -> ProcessTag:
        """Make one that nothing has yet."""
        if not sys.platform.startswith("linux"):
            return cls({}, ("true",))
        value = uuid.uuid4().hex
        script = str(Path(__file__))
        return cls({_TAG: value}, (sys.executable, "-I", "-S", script, f"{_TAG}={value}"))


@contextlib.contextmanager
def killing_descendants() -> Iterator[dict[str, str]]:
    """Kill what is started within the block, and what that starts, however the block is left.

    Whatever gets the variables that this yields is killed when the block or this process ends, by a
    kill too.
    """
    tag = ProcessTag.new()
    with subprocess.Popen(
        ["/bin/sh", "-c", _SWEEPER, "mmekit-sweeper", *tag.sweep],
        # Without the tag of an outer block, whose end would kill the sweeper before it has swept.
        env={name: value for name, value in os.environ.items() if name != _TAG},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ):
        yield tag.variables


def when_stdin_ends(end: Callable[[], object]) -> None:
    """Call a function, in a thread, when standard input ends: the other side of a guard."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        end()

    threading.Thread(target=watch, daemon=True, name="stdin").start()


# What the guard runs: this file, as a script.


def _kill_tagged(tag: bytes) -> None:
    """Kill processes that have the tag, and what they start meanwhile, until none is left."""
    deadline = time.monotonic() + _KILLING_S
    while _kill_all(tag) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)


def _kill_all(tag: bytes) -> bool:
    """Kill those that there are; whether there were any."""
    found = False
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdecimal() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                found |= _kill_if_tagged(int(name), tag)
    return found


def _kill_if_tagged(pid: int, tag: bytes) -> bool:
    # Opened first: what is looked at, and what is killed, is the same process then.
    process = os.pidfd_open(pid)
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            if tag not in file.read().split(b"\0"):
                return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
    finally:
        os.close(process)
    return True


if __name__ == "__main__":
    _kill_tagged(os.fsencode(sys.argv[1]))
