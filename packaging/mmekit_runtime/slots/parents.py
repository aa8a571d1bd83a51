"""The parents of a fork server: found, grown when models need more, and asked to fork."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from mmekit_runtime.slots import nursery
from mmekit_runtime.slots.channel import Channel
from mmekit_runtime.slots.tree import Parent, Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mmekit_runtime.slots.forkserver import ForkServer

    Found = Callable[[Parent | None], None]
    Forked = Callable[[int], None]


class Parents:
    """The processes of `nursery` that one fork server has, and who waits for them."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self._tree = Tree()
        self._dropped: set[str] = set()
        self._waiting: dict[frozenset[str], list[Found]] = {}
        self._forking: dict[int, tuple[Parent, Forked]] = {}
        self._number = 0

    def find(self, wanted: frozenset[str], then: Found) -> None:
        """Call ``then`` with a ready parent that has these imports, None when there can be none."""
        wanted = (wanted | frozenset(nursery.BASE_IMPORTS)) - self._dropped
        wanted = self._tree.widened(wanted)
        exact = self._tree.exact(wanted)
        if exact is not None and exact.ready:
            then(exact)
            return
        waiting = self._waiting.setdefault(wanted, [])
        waiting.append(then)
        if exact is None and len(waiting) == 1:
            try:
                self._grow(wanted)
            except OSError as error:
                self._server.log(f"no parent could be started: {error}")
                for one in self._waiting.pop(wanted, []):
                    one(None)

    def _grow(self, wanted: frozenset[str]) -> None:
        base = frozenset(nursery.BASE_IMPORTS) - self._dropped
        ancestor, steps = self._tree.plan(wanted)
        if ancestor is None:
            steps = [base, *(step for step in steps if step != base)]
        elif not ancestor.ready:
            self.find(ancestor.imports, lambda _: self._continue(wanted))
            return
        order = [name for name in (*nursery.BASE_IMPORTS, *sorted(wanted)) if name in steps[0]]
        missing = [name for name in order if ancestor is None or name not in ancestor.imports]
        if ancestor is None:
            pid, channel = nursery.fork_parent(missing)
            self._parent_started(self._tree.add(steps[0]), pid, channel)
        else:
            ours, theirs = nursery.pair()
            parent = self._tree.add(steps[0])
            with theirs:
                self.fork(
                    ancestor,
                    {"fork": "parent", "imports": missing},
                    [theirs.fileno()],
                    lambda pid: setattr(parent, "pid", pid),
                )
            self._parent_started(parent, 0, Channel(ours))
        if steps[0] != wanted:
            self._waiting.setdefault(steps[0], []).append(lambda _: self._continue(wanted))

    def _continue(self, wanted: frozenset[str]) -> None:
        current = wanted - self._dropped
        thens = self._waiting.pop(wanted, [])
        for then in thens:
            self.find(current, then)

    def _parent_started(self, parent: Parent, pid: int, channel: Channel) -> None:
        parent.pid = pid
        parent.channel = channel
        self._server.watch(channel.fileno(), lambda: self._parent_spoke(parent))

    def _parent_spoke(self, parent: Parent) -> None:
        assert parent.channel is not None  # noqa: S101
        try:
            received = parent.channel.receive()
            messages = None if received is None else list(received)
        except OSError:
            messages = None
        if messages is None:
            self._parent_ended(parent)
            return
        for message, _ in messages:
            if "forked" in message:
                _, forked = self._forking.pop(message["forked"])
                forked(message["pid"])
            elif "ended" in message:
                self._server.process_ended(message["ended"], message["status"])
            elif "spoiled" in message:
                self._server.log(
                    f"importing {message['spoiled']} starts a thread: left to the models"
                )
                self._dropped.add(message["spoiled"])
            elif "broken" in message:
                self._server.log(f"this runtime cannot be imported: {message['broken']}")
            elif "imported" in message:
                self._parent_is_ready(parent, message)

    def _parent_is_ready(self, parent: Parent, message: dict[str, Any]) -> None:
        parent.ready = True
        parent.own_ms = message["ms"]
        parent.failed = message["failed"]
        for name, reason in parent.failed.items():
            self._server.log(f"{name} was not preloaded: {reason}")
        self._server.log(
            f"a parent with {len(parent.imports)} imports is ready after {parent.own_ms:.0f} ms"
        )
        for then in self._waiting.pop(parent.imports, []):
            then(parent)

    def _parent_ended(self, parent: Parent) -> None:
        assert parent.channel is not None  # noqa: S101
        self._server.unwatch(parent.channel.fileno())
        parent.channel.close()
        self._tree.remove(parent)
        for number, (asked, forked) in list(self._forking.items()):
            if asked is parent:
                del self._forking[number]
                forked(0)
        waiting = [] if parent.ready else self._waiting.pop(parent.imports, [])
        if not waiting:
            return
        smaller = parent.imports - self._dropped
        if smaller != parent.imports:
            for then in waiting:
                self.find(smaller, then)
            return
        self._server.log("a parent ended before it was ready")
        if not os.path.exists(__file__):  # noqa: PTH110
            self._server.retire()
        for then in waiting:
            then(None)

    def fork(self, parent: Parent, message: dict[str, Any], fds: list[int], forked: Forked) -> None:
        """Have a parent fork; ``forked`` gets the process's id, 0 when there is none."""
        self._number += 1
        self._forking[self._number] = (parent, forked)
        assert parent.channel is not None  # noqa: S101
        # A parent that has ended shows on its channel, in this turn or the next.
        with contextlib.suppress(OSError):
            parent.channel.send({**message, "number": self._number}, fds)

    def end_unused(self, used: set[Parent | None], unused_s: float) -> None:
        """End the parents from which no process was forked for so long that still lives.

        Those whose imports another one of them has as well go first: what a parent has forked,
        parents among it, shares its memory.
        """
        now = time.monotonic()
        asked = {parent for parent, _ in self._forking.values()}
        parents = list(self._tree)
        for parent in parents:
            if parent in used or parent in asked or not parent.ready:
                parent.used_at = now
        for parent in parents:
            if any(parent.imports < other.imports for other in parents):
                parent.used_at = now
            elif now - parent.used_at >= unused_s:
                self._server.log(f"a parent with {len(parent.imports)} imports has no model: ends")
                self._parent_ended(parent)

    def kill(self) -> None:
        """End them all."""
        for parent in self._tree:
            if parent.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(parent.pid, signal.SIGKILL)
