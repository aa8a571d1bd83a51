"""How a model gets a process: a parent with its libraries is found, and forks."""

from __future__ import annotations

import time

from mmekit_runtime.slots import nursery
from mmekit_runtime.slots.ledger import LedgerFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mmekit_runtime.slots.channel import Channel
    from mmekit_runtime.slots.hosts import Host
    from mmekit_runtime.slots.processes import Process
    from mmekit_runtime.slots.tree import Parent

MAX_ATTEMPTS = 3


class Birth:
    """One process of a model on its way.

    Parameters
    ----------
    host
        The model; it is told `started` or `not_started`.
    process
        What it will be; whether it has slots says whether it is still wanted.
    """

    def __init__(self, host: Host, process: Process) -> None:
        self._host = host
        self._process = process
        self._began = 0.0

    def begin(self) -> None:
        """Look for a parent."""
        server = self._host.server
        server.parents.find(self._host.imports, self._host.guarded(self._parent_found))

    def _parent_found(self, parent: Parent | None) -> None:
        process = self._process
        if parent is None:
            again = any(slot.confirmed for slot in process.slots)
            self._fail("no parent process could be started", again=again)
        elif not process.is_wanted:
            self._host.not_started(process, "it is not wanted any more")
        else:
            self._began = time.monotonic()
            process.parent = parent
            forked = self._host.guarded(self._forked)
            process.was_spare = self._host.server.parents.fork_model(
                parent, forked, may_be_spare=process.may_be_spare
            )

    def _forked(self, pid: int, channel: Channel | None) -> None:
        process = self._process
        if channel is None:
            self._fail("no process could be forked", again=True)
            return
        if not process.is_wanted:
            channel.close()  # which ends it
            self._host.not_started(process, "it is not wanted any more")
            return
        try:
            ledger = LedgerFile()
        except OSError as error:
            channel.close()
            self._fail(f"no process could be started: {error}", again=False)
            return
        process.fork_ms = (time.monotonic() - self._began) * 1000
        process.started(pid, channel, ledger)
        process.tell(self._start_message(), (ledger.fd, *self._host.streams()))
        self._host.started(process)

    def _fail(self, reason: str, *, again: bool) -> None:
        """Try again with another parent, this one having ended or not being able to fork."""
        process = self._process
        if again and process.is_wanted and process.attempt < MAX_ATTEMPTS:
            process.attempt += 1
            self.begin()
        else:
            self._host.not_started(process, reason)

    def _start_message(self) -> dict[str, Any]:
        host, process = self._host, self._process
        parent = process.parent
        assert parent is not None  # noqa: S101
        return {
            "argv": host.argv,
            "environ": host.environ,
            "cwd": host.cwd,
            "site_environ": host.server.site_environ,
            "dropped_paths": host.server.dropped_paths,
            "init": host.init,
            "quiet": bool(host.parking.since) or process.is_further,
            "times": {
                "imports": sorted(parent.imports - set(nursery.BASE_IMPORTS)),
                "parent_ms": (self._began - process.asked_at) * 1000,
                "fork_ms": process.fork_ms,
            },
        }
