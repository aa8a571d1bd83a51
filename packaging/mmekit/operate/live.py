"""A screen that is drawn anew until a key ends it."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mmekit.errors import MmekitError
from mmekit.printing import TextTable, wrapped
from mmekit.progress import under_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["watch"]

_ENDING = ("q", "Q", "\x03", "\x04", "")
_FOOT = "q ends · every {:g} s"


def watch(draw: Callable[[int], Sequence[TextTable | Text]], every: float) -> None:
    """Draw on the whole terminal, again and again, until q or Ctrl-C.

    Parameters
    ----------
    draw
        Returns what to show; is told how many lines there are. What it raises the first time is
        raised; later the screen says it, and stays as it was.
    every
        Seconds between two drawings.
    """
    console = Console()
    with under_way("looking at the endpoint"):
        lines = _lines(draw(console.height), console)
    with (
        contextlib.suppress(KeyboardInterrupt),
        _keys() as pressed,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            live.update(_fitted(lines, console, _FOOT.format(every)), refresh=True)
            if pressed(every):
                return
            try:
                lines = _lines(draw(console.height), console)
            except (MmekitError, OSError) as error:
                said = Text(f"{time.strftime('%H:%M:%S')} {error}", style="bold red")
                lines = [*wrapped(said, console.width), *lines]


def _lines(parts: Sequence[TextTable | Text], console: Console) -> list[Text]:
    lines: list[Text] = []
    for part in parts:
        if isinstance(part, TextTable):
            lines += part.lines(console.width)
        else:
            lines += wrapped(part, console.width)
    return lines


def _fitted(lines: list[Text], console: Console, foot: str) -> Group:
    room = console.height - 2
    shown = lines[:room]
    if len(lines) > room:
        foot += f" · {len(lines) - room} lines do not fit: --once prints all"
    for line in shown:
        line.no_wrap = True
    return Group(*shown, Text(foot, style="dim", no_wrap=True))


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Yield a function that waits so many seconds; whether a key has ended it."""
    try:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError):
        yield _sleep
        return
    except termios.error:
        yield _sleep
        return
    tty.setcbreak(sys.stdin)
    try:
        yield _is_ended
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _is_ended(seconds: float) -> bool:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], left)
        if ready and sys.stdin.read(1) in _ENDING:
            return True
    return False
