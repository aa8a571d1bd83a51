"""A model's processes and slots, as the fork server keeps them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from _socket import MSG_DONTWAIT, MSG_PEEK
from collections import deque

from mmekit_runtime.slots import nursery
from mmekit_runtime.slots.channel import Channel
from mmekit_runtime.slots.ledger import IDLE, MAX_SLOTS, READING, SENDING, TAKEN
from mmekit_runtime.slots.manifest import read_processes
from mmekit_runtime.slots.slot import Process, Slot
from mmekit_runtime.wire import Answer, encode_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from mmekit_runtime.slots.forkserver import ForkServer
    from mmekit_runtime.slots.tree import Parent

MAX_DEATHS = 3
DEATH_WINDOW_S = 60.0
MAX_FORK_ATTEMPTS = 3


class Host:
    """One model: its processes, its slots, and what is done when one of them ends.

    Attributes
    ----------
    ended
        Whether its last slot has ended: a further worker gets a model process of another host.
    processes
        Those that answer, or are about to.
    """

    def __init__(
        self, server: ForkServer, identity: str, first: Slot, imports: frozenset[str]
    ) -> None:
        self.identity = identity
        self.ended = False
        self._server = server
        self._imports = imports
        self._argv, self._environ, self._cwd = first.argv, first.environ, first.cwd
        self._wanted_processes = read_processes(first.model_dir)
        self.processes: list[Process] = []
        self._slots: list[Slot] = []
        self._init: dict[str, str] | None = None
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._departed: set[int] = set()
        self._closing: list[Slot] = []

    # Slots.

    def add(self, slot: Slot) -> None:
        """Give a slot to the process that has the fewest, or to a new one."""
        self._slots.append(slot)
        self._server.watch(slot.lifeline.fileno(), lambda: self._lifeline_spoke(slot))
        if len(self.processes) < self._wanted_processes:
            self._start_process([slot])
            return
        process = min(self.processes, key=lambda one: len(one.slots))
        if len(process.slots) >= MAX_SLOTS:
            self._end_slot(slot, 1)
            return
        self._assign(slot, process)
        if process.started:
            self._confirm(slot)
        if process.ready and not slot.ended:
            self._open(slot)

    def _assign(self, slot: Slot, process: Process) -> None:
        slot.process = process
        slot.number = process.free_number()
        process.slots.append(slot)
        process.ledger.states[slot.number] = IDLE

    def _confirm(self, slot: Slot) -> None:
        """Tell whoever asked that there is a slot."""
        assert slot.process is not None  # noqa: S101
        if slot.is_stub and slot.confirmed:
            return
        slot.confirmed = True
        reply = {"slot": slot.number, "pid": slot.process.pid}
        fds = [] if slot.is_stub else [slot.process.ledger_fd]
        try:
            slot.lifeline.send(reply, fds)
        except OSError:
            self._end_slot(slot, 1)

    def _open(self, slot: Slot) -> None:
        """Have the process answer on the slot's connection, once there is one."""
        if slot.connection is not None:
            self._hand_over(slot)
            return
        if slot.listener is None:
            try:
                slot.listen()
            except OSError as error:
                slot.print(f"ERROR::mmekit: {slot.socket_name}: {error}\n".encode())
                self._end_slot(slot, 1)
                return
            self._server.watch(slot.listener.fileno(), lambda: self._accept(slot))  # type: ignore[attr-defined]

    def _accept(self, slot: Slot) -> None:
        assert slot.listener is not None  # noqa: S101
        try:
            slot.connection, _ = slot.listener.accept()
        except OSError as error:
            slot.print(f"ERROR::mmekit: {slot.socket_name}: {error}\n".encode())
            self._end_slot(slot, 1)
            return
        self._server.unwatch(slot.listener.fileno())
        slot.listener.close()
        slot.listener = None
        if slot.process and slot.process.ready:
            self._hand_over(slot)

    def _hand_over(self, slot: Slot) -> None:
        assert slot.process is not None  # noqa: S101
        assert slot.connection is not None  # noqa: S101
        fds = [slot.connection.fileno(), slot.lifeline.fileno(), slot.stdout, slot.stderr]
        with contextlib.suppress(OSError):  # its death shows on the channel
            slot.process.channel.send({"slot": slot.number}, fds)

    def _lifeline_spoke(self, slot: Slot) -> None:
        """End a slot whose stub was killed or whose server let go."""
        try:
            data = slot.lifeline.sock.recv(4096)
        except OSError:
            data = b""
        if slot.is_stub and data:
            return
        process = slot.process
        busy = (TAKEN, SENDING)
        stuck = process is not None and not process.dead and process.state(slot) in busy
        self._end_slot(slot, 0)
        if stuck and process is not None and process.slots:
            # It was stopped in the middle of a request: the process is stuck in it.
            process.kill()

    def _end_slot(self, slot: Slot, code: int) -> None:
        if slot.ended or slot not in self._slots:
            return
        self._forget(slot)
        process = slot.process
        if process is not None and slot in process.slots:
            process.slots.remove(slot)
            if not process.dead:
                with contextlib.suppress(OSError):
                    process.channel.send({"drop": slot.number})
            if not process.slots:
                process.kill()
                if not slot.is_stub and not process.dead:
                    # The answer means that the memory is free.
                    slot.ended = True
                    self._closing.append(slot)
                    return
        slot.close(code)
        self._finish()

    def _forget(self, slot: Slot) -> None:
        self._slots.remove(slot)
        self.ended = not self._slots
        self._server.unwatch(slot.lifeline.fileno())
        if slot.listener is not None:
            self._server.unwatch(slot.listener.fileno())

    def _finish(self) -> None:
        if not self._slots and not self.processes:
            self._server.forget(self)

    def end(self, reason: str) -> None:
        """End the model's slots and processes."""
        for slot in list(self._slots):
            slot.print(f"ERROR::mmekit: {reason}\n".encode())
            self._end_slot(slot, 1)
        for process in self.processes:
            process.kill()

    # Processes.

    def _start_process(self, slots: list[Slot], attempt: int = 1) -> None:
        try:
            ours, theirs = nursery.pair()
            ledger_fd, ledger = self._server.new_ledger()
        except OSError as error:
            self._refuse(slots, f"no process could be started: {error}")
            return
        process = Process(Channel(ours), ledger, ledger_fd, attempt)
        self.processes.append(process)
        for slot in slots:
            self._assign(slot, process)
        self._server.parents.find(
            self._imports, lambda parent: self._parent_found(parent, process, theirs)
        )

    def _parent_found(self, parent: Parent | None, process: Process, theirs: socket.socket) -> None:
        if parent is None or not process.slots:
            theirs.close()
            if any(slot.confirmed for slot in process.slots):
                self._not_forked(process)
            else:
                self._discard(process)
                self._refuse(process.slots, "no parent process could be started")
            return
        began = time.monotonic()
        process.parent = parent
        slot = process.slots[0]
        self._server.watch(process.channel.fileno(), lambda: self._process_spoke(process))

        def forked(pid: int) -> None:
            if pid == 0:
                self._not_forked(process)
                return
            process.pid = pid
            process.fork_ms = (time.monotonic() - began) * 1000
            process.started = True
            if process.killed:
                process.kill()
            with contextlib.suppress(OSError):
                process.channel.send(self._start_message(process, parent, began))
            for one in list(process.slots):
                # After a death a stub knows already; a server learns the new process.
                self._confirm(one)
            if process.silent:
                self._process_died(process)

        with theirs:
            fds = [theirs.fileno(), process.ledger_fd, slot.stdout, slot.stderr]
            self._server.parents.fork(parent, {"fork": "model"}, fds, forked)

    def _not_forked(self, process: Process) -> None:
        """Try again with another parent: this one has ended, or cannot fork."""
        self._discard(process)
        if process.slots and process.attempt < MAX_FORK_ATTEMPTS:
            self._start_process(process.slots, process.attempt + 1)
        else:
            self._refuse(process.slots, "no process could be forked")

    def _refuse(self, slots: list[Slot], reason: str) -> None:
        """Leave slots to the plain engine, or end those that have been given already."""
        for slot in list(slots):
            slot.process = None
            if slot.confirmed:
                slot.print(f"ERROR::mmekit: {reason}\n".encode())
                self._end_slot(slot, 1)
            else:
                self._forget(slot)
                slot.refuse(reason)
        self._finish()

    def _start_message(self, process: Process, parent: Parent, began: float) -> dict[str, Any]:
        return {
            "argv": self._argv,
            "environ": self._environ,
            "cwd": self._cwd,
            "site_environ": self._server.site_environ,
            "dropped_paths": self._server.dropped_paths,
            "init": self._init,
            "times": {
                "imports": sorted(parent.imports - set(nursery.BASE_IMPORTS)),
                "parent_ms": (began - process.asked_at) * 1000,
                "fork_ms": process.fork_ms,
            },
        }

    def _process_spoke(self, process: Process) -> None:
        try:
            received = process.channel.receive()
            messages = None if received is None else list(received)
        except ConnectionError:
            messages = None
        except OSError as error:
            # Nothing that it says can be trusted any more; its end shows here next.
            self._server.log(f"model process {process.pid} is ended: {error}")
            process.kill()
            return
        if messages is None:
            if process.started:
                self._process_died(process)
            else:
                # What became of it is known when its parent has answered, or ended.
                process.silent = True
                self._server.unwatch(process.channel.fileno())
            return
        for message, _ in messages:
            self._take_message(process, message)

    def _take_message(self, process: Process, message: dict[str, Any]) -> None:
        if "ready" in message:
            process.ready = True
            for slot in list(process.slots):
                self._open(slot)
        elif "initialised" in message:
            process.initialised = True
            self._init = message["initialised"]
        elif "closed" in message:
            for slot in list(process.slots):
                if slot.number == message["closed"]:
                    self._end_slot(slot, 1)

    def process_ended(self, pid: int, status: int) -> None:
        """Note how a process ended, for the log."""
        if pid in self._departed:
            self._departed.remove(pid)
            for slot in self._slots[:1]:
                line = f"WARN::mmekit: model process {pid} ended: {_describe(status)}\n"
                slot.print(line.encode())

    def _discard(self, process: Process) -> None:
        process.dead = True
        self.processes.remove(process)
        self._server.unwatch(process.channel.fileno())
        process.channel.close()
        process.ledger.close()
        os.close(process.ledger_fd)
        for slot in [one for one in self._closing if one.process is process]:
            self._closing.remove(slot)
            slot.close(0)

    def _process_died(self, process: Process) -> None:
        states = {slot: process.state(slot) for slot in process.slots}
        was_ready, was_initialised = process.ready, process.initialised or self._init is not None
        self._discard(process)
        if not process.killed:
            self._departed.add(process.pid)
        if not process.slots:
            self._finish()
            return
        if not was_ready or not was_initialised:
            # model.py could not be imported, or the load itself ended the process: no second try.
            self._fail(process, states, "the model process ended while it loaded the model")
            return
        now = time.monotonic()
        if len(self._deaths) == MAX_DEATHS and now - self._deaths[0] < DEATH_WINDOW_S:
            reason = f"the model process died {MAX_DEATHS + 1} times within {DEATH_WINDOW_S:.0f} s"
            before = ", ".join(f"{now - one:.1f}" for one in self._deaths)
            for slot in process.slots:
                slot.given_up = f"{reason} (now and {before} s ago)"
            self._fail(process, states, f"{reason}: the model is given up")
            return
        self._deaths.append(now)
        survivors = []
        for slot in list(process.slots):
            slot.process = None
            if self._repair(slot, states[slot], "the model process died in this request"):
                survivors.append(slot)
        process.slots.clear()
        if survivors:
            self._start_process(survivors)
        else:
            self._finish()

    def _fail(self, process: Process, states: dict[Slot, int], reason: str) -> None:
        for slot in list(process.slots):
            slot.print(f"ERROR::mmekit: {reason}\n".encode())
            # A server hears why with the end of the slot: between the two it would send more.
            if slot.is_stub or not slot.given_up:
                self._answer_for_the_dead(slot, states[slot], reason)
            process.slots.remove(slot)
            self._end_slot(slot, 1)
        self._finish()

    def _repair(self, slot: Slot, state: int, reason: str) -> bool:
        """Answer the request that died with the process; False when the slot cannot go on."""
        if state in (READING, SENDING):
            self._end_slot(slot, 1)
            return False
        self._answer_for_the_dead(slot, state, reason)
        return True

    def _answer_for_the_dead(self, slot: Slot, state: int, reason: str) -> None:
        if state != TAKEN or slot.connection is None or _has_bytes(slot.connection):
            # Bytes that are still there are the request itself: the successor takes it.
            return
        content = {"code": 503, "message": reason, "error": reason}
        answer = Answer(
            503,
            reason,
            (("Content-Type", "application/json"),),
            ((None, json.dumps(content).encode()),),
        )
        with contextlib.suppress(OSError):
            slot.connection.sendall(encode_answer(answer))


def _has_bytes(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0)
    if not readable:
        return False
    try:
        return bool(connection.recv(1, MSG_PEEK | MSG_DONTWAIT))
    except OSError:
        return False


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"exit code {os.WEXITSTATUS(status)}"
