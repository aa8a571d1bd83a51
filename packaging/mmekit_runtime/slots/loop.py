"""The fork server's loop: who is called when something can be read, and what waits to be sent."""

from __future__ import annotations

import contextlib
import functools
import selectors
import time
from dataclasses import dataclass

from mmekit_runtime.slots.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket as Socket  # noqa: N812
    from typing import Any

_STALLED_S = 0.05
"""Until the next try, where the kernel has no room for descriptors on their way."""


def log(text: str) -> None:
    """Write a line to the fork server's own log."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201


def guarded(act: Callable[..., None], failed: Callable[[str], None]) -> Callable[..., None]:
    """Return what does the same, and calls ``failed`` with the reason when that fails."""

    @functools.wraps(act)
    def guarded(*arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:  # noqa: BLE001  a bug that shows in one model must not end all
            import traceback

            log(f"the fork server failed:\n{traceback.format_exc()}")
            failed(f"{type(error).__name__}: {error}")

    return guarded


@dataclass
class _Watched:
    react: Callable[[], None] | None = None
    failed: Callable[[str], None] | None = None
    unsent: Channel | None = None


class Loop:
    """Calls back; nothing in it ever waits for one other process alone."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._stalled: list[Channel] = []

    def channel(self, sock: Socket) -> Channel:
        """Return a channel over a connection; what it has to keep is written when that can be."""
        sock.setblocking(False)  # noqa: FBT003
        return Channel(sock, self._write_later)

    def watch(
        self, fd: int, react: Callable[[], None], failed: Callable[[str], None] | None = None
    ) -> None:
        """Call ``react`` whenever ``fd`` can be read.

        After an exception there it is called no more; ``failed`` gets the reason.
        """
        try:
            watch = self._selector.get_key(fd).data
        except KeyError:
            watch = _Watched()
        watch.react, watch.failed = react, failed
        self._register(fd, watch)

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``."""
        # A socket that is closed already has the number -1, which is a ValueError.
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    def turn(self, wait_s: float) -> None:
        """Wait for what comes, at most so long, and call whom it is for."""
        if self._stalled:
            # The selector is not asked for them: it would say at once that they can be written to.
            wait_s = min(wait_s, _STALLED_S)
        for key, events in self._selector.select(max(0.0, wait_s)):
            watch = key.data
            # An earlier event of this turn may have closed it, and another may have its number now.
            if events & selectors.EVENT_WRITE and self._is_watched(key.fd, watch):
                self._flush(key.fd, watch)
            if events & selectors.EVENT_READ and self._is_watched(key.fd, watch):
                self._react(key.fd, watch)
        stalled, self._stalled = self._stalled, []
        for channel in stalled:
            if channel.pending and channel.fileno() >= 0:
                self._write_later(channel)

    def _is_watched(self, fd: int, watch: _Watched) -> bool:
        key = self._selector.get_map().get(fd)
        return key is not None and key.data is watch

    def _react(self, fd: int, watch: _Watched) -> None:
        def failed(reason: str) -> None:
            self.unwatch(fd)
            if watch.failed is not None:
                watch.failed(reason)

        if watch.react is not None:
            guarded(watch.react, failed)()

    def _write_later(self, channel: Channel) -> None:
        try:
            watch = self._selector.get_key(channel.fileno()).data
        except KeyError:
            watch = _Watched()
        watch.unsent = channel
        self._register(channel.fileno(), watch)

    def _flush(self, fd: int, watch: _Watched) -> None:
        channel = watch.unsent
        if channel is None:
            return
        try:
            moved = channel.flush()
        except OSError:
            watch.unsent = None  # its end shows when it is read
        else:
            if not moved:
                # There is room for bytes, and none for the descriptors that go with them.
                self._stalled.append(channel)
            if not moved or not channel.pending:
                watch.unsent = None
        self._register(fd, watch)

    def _register(self, fd: int, watch: _Watched) -> None:
        events = selectors.EVENT_READ if watch.react else 0
        if watch.unsent is not None:
            events |= selectors.EVENT_WRITE
        known = fd in self._selector.get_map()
        if not events:
            self.unwatch(fd)
        elif known:
            self._selector.modify(fd, events, watch)
        else:
            self._selector.register(fd, events, watch)
