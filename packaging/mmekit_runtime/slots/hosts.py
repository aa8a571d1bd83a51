"""A model's slots and processes, as the fork server keeps them."""

from __future__ import annotations

import contextlib
import functools
import time

from mmekit_runtime.slots import descriptors
from mmekit_runtime.slots.births import Birth
from mmekit_runtime.slots.healing import (
    DEATH_WINDOW_S,
    MAX_DEATHS,
    Deaths,
    answer_for_the_dead,
    describe,
    refuse,
)
from mmekit_runtime.slots.ledger import BEGUN, MAX_SLOTS, READING, SENDING, YIELDING
from mmekit_runtime.slots.loop import log
from mmekit_runtime.slots.manifest import (
    read_concurrency,
    read_processes,
    read_required_bytes,
)
from mmekit_runtime.slots.parking import MIB, Parking, first_byte
from mmekit_runtime.slots.processes import STUCK_S, Process
from mmekit_runtime.slots.scaling import Scaling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mmekit_runtime.slots.forkserver import ForkServer
    from mmekit_runtime.slots.slot import Slot
    from mmekit_runtime.slots.tree import Parent

_NOW, _NO_MEMORY = 503, 507
"""A request that may be repeated; a load for which there is no memory, by SageMaker's contract."""


class Host:
    """One model: its processes, its slots, and what is done when one of them ends.

    Attributes
    ----------
    imports, argv, environ, cwd, init
        What its processes are forked from, and start with; ``init`` is what the model was loaded
        with, None before that.
    ended
        Whether its last slot has ended: a further worker gets a model process of another host.
    processes
        Those that answer, or are about to; none while the model is parked.
    parking
        Whether it is parked, and when it will be.
    parent
        From which its last process was forked.
    """

    def __init__(self, server: ForkServer, first: Slot, imports: frozenset[str]) -> None:
        self.server = server
        self.identity = first.identity
        self.imports = imports
        self.argv, self.environ, self.cwd = first.argv, first.environ, first.cwd
        self.init: dict[str, str] | None = None
        self.ended = False
        self.processes: list[Process] = []
        self._required = read_required_bytes(first.model_dir)
        self._scaling = Scaling(read_processes(first.model_dir))
        self._concurrency = read_concurrency(first.environ)
        self._moves = 0
        self._slots: list[Slot] = []
        self.parking = Parking(first.model_dir, first.environ)
        self.parent: Parent | None = None
        self._deaths = Deaths()
        self._closing: list[Slot] = []
        self._most_slots = _most_slots()

    def guarded(self, act: Callable[..., None]) -> Callable[..., None]:
        """Return what does the same, and ends the model when that fails unexpectedly."""

        @functools.wraps(act)
        def guarded(*arguments: Any) -> None:
            try:
                act(*arguments)
            except Exception as error:  # noqa: BLE001  its state is in doubt, the others' is not
                import traceback

                log(f"a model is ended:\n{traceback.format_exc()}")
                self._abandon(f"the fork server failed: {type(error).__name__}: {error}")

        return guarded

    def _watch(self, fd: int, act: Callable[..., None], *arguments: Any) -> None:
        self.server.loop.watch(fd, functools.partial(self.guarded(act), *arguments))

    # Slots.

    def add(self, slot: Slot) -> None:
        """Give a slot to the process that has the fewest, or to a new one."""
        self._slots.append(slot)
        self.guarded(self._add)(slot)

    def _add(self, slot: Slot) -> None:
        self._watch(slot.lifeline.fileno(), self._lifeline_spoke, slot)
        if not self.processes:
            if not self.parking.since and self.server.room.fits(self.needed):
                self.enter()
                return
            # The request wakes it, be it the one that loads it: others may have to park first.
            self._confirm(slot)
            self._open(slot)
            return
        plays = len(self.processes) < self._concurrency and self.server.room.fits(self.needed)
        if plays or len(self.processes) < self._scaling.at_start:
            self._start_process([slot])
            return
        process = min(self.processes, key=lambda one: len(one.slots))
        if len(process.slots) >= self._most_slots:
            self._refuse([slot], f"the model has {len(process.slots)} worker slots already")
            return
        self._fill([slot])

    def _confirm(self, slot: Slot) -> None:
        """Tell whoever asked that there is a slot, and a server also which process answers."""
        if slot.is_stub and slot.confirmed:
            return
        slot.confirmed = True
        process = slot.process
        reply = {
            "slot": slot.number,
            "pid": 0 if process is None else process.pid,
            "parking": self.parking.figures(),
        }
        has_ledger = process is not None and process.ledger is not None and not slot.is_stub
        fds = [process.ledger.fd] if has_ledger else []  # type: ignore[union-attr]
        try:
            slot.lifeline.send(reply, fds)
        except OSError:
            self._end_slot(slot, 1)

    def _open(self, slot: Slot) -> None:
        """Have the slot's connection answered, once there is one."""
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
            assert slot.listener is not None  # noqa: S101
            self._watch(slot.listener.fileno(), self._accept, slot)

    def _accept(self, slot: Slot) -> None:
        assert slot.listener is not None  # noqa: S101
        try:
            slot.connection, _ = slot.listener.accept()
        except OSError as error:
            slot.print(f"ERROR::mmekit: {slot.socket_name}: {error}\n".encode())
            self._end_slot(slot, 1)
            return
        self.server.loop.unwatch(slot.listener.fileno())
        slot.listener.close()
        slot.listener = None
        if slot.process is None or slot.process.ready:
            self._hand_over(slot)

    def _hand_over(self, slot: Slot) -> None:
        """Leave a connection to the process; without one, watch it."""
        assert slot.connection is not None  # noqa: S101
        if slot.process is None:
            self._watch(slot.connection.fileno(), self._connection_spoke, slot)
            return
        fds = (slot.connection.fileno(), slot.lifeline.fileno(), slot.stdout, slot.stderr)
        slot.process.tell({"slot": slot.number}, fds)

    def _lifeline_spoke(self, slot: Slot) -> None:
        """End a slot whose stub was killed or whose server let go."""
        try:
            data = slot.lifeline.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if slot.is_stub and data:
            return
        process = slot.process
        state = 0 if process is None or process.dead else process.state(slot)
        self._end_slot(slot, 0)
        if process is None or not process.slots:
            return
        if state == BEGUN:
            # It was stopped in the middle of a request: the process is stuck in it.
            process.kill()
        elif state == YIELDING:
            # A stream that nobody wants any more is dropped after this piece, if that has an end.
            process.suspect = slot.number
            self.server.look_in(STUCK_S)

    def _end_slot(self, slot: Slot, code: int) -> None:
        if slot.ended or slot not in self._slots:
            return
        self._forget(slot)
        process = slot.process
        if process is not None and slot in process.slots:
            process.slots.remove(slot)
            if not process.dead:
                process.tell({"drop": slot.number})
            if not process.slots:
                process.kill()
                if not slot.is_stub and process in self.processes and process.pid:
                    # The answer means that the memory is free.
                    slot.ended = True
                    self._closing.append(slot)
                    return
        slot.close(code)
        self._finish()

    def _forget(self, slot: Slot) -> None:
        self._slots.remove(slot)
        self.ended = not self._slots
        if self.ended:
            for further in (one for one in self.processes if not one.slots):
                further.kill()
        self.server.loop.unwatch(slot.lifeline.fileno())
        for one in (slot.listener, slot.connection):
            if one is not None:
                self.server.loop.unwatch(one.fileno())

    def _finish(self) -> None:
        if not self._slots and not self.processes:
            self.server.forget(self)

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

    def end(self, reason: str) -> None:
        """End the model's slots and processes."""
        for slot in list(self._slots):
            slot.print(f"ERROR::mmekit: {reason}\n".encode())
            self._end_slot(slot, 1)
        for process in self.processes:
            process.kill()

    def _abandon(self, reason: str) -> None:
        """End everything of the model, whatever state it is in; each step may fail alone."""
        self.ended = True
        slots, processes = [*self._slots, *self._closing], list(self.processes)
        self._slots, self._closing, self.processes = [], [], []
        for process in processes:
            with contextlib.suppress(Exception):
                process.kill()
            with contextlib.suppress(Exception):
                self._discard(process)
        for slot in slots:
            for one in (slot.lifeline, slot.listener, slot.connection):
                with contextlib.suppress(Exception):
                    self.server.loop.unwatch(one.fileno())  # type: ignore[union-attr]
            with contextlib.suppress(Exception):
                slot.print(f"ERROR::mmekit: {reason}\n".encode())
            with contextlib.suppress(Exception):
                if slot.confirmed:
                    slot.close(1)
                else:
                    slot.refuse(reason)
        self.server.forget(self)

    # Parking.

    def look(self, now: float) -> None:
        """Park the model if nobody has asked it for long enough."""
        self.guarded(self._look)(now)

    def _look(self, now: float) -> None:
        for process in self.processes:
            process.look_at_suspect()
        if self._concurrency == 1:
            for process in self._scaling.surplus(self.processes, self.server.period_s):
                process.ask_to_park()
        for process in self.processes:
            self._learn_from(process)
        after_s = self.parking.after_s
        if after_s and self.may_park and now - self.used_at() >= after_s:
            self.park()

    def _learn_from(self, process: Process) -> None:
        """Let its parent know what one that answers has written to, if it knows of few."""
        parent = process.parent
        if process.is_known or parent is None or parent.knows_enough:
            return
        if process.ready and process.ledger and process.ledger.counters()["requests"]:
            process.is_known = True
            self.server.parents.learn(parent, process.pid)

    @property
    def needed(self) -> int:
        """The bytes that one process takes: as measured when it last parked, or as packed."""
        return self.parking.given_back or self._required

    @property
    def may_park(self) -> bool:
        """Whether all its processes could be asked to end."""
        if self.init is None or not self.processes or not self.parking.after_s:
            return False
        return all(one.ready and not one.parking for one in self.processes)

    def further(self) -> list[Process]:
        """Return the processes that it could do without, were it not for its speed."""
        if self._scaling.fixed is not None or not all(one.ready for one in self.processes):
            return []
        return [one for one in self.processes[1:] if not one.parking]

    @property
    def is_parking(self) -> bool:
        """Whether its processes have been asked to end, and are there still."""
        return any(one.parking for one in self.processes)

    def used_at(self) -> float:
        """Return when it was last asked, by the monotonic clock."""
        return max(process.used_at() for process in self.processes)

    def park(self) -> None:
        """Ask its processes to end; one that has something to do stays."""
        for process in self.processes:
            process.ask_to_park()

    def _process_parked(self, process: Process) -> None:
        idle_s = time.monotonic() - process.used_at()
        self._discard(process)
        self.server.room.give_back(process.private_bytes)
        slots, process.slots = process.slots, []
        for slot in slots:
            slot.process = None
        if self.processes:
            self._fill(slots)
            return
        if not self._slots:
            self._finish()
            return
        self.parking.park(process.private_bytes)
        self.server.look_soon()  # somebody may wait for what it has given back
        given_back = process.private_bytes / MIB
        self._say(f"parked after {idle_s:.0f} s without a request, {given_back:.1f} MiB given back")
        for slot in slots:
            self._confirm(slot)
            if not slot.ended:
                self._open(slot)

    def _connection_spoke(self, slot: Slot) -> None:
        byte = first_byte(slot)
        if byte:
            self._wake()
        elif byte is not None:
            self._end_slot(slot, 1)

    def _wake(self) -> None:
        if self.parking.since:
            self.parking.wake()
        if self.processes:
            self._fill(self._taken_over())
        elif self.server.room.fits(self.needed):
            self.enter()
        else:
            self._taken_over()
            self.server.room.wait(self)
            self.server.look_soon()

    def _taken_over(self) -> list[Slot]:
        """Watch the slots without a process no more, and return them."""
        for slot in self._vacant():
            if slot.connection is not None:
                self.server.loop.unwatch(slot.connection.fileno())
        return self._vacant()

    def _vacant(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.process is None and not slot.unread]

    def enter(self) -> None:
        """Get a process: there is memory for one."""
        self.server.room.forget(self)
        self.guarded(self._start_process)(self._taken_over())

    def stay_out(self, reason: str) -> None:
        """Answer the requests that wait with the reason, and stay without a process."""
        self.guarded(self._stay_parked)(self._vacant(), reason)

    def _stay_parked(self, slots: list[Slot], reason: str) -> None:
        self.parking.stay()
        for slot in slots:
            slot.print(f"WARN::mmekit: {reason}\n".encode())
            slot.process = None
            if slot.has_bytes():
                assert slot.connection is not None  # noqa: S101
                self._watch(slot.connection.fileno(), self._drain, slot, reason)
            else:
                self._open(slot)

    def _drain(self, slot: Slot, reason: str) -> None:
        """Read a request as far as it has come, and answer it when that is all of it."""
        whole = slot.drain()
        if whole is None:
            self._end_slot(slot, 1)
        elif whole:
            assert slot.connection is not None  # noqa: S101
            self.server.loop.unwatch(slot.connection.fileno())
            refuse(slot, reason, _NOW if self.init is not None else _NO_MEMORY)
            if self.processes:
                self._fill([slot])
            else:
                self._hand_over(slot)

    def _woken(self, process: Process, took_s: float) -> None:
        assert process.ledger is not None  # noqa: S101
        counters = process.ledger.counters()
        self._say(
            f"woken in {took_s * 1000:.1f} ms: forked in {process.fork_ms:.1f} ms, "
            f"model.py in {counters['import_ns'] / 1e6:.1f} ms, "
            f"loaded in {counters['load_ns'] / 1e6:.1f} ms"
        )

    def _say(self, text: str) -> None:
        """Write a line to the model's log."""
        for slot in self._slots[:1]:
            slot.print(f"INFO::mmekit: {text}\n".encode())

    # Processes.

    def _fill(self, slots: list[Slot]) -> None:
        """Give slots without a process to those that there are."""
        for slot in slots:
            process = min(self.processes, key=lambda one: len(one.slots))
            process.seat(slot)
            if process.pid:
                self._confirm(slot)
            if process.ready and not slot.ended:
                self._open(slot)

    def _start_process(self, slots: list[Slot], *, may_be_spare: bool = True) -> None:
        process = Process(may_be_spare=may_be_spare)
        self.processes.append(process)
        self.server.room.claim(process, self.needed)
        for slot in slots:
            process.seat(slot)
        Birth(self, process).begin()

    def started(self, process: Process) -> None:
        """Go on with a process that has been forked."""
        assert process.channel is not None  # noqa: S101
        self.parent = process.parent
        self._watch(process.channel.fileno(), self._process_spoke, process)
        for slot in list(process.slots):
            # After a death a stub knows already; a server learns the new process.
            self._confirm(slot)

    def not_started(self, process: Process, reason: str) -> None:
        """Leave the slots of a process that there will not be to the plain engine, or end them."""
        self._discard(process)
        if self.parking.since and process.slots:
            self._stay_parked(process.slots, reason)
        else:
            self._refuse(process.slots, reason)

    def _process_spoke(self, process: Process) -> None:
        assert process.channel is not None  # noqa: S101
        try:
            received = process.channel.receive()
            messages = None if received is None else list(received)
        except ConnectionError:
            messages = None
        except OSError as error:
            # Nothing that it says can be trusted any more; its end shows here next.
            log(f"model process {process.pid} is ended: {error}")
            process.kill()
            return
        if messages is None:
            self._process_died(process)
            return
        for message, _ in messages:
            self._take_message(process, message)

    def _take_message(self, process: Process, message: dict[str, Any]) -> None:
        for kind, act in (
            ("ready", self._is_ready),
            ("initialised", self._is_initialised),
            ("closed", self._has_closed),
            ("stays", self._stays),
            ("parked", self._parks),
            ("crowded", self._is_crowded),
            ("released", self._has_released),
        ):
            if kind in message:
                act(process, message)

    def _is_ready(self, process: Process, _: dict[str, Any]) -> None:
        process.ready = True
        if self.init is not None:
            self.server.room.take(process)
        if process.parent is not None and not self.server.room.is_short:
            self.server.parents.keep_spare(process.parent)
            if not process.parent.knows_enough:
                self.server.look_at_models_soon()
        took_s = self.parking.woken()
        if took_s is not None:
            self._woken(process, took_s)
        for slot in list(process.slots):
            self._open(slot)
            if took_s is not None and not slot.is_stub and not slot.ended:
                # What a server was told with the process was before it had loaded.
                self._confirm(slot)
        if process.is_further:
            self._relieve(process)

    def _is_initialised(self, process: Process, message: dict[str, Any]) -> None:
        process.initialised = True
        self.server.room.take(process)
        self.init = message["initialised"]

    def _has_closed(self, process: Process, message: dict[str, Any]) -> None:
        for slot in list(process.slots):
            if slot.number == message["closed"]:
                self._end_slot(slot, 1)

    def _stays(self, process: Process, _: dict[str, Any]) -> None:
        process.parking = False

    def _parks(self, process: Process, message: dict[str, Any]) -> None:
        process.parked, process.private_bytes = True, message["parked"]

    # As many processes as the requests need.

    def _is_crowded(self, _process: Process, message: dict[str, Any]) -> None:
        if self.init is None or not all(one.ready for one in self.processes):
            return
        number = self._scaling.more(
            len(self.processes),
            len(self._slots),
            message["crowded"],
            message["computing"],
            self.server.cores,
        )
        for _ in range(number):
            if not self.server.room.fits(self.needed):
                break
            further = Process(is_further=True)
            self.processes.append(further)
            self.server.room.claim(further, self.needed)
            Birth(self, further).begin()

    def _relieve(self, process: Process) -> None:
        """Have the others release slots for a further process."""
        others = [one for one in self.processes if one is not process and one.ready]
        left = {one: [slot for slot in one.slots if slot.move is None] for one in others}
        for _ in range(len(self._slots) // (len(others) + 1)):
            fullest = max(others, key=lambda one: len(left[one]))
            if len(left[fullest]) < 2:  # noqa: PLR2004
                break
            slot = left[fullest].pop()
            self._moves += 1
            slot.move = (self._moves, process)
            fullest.tell({"release": slot.number, "token": self._moves})
        self._end_if_useless(process)

    def _has_released(self, process: Process, message: dict[str, Any]) -> None:
        for slot in list(process.slots):
            if slot.move is None or slot.move[0] != message["token"]:
                continue
            target, slot.move = slot.move[1], None
            if message["released"]:
                process.slots.remove(slot)
                (target if target.is_there else process).seat(slot)
                self._confirm(slot)
                if not slot.ended:
                    self._open(slot)
            self._end_if_useless(process)
            if self._end_if_useless(target):
                # Streams stay where they are: another process would end the same way.
                self._scaling.failed()

    def _end_if_useless(self, process: Process) -> bool:
        """End a process that has no slots, and will have none; whether that was so."""
        awaited = any(slot.move is not None and slot.move[1] is process for slot in self._slots)
        useless = not process.slots and not awaited and not process.dead
        if useless:
            process.kill()
        return useless

    def streams(self) -> tuple[int, int]:
        """Return where a new process prints to."""
        return self._slots[0].stdout, self._slots[0].stderr

    def process_ended(self, pid: int, status: int) -> None:
        """Note how a process ended, for the log."""
        for slot in self._slots[:1]:
            line = f"WARN::mmekit: model process {pid} ended: {describe(status)}\n"
            slot.print(line.encode())

    def _discard(self, process: Process) -> None:
        if process in self.processes:
            self.processes.remove(process)
        self.server.room.free(process)
        if process.channel is not None:
            self.server.loop.unwatch(process.channel.fileno())
        process.close()
        for slot in [one for one in self._closing if one.process is process]:
            self._closing.remove(slot)
            slot.close(0)

    def _process_died(self, process: Process) -> None:
        if process.parked:
            self._process_parked(process)
            return
        states = {slot: process.state(slot) for slot in process.slots}
        was_loaded = process.ready and (process.initialised or self.init is not None)
        self._discard(process)
        if not process.killed:
            self.server.has_departed(process.pid, self)
        if process.is_further and not process.ready:
            self._scaling.failed()
        if not process.slots:
            self._finish()
            return
        if process.was_spare and not process.ready:
            # It may have died before it was given to this model: one that is forked now has not.
            self._start_process(list(process.slots), may_be_spare=False)
            return
        if not was_loaded and self.parking.since and self._deaths.one_too_many() is None:
            reason = "the model process ended while it loaded the model again"
            self._stay_parked(process.slots, reason)
            return
        if not was_loaded:
            # model.py could not be imported, or the load itself ended the process: no second try.
            self._fail(process, states, "the model process ended while it loaded the model")
            return
        self._heal(process, states)

    def _heal(self, process: Process, states: dict[Slot, int]) -> None:
        others = self._deaths.one_too_many()
        if others is not None:
            reason = f"the model process died {MAX_DEATHS + 1} times within {DEATH_WINDOW_S:.0f} s"
            for slot in process.slots:
                slot.given_up = f"{reason} (now and {others} s ago)"
            self._fail(process, states, f"{reason}: the model is given up")
            return
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
                answer_for_the_dead(slot, states[slot], reason)
            process.slots.remove(slot)
            self._end_slot(slot, 1)
        self._finish()

    def _repair(self, slot: Slot, state: int, reason: str) -> bool:
        """Answer the request that died with the process; False when the slot cannot go on."""
        if state in (READING, SENDING, YIELDING):
            self._end_slot(slot, 1)
            return False
        answer_for_the_dead(slot, state, reason)
        return True


def _most_slots() -> int:
    """Return how many slots one process may have; it may have as many open files as this one."""
    limit = descriptors.descriptor_limit()
    if limit is None:
        return MAX_SLOTS
    return max(1, min(MAX_SLOTS, (limit - descriptors.RESERVE) // descriptors.PER_SLOT))
