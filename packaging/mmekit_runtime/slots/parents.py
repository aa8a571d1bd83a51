"""The parents of a fork server: found, grown when models need more, and asked to fork."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time

from mmekit_runtime.slots import nursery
from mmekit_runtime.slots.loop import log
from mmekit_runtime.slots.tree import Parent, Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mmekit_runtime.slots.channel import Channel
    from mmekit_runtime.slots.forkserver import ForkServer

    Found = Callable[[Parent | None], None]
    Forked = Callable[[int, Channel | None], None]

SPARES_VARIABLE = "MMEKIT_SLOTS_SPARES"
"""``0`` has no process forked ahead."""

SPARE_AFTER_S = 0.02
"""After a model is ready, before another process is forked ahead: that takes a core as long as the
request that the model was woken for."""

MAX_FORKS = 8
"""That a parent is asked for at a time: it does one after the other anyway."""

_FORK_S = 20.0
_IMPORT_S = 90.0
"""After which a parent that does not fork, or is not ready, is stuck; fewer than workers wait."""


class Parents:
    """The processes of `nursery` that one fork server has, and who waits for them."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self._tree = Tree()
        self._dropped: set[str] = set()
        self._waiting: dict[frozenset[str], list[Found]] = {}
        self._forking: dict[int, tuple[Parent, Channel, Forked]] = {}
        self._number = 0
        self._spares = os.environ.get(SPARES_VARIABLE, "1").strip() != "0"
        self._due: dict[Parent, float] = {}

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
                log(f"no parent could be started: {error}")
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
            pid, ours = nursery.fork_parent(missing)
            parent = self._tree.add(steps[0])
            self._parent_started(parent, pid, self._server.loop.channel(ours))
        else:
            parent = self._tree.add(steps[0])
            message = {"fork": "parent", "imports": missing}
            self.fork(
                ancestor, message, lambda pid, channel: self._parent_started(parent, pid, channel)
            )
        if steps[0] != wanted:
            self._waiting.setdefault(steps[0], []).append(lambda _: self._continue(wanted))

    def _continue(self, wanted: frozenset[str]) -> None:
        current = wanted - self._dropped
        thens = self._waiting.pop(wanted, [])
        for then in thens:
            self.find(current, then)

    def _parent_started(self, parent: Parent, pid: int, channel: Channel | None) -> None:
        parent.pid = pid
        parent.channel = channel
        if channel is None:
            self._parent_ended(parent)
            return
        self._server.loop.watch(
            channel.fileno(), lambda: self._parent_spoke(parent), lambda _: self._end(parent)
        )

    def _end(self, parent: Parent) -> None:
        """End a parent whose state is in doubt; the models that it has forked live on."""
        if parent.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(parent.pid, signal.SIGKILL)
        self._parent_ended(parent)

    def _parent_spoke(self, parent: Parent) -> None:
        assert parent.channel is not None  # noqa: S101
        messages = parent.channel.heard()
        if messages is None:
            self._end(parent)
            return
        for message, _ in messages:
            if "forked" in message:
                self._has_forked(message["forked"], message["pid"])
            elif "written" in message:
                parent.written = message["written"]
                self._teach_spare(parent)
            elif "ended" in message:
                self._server.process_ended(message["ended"], message["status"])
            elif "spoiled" in message:
                log(f"importing {message['spoiled']} starts a thread: left to the models")
                self._dropped.add(message["spoiled"])
            elif "broken" in message:
                log(f"this runtime cannot be imported: {message['broken']}")
            elif "imported" in message:
                self._parent_is_ready(parent, message)

    def _parent_is_ready(self, parent: Parent, message: dict[str, Any]) -> None:
        parent.ready = True
        parent.own_ms = message["ms"]
        parent.failed = message["failed"]
        for name, reason in parent.failed.items():
            log(f"{name} was not preloaded: {reason}")
        log(f"a parent with {len(parent.imports)} imports is ready after {parent.own_ms:.0f} ms")
        for then in self._waiting.pop(parent.imports, []):
            then(parent)

    def _parent_ended(self, parent: Parent) -> None:
        if parent.channel is not None:
            self._server.loop.unwatch(parent.channel.fileno())
            parent.channel.close()
        self._tree.remove(parent)
        self._due.pop(parent, None)
        self.drop_spare(parent)
        for number, (asked, _, _) in list(self._forking.items()):
            if asked is parent:
                self._has_forked(number, 0)
        while parent.wanted:
            _, forked = parent.wanted.popleft()
            forked(0, None)
        waiting = [] if parent.ready else self._waiting.pop(parent.imports, [])
        if not waiting:
            return
        smaller = parent.imports - self._dropped
        if smaller != parent.imports:
            for then in waiting:
                self.find(smaller, then)
            return
        log("a parent ended before it was ready")
        if not os.path.exists(__file__):  # noqa: PTH110
            self._server.retire()
        for then in waiting:
            then(None)

    def fork_model(self, parent: Parent, forked: Forked, *, may_be_spare: bool) -> bool:
        """Have a model process forked, as `fork` does, or give the one that is forked already.

        Returns whether it is that one.
        """
        if parent.spare is None or not may_be_spare:
            self.fork(parent, {"fork": "model"}, forked)
            return False
        pid, channel = parent.spare
        parent.spare = None
        self._server.loop.unwatch(channel.fileno())
        forked(pid, channel)
        return True

    def keep_spare(self, parent: Parent) -> None:
        """Have a parent fork one process ahead soon, so that the next model need not wait."""
        if self._spares and parent.spare is None and not parent.is_sparing and parent.channel:
            self._due.setdefault(parent, time.monotonic() + SPARE_AFTER_S)

    def learn(self, parent: Parent, pid: int) -> None:
        """Have a parent note which pages one of its model processes has written to.

        Those that it forks ahead from then on have them copied while they wait.
        """
        if self._spares and parent.channel is not None:
            parent.lessons += 1
            parent.channel.send({"learn": pid, "known": parent.written})

    def _teach_spare(self, parent: Parent) -> None:
        if parent.spare is not None and parent.written:
            with contextlib.suppress(OSError):  # its end shows when it is read
                parent.spare[1].send({"written": parent.written})

    def until_spare_s(self) -> float:
        """Return the seconds until a process is to be forked ahead; infinity when none is."""
        return min(self._due.values(), default=math.inf) - time.monotonic()

    def fork_spares(self) -> None:
        """Have those parents fork ahead whose time has come."""
        now = time.monotonic()
        for parent in [one for one, due in self._due.items() if due <= now]:
            del self._due[parent]
            self._fork_spare(parent)

    def _fork_spare(self, parent: Parent) -> None:
        parent.is_sparing = True
        self.fork(
            parent,
            {"fork": "spare"},
            lambda pid, channel: self._spare_forked(parent, pid, channel),
        )

    def _spare_forked(self, parent: Parent, pid: int, channel: Channel | None) -> None:
        parent.is_sparing = False
        if channel is not None:
            parent.spare = (pid, channel)
            # It has nothing to say: what comes is its end.
            self._server.loop.watch(channel.fileno(), lambda: self.drop_spare(parent))
            self._teach_spare(parent)

    def drop_spare(self, parent: Parent) -> None:
        """End the process that a parent has forked ahead."""
        if parent.spare is not None:
            _, channel = parent.spare
            parent.spare = None
            self._server.loop.unwatch(channel.fileno())
            channel.close()

    def drop_spares(self) -> None:
        """End all processes that were forked ahead, and fork none."""
        self._due.clear()
        for parent in self._tree:
            self.drop_spare(parent)

    def fork(self, parent: Parent, message: dict[str, Any], forked: Forked) -> None:
        """Have a parent fork.

        ``forked`` gets the new process's id and our end of a channel to it; 0 and None when there
        is no process.
        """
        parent.wanted.append((message, forked))
        self._ask_for_more(parent)

    def _ask_for_more(self, parent: Parent) -> None:
        while parent.wanted and parent.forking < MAX_FORKS and parent.channel is not None:
            message, forked = parent.wanted.popleft()
            try:
                ours, theirs = nursery.pair()
            except OSError as error:
                log(f"no process can be forked: {error}")
                forked(0, None)
                continue
            self._number += 1
            if not parent.forking:
                parent.since = time.monotonic()
            parent.forking += 1
            self._forking[self._number] = (parent, self._server.loop.channel(ours), forked)
            with theirs:
                try:
                    parent.channel.send({**message, "number": self._number}, [theirs.fileno()])
                except OSError:
                    # It has ended, which shows on its channel in this turn or the next.
                    return

    def _has_forked(self, number: int, pid: int) -> None:
        parent, channel, forked = self._forking.pop(number)
        parent.forking -= 1
        parent.since = time.monotonic()
        if pid:
            forked(pid, channel)
        else:
            channel.close()
            forked(0, None)
        self._ask_for_more(parent)

    def end_unused(self, used: set[Parent | None], unused_s: float) -> None:
        """End the parents from which no process was forked for so long that still lives.

        Those whose imports another one of them has as well go first: what a parent has forked,
        parents among it, shares its memory.
        """
        now = time.monotonic()
        parents = list(self._tree)
        for parent in parents:
            if parent in used or parent.forking or parent.wanted or not parent.ready:
                parent.used_at = now
        for parent in parents:
            if any(parent.imports < other.imports for other in parents):
                parent.used_at = now
            elif now - parent.used_at >= unused_s:
                log(f"a parent with {len(parent.imports)} imports has no model: ends")
                self._parent_ended(parent)

    def end_stuck(self, now: float) -> None:
        """End parents that have been stopped, or wait for something: others may do better."""
        for parent in list(self._tree):
            waited_s = now - parent.since
            if not parent.ready and waited_s >= _IMPORT_S:
                log(f"a parent with {len(parent.imports)} imports was not ready in time: ends")
                self._end(parent)
            elif parent.forking and waited_s >= _FORK_S:
                log(f"a parent with {len(parent.imports)} imports does not fork: ends")
                self._end(parent)

    def kill(self) -> None:
        """End them all."""
        for parent in self._tree:
            if parent.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(parent.pid, signal.SIGKILL)
