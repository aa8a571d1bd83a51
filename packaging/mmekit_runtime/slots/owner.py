"""The server that has started a fork server, where it has a word in the memory of its models."""

from __future__ import annotations

import contextlib
import functools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mmekit_runtime.slots.channel import Channel
    from mmekit_runtime.slots.forkserver import ForkServer


class Owner:
    """Its connection, for as long as the fork server lives.

    It tells what is left of a limit of its own (``left``), and how much it wants to be free
    (``wanted``), which is answered when the models that have to park for it have parked. It is told
    what models want that wait for memory, when none of this fork server's can park for them.
    """

    def __init__(self, server: ForkServer, channel: Channel) -> None:
        self._server = server
        self._channel = channel
        server.room.tell_wants = self._want
        server.loop.watch(channel.fileno(), self._spoke, lambda _: self._close())
        self._send({"memory": True})

    def _spoke(self) -> None:
        messages = self._channel.heard()
        if messages is None:
            self._close()
            return
        for message, _ in messages:
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        room = self._server.room
        if "left" in message:
            room.memory.allowance.tell(
                message["limit"], message["left"], message["at"], message["sharers"]
            )
        elif "wanted" in message:
            room.order(message["wanted"], functools.partial(self._made, message["number"]))
        self._server.look()

    def _made(self, number: int, more: bool) -> None:  # noqa: FBT001
        self._send({"made": number, "more": more})

    def _want(self, size: int) -> None:
        self._send({"wants": size})

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has ended, and so will this process
            self._channel.send(message)

    def _close(self) -> None:
        self._server.loop.unwatch(self._channel.fileno())
        self._channel.close()
        self._server.room.tell_wants = None
