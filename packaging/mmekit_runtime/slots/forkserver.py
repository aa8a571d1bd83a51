"""The fork server: gives workers slots of model processes, and mends what breaks.

It imports nothing and keeps everything: the template processes that fork (`templates`), the models
and their processes (`hosted_model`), and a duplicate of every connection, so that a model process
that dies is replaced behind connections that stay open.

Run as ``python -m mmekit_runtime.slots.forkserver SOCKET READY_FD`` by the first stub, or by a
server that wants one of its own (``--owner FD``: it ends when that descriptor does).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import sys
import time

from mmekit_runtime.slots import descriptors
from mmekit_runtime.slots.admission import PERIOD_S, Admission, MemoryChannel
from mmekit_runtime.slots.descriptors import Pipes
from mmekit_runtime.slots.hosted_model import HostedModel
from mmekit_runtime.slots.loop import Loop, log
from mmekit_runtime.slots.scaling import Cores
from mmekit_runtime.slots.slot import Slot
from mmekit_runtime.slots.templates import Templates

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mmekit_runtime.slots.channel import Channel
    from mmekit_runtime.slots.template_process import TemplateProcess

IDLE_S = 300.0
"""Seconds without any model after which a shared fork server ends, and a template process that has
none."""

_TURN_S = 5.0
_LEAST_TURN_S = 0.05
_ANSWERED_S = 0.2
_ACCEPTED_AT_ONCE = 16
"""Fewer than `descriptors.RESERVE`: the limit is looked at when a client has spoken."""


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

    Attributes
    ----------
    loop
        Tells what comes.
    pipes
        Into which workers print.
    templates
        What model processes are forked from.
    cores
        That its models may use.
    admission
        Of them to the memory.
    period_s
        The seconds over which one looks how busy processes are.
    dropped_paths
        Entries of sys.path that are this process's own and not a model's.
    site_environ
        Variables that a sitecustomize of the environment has set here, and would in a worker.
    """

    def __init__(self, path: str, key: str, owner: int | None, idle_s: float = IDLE_S) -> None:
        self.path = path
        self.loop = Loop()
        self.pipes = Pipes()
        self.templates = Templates(self.loop, self._process_exited, self._retire)
        self.cores = Cores()
        self.admission = Admission()
        self.period_s = _TURN_S
        self.site_environ = _site_environ()
        self._key = key
        self._idle_s = self._unused_s = idle_s
        self._look_s = min(_TURN_S, max(_LEAST_TURN_S, idle_s))
        self._next_look = self._next_memory_look = 0.0
        self._owner = owner
        self._models: dict[str, HostedModel] = {}
        self._departed: dict[int, HostedModel] = {}
        self._is_full = False
        self._idle_since = time.monotonic()
        self._ending = False
        self._has_stopped_listening = False
        self._spare = os.open(os.devnull, os.O_RDONLY)
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        self.dropped_paths = [*filter(None, inherited), os.getcwd()]  # noqa: PTH109

    # The loop.

    def run(self, ready: int) -> None:
        """Listen, say so on ``ready``, and serve until there is nobody to serve."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # One that was killed has left its address, at which bind() would fail.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # noqa: PTH108
        listener.bind(self.path)
        os.chmod(self.path, 0o600)  # noqa: PTH101
        # All workers of a server that starts with hundreds of models come at once.
        listener.listen(512)
        listener.setblocking(False)  # noqa: FBT003
        self.loop.watch(listener.fileno(), lambda: self._accept(listener))
        if self._owner is not None:
            self.loop.watch(self._owner, self._owner_is_readable)
        os.write(ready, b"1")
        os.close(ready)
        while not self._ending:
            self._turn()
        # In this order: another may take the address as soon as nobody listens there.
        self._stop_listening()
        listener.close()
        for model in list(self._models.values()):
            model.end("the fork server ends")
        self.templates.kill()

    def _retire(self) -> None:
        """Leave the address to another; serve on until the last model is gone."""
        log("the folder of this runtime is gone: the next worker starts another fork server")
        self._idle_s = 0.0
        self._stop_listening()

    def _stop_listening(self) -> None:
        if not self._has_stopped_listening:
            self._has_stopped_listening = True
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)  # noqa: PTH108

    def _turn(self) -> None:
        until_look = min(self._next_look, self._next_memory_look) - time.monotonic()
        until_look = min(until_look, self.templates.until_spare_s())
        self.loop.turn(min(max(0.0, until_look), self._look_s, self._idle_left()))
        self._reap()
        self.templates.fork_spares()
        now = time.monotonic()
        if now >= self._next_memory_look:
            self.admission.look(list(self._models.values()))
            self._next_memory_look = now + self.admission.period_s
            if self.admission.is_short:
                self.templates.drop_spares()
        if now >= self._next_look:
            self._next_look = now + self._look_s
            for model in list(self._models.values()):
                model.look(now)
            self.templates.end_unused(self._used_templates(), self._unused_s)
            self.templates.end_stuck(now)
        if self._idle_left() <= 0:
            log("nobody has used this fork server for a while")
            self._ending = True

    def _used_templates(self) -> set[TemplateProcess | None]:
        """Return those of awake models, and those that parked ones will need.

        A body that only parked models share is memory that nobody uses: of theirs, the libraries.
        """
        used: set[TemplateProcess | None] = set()
        for model in self._models.values():
            awake = [process.template for process in model.processes]
            used.update(awake)
            if not awake and model.template is not None:
                used.add(self.templates.without_body(model.template))
        return used

    def _idle_left(self) -> float:
        """Return the seconds until it ends because it has nothing to do."""
        if self._models or self._owner is not None:
            self._idle_since = time.monotonic()
            return _TURN_S
        return self._idle_since + self._idle_s - time.monotonic()

    def _owner_is_readable(self) -> None:
        assert self._owner is not None  # noqa: S101
        if not os.read(self._owner, 4096):
            self._ending = True

    def _reap(self) -> None:
        # Template processes that were forked from no other; the rest is reaped by its own parents.
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return

    # Clients.

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._reject_client(listener)
                return
            self._add_client(connection)

    def _add_client(self, connection: socket.socket) -> None:
        # The folder keeps others out; this holds even where somebody has changed its mode.
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("3i", credentials)
        if uid != os.getuid():
            log(f"a connection of user {uid} was refused")
            connection.close()
            return
        channel = self.loop.channel(connection)
        self.loop.watch(
            channel.fileno(),
            lambda: self._client_is_readable(channel),
            lambda reason: self._refuse(channel, [], reason),
        )

    def _reject_client(self, listener: socket.socket) -> None:
        """Take the last descriptor to end a connection: its client runs the plain engine then."""
        log("no descriptors are left")
        # Left in the queue, the connection would wake the loop in every turn.
        os.close(self._spare)
        with contextlib.suppress(OSError):
            listener.accept()[0].close()
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def _client_is_readable(self, channel: Channel) -> None:
        try:
            messages = channel.receive()
            first = next(messages, None) if messages is not None else None
        except OSError as error:
            log(f"a client sent garbage: {error}")
            messages = first = None
        if messages is None:
            self.loop.unwatch(channel.fileno())
            channel.close()
            return
        if first is None:
            return
        self.loop.unwatch(channel.fileno())
        message, fds = first
        if message.get("ask") == "memory" and message.get("key") == self._key:
            MemoryChannel(channel, self.loop, self.admission, self._look_at_memory)
            return
        # Before anything that takes long: a stub that hears nothing for ten seconds gives up.
        if message.get("acknowledge"):
            with contextlib.suppress(OSError):  # it has gone, which shows again
                channel.send({"heard": True})
        try:
            slot = self._slot(channel, message, fds)
        except Exception as error:  # noqa: BLE001  one client must not end the others' server
            log(f"a request for a slot failed: {type(error).__name__}: {error}")
            self._refuse(channel, fds, f"{type(error).__name__}: {error}")
        else:
            if slot is not None:
                self._assign(slot)

    def _refuse(self, channel: Channel, fds: list[int], reason: str) -> None:
        with contextlib.suppress(OSError):
            channel.send({"plain": reason})
        channel.close()
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _slot(self, channel: Channel, message: dict[str, Any], fds: list[int]) -> Slot | None:
        """Return the slot that a client asks for, or refuse it."""
        reason = None
        if message.get("key") != self._key:
            reason = "the fork server is for other libraries"
        elif len(fds) < message["fds"]:
            reason = "the fork server has no descriptors left"
        elif not descriptors.are_left(descriptors.RESERVE):
            limit = descriptors.descriptor_limit()
            reason = f"the limit of open files ({limit}, ulimit -Hn) is near"
            if not self._is_full:
                self._is_full = True
                log(f"workers get the plain engine from now on: {reason}")
        if reason is not None:
            self._refuse(channel, fds, reason)
            return None
        return Slot(channel, message, fds, self.pipes)

    def _assign(self, slot: Slot) -> None:
        """Give a slot to its model."""
        model = self._models.get(slot.identity)
        if model is None or model.ended:
            model = HostedModel(self, slot)
            self._models[slot.identity] = model
            if model.parking.after_s:
                self._look_s = max(_LEAST_TURN_S, min(self._look_s, model.parking.after_s / 2))
                self._next_look = min(self._next_look, time.monotonic() + self._look_s)
        model.add(slot)

    def forget(self, model: HostedModel) -> None:
        """Forget a model that has no slots any more."""
        self.admission.forget(model)
        if self._models.get(model.identity) is model:
            del self._models[model.identity]

    # What models want.

    def has_departed(self, pid: int, model: HostedModel) -> None:
        """Have a model told how its process ended, once that is known."""
        self._departed[pid] = model

    def _process_exited(self, pid: int, status: int) -> None:
        model = self._departed.pop(pid, None)
        if model is not None:
            model.process_ended(pid, status)

    def look_at_models_soon(self) -> None:
        """Look at the models when one that has just become ready has answered, most likely."""
        self._next_look = min(self._next_look, time.monotonic() + _ANSWERED_S)

    def look_at_memory_soon(self) -> None:
        """Look at the memory in this turn, if somebody waits for it."""
        if self.admission.period_s < PERIOD_S:
            self._look_at_memory()

    def _look_at_memory(self) -> None:
        self._next_memory_look = 0.0

    def look_at_models_in(self, seconds: float) -> None:
        """Look at the models again in so many seconds at the latest."""
        self._next_look = min(self._next_look, time.monotonic() + seconds)


def _site_environ() -> dict[str, str]:
    # The kernel keeps there what the process was started with, whatever has been set since.
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
        inherited = dict(item.partition(b"=")[::2] for item in file.read().split(b"\0"))
    return {
        os.fsdecode(name): os.fsdecode(value)
        for name, value in os.environb.items()
        if inherited.get(name) != value
    }


def main() -> int:
    """Run a fork server; the arguments are in the module's docstring."""
    path, ready = sys.argv[1], int(sys.argv[2])
    owner = int(sys.argv[4]) if len(sys.argv) > 4 else None  # noqa: PLR2004
    key = bytes.fromhex(os.environ.pop("MMEKIT_SLOTS_KEY", "")).decode("utf-8", "surrogateescape")
    idle_s = float(os.environ.get("MMEKIT_SLOTS_IDLE_S", IDLE_S))
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    descriptors.raise_descriptor_limit()
    # What lies beside the runtime is one model's own; the last entry is that model's folder.
    for entry in (os.getcwd(), os.environ.get("PYTHONPATH", "").rpartition(os.pathsep)[2]):  # noqa: PTH109
        if entry in sys.path:
            sys.path.remove(entry)
    server = ForkServer(path, key, owner, idle_s)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.run(ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
