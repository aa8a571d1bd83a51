"""What a command does meanwhile, on standard error: nobody has to ask whether it still runs."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["AGAIN_S", "ended_in_order", "telling", "under_way"]

_QUIET_S = 1.5
"""What takes no longer is not worth a line."""

AGAIN_S = 5.0
"""Between two lines where there is no terminal."""


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C meanwhile: what was started or half written goes with the command."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def under_way(what: str) -> Iterator[Callable[[str], None]]:
    """Say what takes time: in a terminal a line that moves, elsewhere one every few seconds.

    SIGTERM ends it as Ctrl-C does.

    Yields
    ------
    A function that prints a line beside it.
    """
    with ended_in_order(), _shown(what) as say:
        yield say


@contextlib.contextmanager
def _shown(what: str) -> Iterator[Callable[[str], None]]:
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            progress.add_task(f"{what} …", total=None)
            yield lambda text: console.print(text, markup=False, soft_wrap=True)
        return
    started, first = time.monotonic(), iter((f"{what} …",))
    with telling(lambda: next(first, f"{what}: {time.monotonic() - started:.0f} s")):
        yield _say


@contextlib.contextmanager
def telling(said: Callable[[], str]) -> Iterator[None]:
    """Print a line every few seconds on standard error, which is no terminal."""
    ended = threading.Event()
    thread = threading.Thread(target=_tell, args=(said, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tell(said: Callable[[], str], ended: threading.Event) -> None:
    quiet = _QUIET_S
    while not ended.wait(quiet):
        quiet = AGAIN_S
        _say(said())


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
