"""A peer's processes: started, waited for, measured and ended, whatever it does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

from mmekit_local.guard import guarded
from mmekit_local.server.memory import process_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

CEILING = 18 << 30
"""Bytes that a peer may take of this machine."""

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
_STOP_S = 15.0
_POLL_S = 0.02
_TAIL = 1200


class PeerFailure(Exception):  # noqa: N818  it is the peer's
    """A peer did not start, or did not answer as it should; the text says what it said."""


class TooLarge(PeerFailure):
    """A peer took more memory than it may."""


def adopt_orphans() -> None:
    """Be the parent of whatever a peer leaves without one, so that it is found and ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """Return all processes that this one has brought about."""
    return psutil.Process().children(recursive=True)


def proportional(before: Sequence[psutil.Process]) -> int:
    """Return the bytes of a peer's processes, with their shares of what they share (PSS).

    Parameters
    ----------
    before
        The processes that were there before it: not its own.
    """
    total = 0
    for process in descendants():
        if process not in before:
            # One that ends while it is looked at has nothing any more.
            with contextlib.suppress(psutil.Error, OSError):
                total += process_memory(process.pid).proportional_bytes
    return total


class Ceiling:
    """Watches that a peer leaves the machine enough memory to live on."""

    def __init__(self) -> None:
        self._before = psutil.virtual_memory().available

    def check(self) -> None:
        """Raise TooLarge when what has been taken since the beginning is too much."""
        taken = self._before - psutil.virtual_memory().available
        if taken > CEILING:
            raise TooLarge(f"more than {CEILING >> 30} GiB")


@contextlib.contextmanager
def started(
    command: Sequence[str],
    variables: Mapping[str, str],
    folder: Path,
    *,
    ready: Callable[[], bool],
    within_s: float,
) -> Iterator[subprocess.Popen[str]]:
    """Run a server until the block ends; nothing of it is left then.

    Parameters
    ----------
    folder
        Where it runs, and its home; its output is there, in ``log``.
    ready
        Whether it can be used; asked again and again.
    within_s
        How long that may take.

    Raises
    ------
    PeerFailure
        It ended, or was not ready in time; or the block failed. The end of its output is with it.
    """
    before = descendants()
    log = folder / "log"
    ceiling = Ceiling()
    try:
        with (
            log.open("wb") as stream,
            subprocess.Popen(
                command,
                cwd=folder,
                # Whatever it writes for its user is gone with the folder.
                env={**variables, "HOME": str(folder)},
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            ) as process,
            guarded(process.pid),
        ):
            try:
                _wait(process, ready, within_s, ceiling)
                yield process
            finally:
                _end(process, before)
    except TooLarge:
        raise
    except (PeerFailure, OSError, RuntimeError, subprocess.TimeoutExpired) as failure:
        raise PeerFailure(f"{failure}\n{_tail(log)}") from failure


def _wait(
    process: subprocess.Popen[str], ready: Callable[[], bool], within_s: float, ceiling: Ceiling
) -> None:
    deadline = time.monotonic() + within_s
    while not ready():
        if process.poll() is not None:
            raise PeerFailure(f"it ended with code {process.returncode}")
        if time.monotonic() > deadline:
            raise PeerFailure(f"it was not ready within {within_s:.0f} s")
        ceiling.check()
        time.sleep(_POLL_S)


def _end(process: subprocess.Popen[str], before: Sequence[psutil.Process]) -> None:
    """End a server in order, and kill what is left of it."""
    relatives = [one for one in descendants() if one not in before]
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    relatives += [one for one in descendants() if one not in before]
    for one in set(relatives):
        # psutil compares the start time: never another process of the same number.
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.is_running():
                one.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    psutil.wait_procs(set(relatives), timeout=_STOP_S)
    _reap()


def _reap() -> None:
    """Let go of adopted processes that have ended."""
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if one.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(one.pid, os.WNOHANG)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-_TAIL:].strip() if log.exists() else ""
