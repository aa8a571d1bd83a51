"""What happens, as server-sent events: the state each second, and each event of the journal."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.page.content import event_members, state_members

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from mmekit_local.sagemaker.journal import Event, Journal
    from mmekit_local.sagemaker.observability.watch import Watch
    from mmekit_local.sagemaker.snapshot import EndpointStatus

__all__ = ["Feed"]

_CLIENTS = 16
_WAITING = 64  # messages that a client may be behind; then it is let go, and comes again
_SHOWN_EVENTS = 200
_DIGITS = 20  # more than any event's number has

_Queue = asyncio.Queue["bytes | None"]


class Feed:
    """Tells all pages that are open.

    Parameters
    ----------
    watch
        Knows the endpoints in service.
    journal
        What happened.
    statuses
        Returns every endpoint that exists.
    token
        What the page has to show when it asks for something.
    """

    def __init__(
        self,
        watch: Watch,
        journal: Journal,
        statuses: Callable[[], Sequence[EndpointStatus]],
        token: str = "",
    ) -> None:
        self._watch = watch
        self._journal = journal
        self._statuses = statuses
        self._token = token
        self._clients: set[_Queue] = set()
        watch.listen(self._tell_state)
        journal.listen(self._tell_event)

    @property
    def is_full(self) -> bool:
        """Whether no more pages can be told."""
        return len(self._clients) >= _CLIENTS

    async def stream(self, last_seen: bytes | None) -> AsyncIterator[bytes]:
        """Yield server-sent events for one page, from now on.

        Parameters
        ----------
        last_seen
            Last-Event-ID: the number of the last event that the page has.
        """
        queue: _Queue = asyncio.Queue(_WAITING)
        self._clients.add(queue)  # before the first piece: nothing that happens now may be missed
        try:
            yield b"retry: 1000\n\n" + self._greeting(last_seen)
            while (message := await queue.get()) is not None:
                yield message
        finally:
            self._clients.discard(queue)

    def close(self) -> None:
        """End what every page listens to; they will try to come again."""
        for queue in tuple(self._clients):
            self._let_go(queue)

    def _greeting(self, last_seen: bytes | None) -> bytes:
        """Return the whole state, and the events that the page has not seen."""
        is_number = last_seen and last_seen.isdigit() and len(last_seen) < _DIGITS
        seen = int(last_seen) if last_seen and is_number else 0
        events = self._journal.events
        if not events or seen > events[-1].number:
            seen = 0  # it saw them at a server that ran here before
        fresh = [event for event in events if event.number > seen][-_SHOWN_EVENTS:]
        state = state_members(self._watch, self._statuses, history=True)
        state["token"] = self._token
        return _message("state", state) + b"".join(_of_event(event) for event in fresh)

    def _tell_state(self) -> None:
        if self._clients:
            state = state_members(self._watch, self._statuses, history=False)
            self._tell(_message("state", state))

    def _tell_event(self, event: Event) -> None:
        if self._clients:
            self._tell(_of_event(event))

    def _tell(self, message: bytes) -> None:
        for queue in tuple(self._clients):
            if queue.full():  # it does not read; when it comes again it gets the whole state
                self._let_go(queue)
            else:
                queue.put_nowait(message)

    def _let_go(self, queue: _Queue) -> None:
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
        self._clients.discard(queue)


def _of_event(event: Event) -> bytes:
    return b"id: %d\n%b" % (event.number, _message("event", event_members(event)))


def _message(name: str, members: dict[str, object]) -> bytes:
    data = json.dumps(members, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode()
