"""How a smoke test ends before its time: by its budget, by Ctrl-C, by a signal; and only once."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

__all__ = ["EndedEarly", "Ending"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class EndedEarly(BaseException):
    """The test ends now; the text says why. As KeyboardInterrupt, nobody takes it for an error."""


class Ending:
    """Raises `EndedEarly` in the block that it stands around, once; later signals say `notice`.

    What was made has to be taken down whoever is in a hurry: a second Ctrl-C does not end that.

    Parameters
    ----------
    seconds
        The budget of time. Where there is no alarm clock (Windows, another thread than the main
        one), `see` looks at it.
    say, notice
        What a later signal is answered with.
    """

    def __init__(self, seconds: float, say: Callable[[str], object], notice: str) -> None:
        self._seconds = seconds
        self._say = say
        self._notice = notice
        self._is_over = False
        self._before: dict[int, Any] = {}
        self._end_at = time.monotonic() + seconds
        self.signal: int | None = None
        """The number of the signal that ended it; None for none."""

    def __enter__(self) -> Self:
        """Listen, where that can be done."""
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                if (number := getattr(signal, name, None)) is not None:
                    self._before[number] = signal.signal(number, self._on_signal)
            if hasattr(signal, "setitimer"):
                self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_alarm)
                signal.setitimer(signal.ITIMER_REAL, self._seconds)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave everything as it was."""
        self.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop(self) -> None:
        """Raise nothing any more."""
        self._is_over = True
        if hasattr(signal, "SIGALRM") and signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def see(self) -> None:
        """Raise if the time is up."""
        if not self._is_over and time.monotonic() > self._end_at:
            self._end(f"the {self._seconds / 60:g} minutes are over")

    def _on_alarm(self, *_: object) -> None:
        if not self._is_over:
            self._end(f"the {self._seconds / 60:g} minutes are over")

    def _on_signal(self, number: int, _: object) -> None:
        if self._is_over:
            self._say(self._notice)
            return
        self.signal = number
        self._end("interrupted" if number == signal.SIGINT else signal.Signals(number).name)

    def _end(self, why: str) -> None:
        self.stop()
        raise EndedEarly(why)
