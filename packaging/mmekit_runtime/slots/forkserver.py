"""The fork server: gives workers slots of model processes, and mends what breaks.

It imports nothing and keeps everything: the parents that fork (`nursery`, `tree`), the model
processes (`hosts`), and a duplicate of every connection, so that a model process that dies is
replaced behind connections that stay open.

Run as ``python -m mmekit_runtime.slots.forkserver SOCKET READY_FD`` by the first stub, or by a
server that wants one of its own (``--owner FD``: it ends when that descriptor does).
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time

from mmekit_runtime.slots import nursery
from mmekit_runtime.slots.channel import Channel
from mmekit_runtime.slots.hosts import Host
from mmekit_runtime.slots.ledger import Ledger
from mmekit_runtime.slots.manifest import read_preload
from mmekit_runtime.slots.slot import Process, Slot
from mmekit_runtime.slots.tree import Parent, Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IDLE_S = 300.0
"""Seconds without any model after which a shared fork server ends."""


def log(text: str) -> None:
    """Write a line to the fork server's own log."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201


class ForkServer:
    """The loop and what it keeps.

    Parameters
    ----------
    path
        Where it listens.
    key
        What its clients must have in common (`keys.sharing_key`).
    owner
        A descriptor at whose end it ends too; None for one that many servers share.
    """

    def __init__(self, path: str, key: str, owner: int | None, idle_s: float = IDLE_S) -> None:
        self.path = path
        self._key = key
        self._idle_s = idle_s
        self._owner = owner
        self._selector = selectors.DefaultSelector()
        self._tree = Tree()
        self._dropped: set[str] = set()
        self._hosts: dict[str, Host] = {}
        self._forking: dict[int, Callable[[int], None]] = {}
        self._waiting: dict[frozenset[str], list[Callable[[Parent | None], None]]] = {}
        self._number = 0
        self._idle_since = time.monotonic()
        self._ending = False
        self._dropped_paths = [
            path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path
        ] + [""]

    # The loop.

    def run(self, ready: int) -> None:
        """Listen, say so on ``ready``, and serve until there is nobody to serve."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # noqa: PTH108
        listener.bind(self.path)
        os.chmod(self.path, 0o600)  # noqa: PTH101
        listener.listen(512)
        listener.setblocking(False)  # noqa: FBT003
        self.watch(listener.fileno(), lambda: self._accept(listener))
        if self._owner is not None:
            self.watch(self._owner, self._owner_spoke)
        os.write(ready, b"1")
        os.close(ready)
        while not self._ending:
            self._turn()
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # noqa: PTH108
        for host in list(self._hosts.values()):
            host.end("the fork server ends")
        for parent in self._tree:
            if parent.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(parent.pid, signal.SIGKILL)

    def watch(self, fd: int, react: Callable[[], None]) -> None:
        """Call ``react`` whenever ``fd`` can be read."""
        self._selector.register(fd, selectors.EVENT_READ, react)

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    def _turn(self) -> None:
        for key, _ in self._selector.select(5.0):
            # An earlier event of this turn may have closed it.
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        self._reap()
        if self._hosts or self._waiting:
            self._idle_since = time.monotonic()
        elif self._owner is None and time.monotonic() - self._idle_since > self._idle_s:
            log("nobody has used this fork server for a while")
            self._ending = True

    def _owner_spoke(self) -> None:
        assert self._owner is not None  # noqa: S101
        if not os.read(self._owner, 4096):
            self._ending = True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return

    # Clients.

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("3i", credentials)
        if uid != os.getuid():
            log(f"a connection of user {uid} was refused")
            connection.close()
            return
        connection.setblocking(True)  # noqa: FBT003
        channel = Channel(connection)
        self.watch(channel.fileno(), lambda: self._client_spoke(channel))

    def _client_spoke(self, channel: Channel) -> None:
        try:
            messages = channel.receive()
            first = next(messages, None) if messages is not None else None
        except OSError as error:
            log(f"a client sent garbage: {error}")
            messages = first = None
        if messages is None:
            self.unwatch(channel.fileno())
            channel.close()
            return
        if first is None:
            return
        self.unwatch(channel.fileno())
        message, fds = first
        try:
            self._ask(channel, message, fds)
        except Exception as error:  # noqa: BLE001  one client must not end the others' server
            log(f"a request for a slot failed: {type(error).__name__}: {error}")
            self._refuse(channel, fds, f"{type(error).__name__}: {error}")

    def _refuse(self, channel: Channel, fds: list[int], reason: str) -> None:
        with contextlib.suppress(OSError):
            channel.send({"plain": reason})
        channel.close()
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _ask(self, channel: Channel, message: dict[str, Any], fds: list[int]) -> None:
        if message.get("key") != self._key:
            self._refuse(channel, fds, "the fork server is for other libraries")
            return
        slot = Slot(channel, message, fds)
        identity = slot.model_identity
        host = self._hosts.get(identity)
        if host is None or host.ended:
            wanted = frozenset(read_preload(slot.model_dir)) - self._dropped
            host = Host(self, identity, slot, wanted)
            self._hosts[identity] = host
        host.add(slot)

    def forget(self, host: Host) -> None:
        """Forget a model that has no slots any more."""
        if self._hosts.get(host.identity) is host:
            del self._hosts[host.identity]

    # Parents.

    def with_parent(self, wanted: frozenset[str], then: Callable[[Parent | None], None]) -> None:
        """Call ``then`` with a ready parent that has these imports, None when there can be none."""
        wanted = (wanted | frozenset(nursery.BASE_IMPORTS)) - self._dropped
        exact = self._tree.exact(wanted)
        if exact is not None and exact.ready:
            then(exact)
            return
        waiting = self._waiting.setdefault(wanted, [])
        waiting.append(then)
        if exact is None and len(waiting) == 1:
            self._grow(wanted)

    def _grow(self, wanted: frozenset[str]) -> None:
        base = frozenset(nursery.BASE_IMPORTS) - self._dropped
        ancestor, steps = self._tree.plan(wanted)
        if ancestor is None:
            steps = [base, *(step for step in steps if step != base)]
        elif not ancestor.ready:
            self.with_parent(ancestor.imports, lambda _: self._continue(wanted))
            return
        parent = self._tree.add(steps[0])
        order = [name for name in (*nursery.BASE_IMPORTS, *sorted(wanted)) if name in steps[0]]
        missing = [name for name in order if ancestor is None or name not in ancestor.imports]
        if ancestor is None:
            pid, channel = nursery.fork_parent(missing)
            self._parent_started(parent, pid, channel)
        else:
            ours, theirs = nursery.pair()
            assert ancestor.channel is not None  # noqa: S101
            self._fork(
                ancestor,
                {"fork": "parent", "imports": missing},
                [theirs.detach()],
                lambda pid: setattr(parent, "pid", pid),
            )
            self._parent_started(parent, 0, Channel(ours))
        if steps[0] != wanted:
            self._waiting.setdefault(steps[0], []).append(lambda _: self._continue(wanted))

    def _continue(self, wanted: frozenset[str]) -> None:
        current = wanted - self._dropped
        thens = self._waiting.pop(wanted, [])
        for then in thens:
            self.with_parent(current, then)

    def _parent_started(self, parent: Parent, pid: int, channel: Channel) -> None:
        parent.pid = pid
        parent.channel = channel
        self.watch(channel.fileno(), lambda: self._parent_spoke(parent))

    def _parent_spoke(self, parent: Parent) -> None:
        assert parent.channel is not None  # noqa: S101
        try:
            messages = parent.channel.receive()
        except OSError:
            messages = None
        if messages is None:
            self._parent_ended(parent)
            return
        for message, _ in messages:
            if "forked" in message:
                then = self._forking.pop(message["forked"], None)
                if then:
                    then(message["pid"])
            elif "ended" in message:
                self._process_ended(message["ended"], message["status"])
            elif "spoiled" in message:
                log(f"importing {message['spoiled']} starts a thread: left to the models")
                self._dropped.add(message["spoiled"])
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
        assert parent.channel is not None  # noqa: S101
        self.unwatch(parent.channel.fileno())
        parent.channel.close()
        self._tree.remove(parent)
        waiting = self._waiting.pop(parent.imports, [])
        if not waiting:
            return
        smaller = parent.imports - self._dropped
        if smaller != parent.imports:
            for then in waiting:
                self.with_parent(smaller, then)
            return
        log("a parent ended before it was ready")
        for then in waiting:
            then(None)

    # Model processes.

    def fork_process(
        self, parent: Parent, process: Process, fds: list[int], then: Callable[[int], None]
    ) -> None:
        """Have a parent fork a model process; ``fds`` are closed here."""
        self._fork(parent, {"fork": "model"}, fds, then)
        assert process.channel is not None  # noqa: S101

    def _fork(
        self,
        parent: Parent,
        message: dict[str, Any],
        fds: list[int],
        then: Callable[[int], None],
    ) -> None:
        self._number += 1
        self._forking[self._number] = then
        assert parent.channel is not None  # noqa: S101
        try:
            parent.channel.send({**message, "number": self._number}, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _process_ended(self, pid: int, status: int) -> None:
        for host in list(self._hosts.values()):
            host.process_ended(pid, status)

    @property
    def dropped_paths(self) -> list[str]:
        """Entries of sys.path that are this process's own and not a model's."""
        return self._dropped_paths

    def new_ledger(self) -> tuple[int, Ledger]:
        """Return a descriptor and a mapping of a new ledger."""
        fd = Ledger.create()
        return fd, Ledger(fd)


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as this user may have: a slot needs up to five."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    """Run a fork server; the arguments are in the module's docstring."""
    path, ready = sys.argv[1], int(sys.argv[2])
    owner = int(sys.argv[4]) if len(sys.argv) > 4 else None  # noqa: PLR2004
    key = bytes.fromhex(os.environ.pop("MMEKIT_SLOTS_KEY", "")).decode("utf-8", "surrogateescape")
    idle_s = float(os.environ.get("MMEKIT_SLOTS_IDLE_S", IDLE_S))
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise_descriptor_limit()
    server = ForkServer(path, key, owner, idle_s)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.run(ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
