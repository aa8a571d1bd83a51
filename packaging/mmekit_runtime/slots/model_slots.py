"""The slots of one model: their connections, and who is told what comes on them."""

from __future__ import annotations

import contextlib
from typing import Protocol

from mmekit_runtime.slots import descriptors
from mmekit_runtime.slots.scoreboard import MAX_SLOTS, READING, SENDING, YIELDING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from mmekit_runtime.slots.admission import ParkingState
    from mmekit_runtime.slots.loop import Loop
    from mmekit_runtime.slots.slot import ProcessHandle, Slot


class SlotEvents(Protocol):
    """What a model is told of its slots."""

    def watch(self, fd: int, act: Callable[..., None], *arguments: Any) -> None:
        """Have ``act`` called whenever ``fd`` can be read."""

    def request_came(self) -> None:
        """Go on with a request for which there is no process."""

    def refusal_status(self) -> int:
        """Return the status of an answer to a request for which there is no process."""

    def request_refused(self, slot: Slot) -> None:
        """Go on with a slot whose request has been read and answered with an error."""

    def slot_left(self, slot: Slot, process: ProcessHandle | None, state: int) -> None:
        """Go on without a slot that whoever asked for it has ended."""

    def slots_ended(self) -> None:
        """Note that there are no slots any more; their processes may still be there."""

    def slot_closed(self) -> None:
        """Note that a slot is gone with all that belongs to it."""


class ModelSlots:
    """The slots of one model.

    Parameters
    ----------
    loop
        The fork server's.
    model
        Is told what comes.
    parking
        The model's, of which servers are told.
    """

    def __init__(self, loop: Loop, model: SlotEvents, parking: ParkingState) -> None:
        self._loop = loop
        self._model = model
        self._parking = parking
        self._slots: list[Slot] = []
        # They have ended, and are closed when the memory of their process is free.
        self._closing: list[Slot] = []
        self.most_of_a_process = _most_of_a_process()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._slots)

    def all(self) -> list[Slot]:
        """Return them, oldest first."""
        return list(self._slots)

    def add(self, slot: Slot) -> None:
        """Take a slot that somebody asks for."""
        self._slots.append(slot)

    def watch(self, slot: Slot) -> None:
        """End a slot when whoever has asked for it ends."""
        self._model.watch(slot.control.fileno(), self._control_is_readable, slot)

    def streams(self) -> tuple[int, int]:
        """Return where a new process prints to."""
        return self._slots[0].stdout, self._slots[0].stderr

    def print(self, line: str) -> None:
        """Write a line to the model's log: the output of one of its workers."""
        for slot in self._slots[:1]:
            slot.print(f"{line}\n".encode())

    def confirm(self, slot: Slot) -> None:
        """Tell whoever asked that there is a slot, and a server also which process answers."""
        # It is a shell by now, which would take a second message for its exit code.
        if slot.is_stub and slot.confirmed:
            return
        slot.confirmed = True
        process = slot.process
        reply = {
            "slot": slot.number,
            "pid": 0 if process is None else process.pid,
            "parking": self._parking.report(),
        }
        scoreboard = None if process is None or slot.is_stub else process.scoreboard
        try:
            slot.control.send(reply, [] if scoreboard is None else [scoreboard.fd])
        except OSError:
            self.end(slot, 1)

    def open(self, slot: Slot) -> None:
        """Have the slot's connection answered, once there is one."""
        if slot.connection is not None:
            self.hand_over(slot)
            return
        if slot.listener is None:
            try:
                slot.listen()
            except OSError as error:
                self._fail(slot, f"{slot.socket_name}: {error}")
                return
            assert slot.listener is not None  # noqa: S101
            self._model.watch(slot.listener.fileno(), self._accept, slot)

    def _accept(self, slot: Slot) -> None:
        assert slot.listener is not None  # noqa: S101
        try:
            slot.connection, _ = slot.listener.accept()
        except OSError as error:
            self._fail(slot, f"{slot.socket_name}: {error}")
            return
        self._loop.unwatch(slot.listener.fileno())
        slot.listener.close()
        slot.listener = None
        if slot.process is None or slot.process.ready:
            self.hand_over(slot)

    def hand_over(self, slot: Slot) -> None:
        """Leave a connection to the process; without one, watch it."""
        assert slot.connection is not None  # noqa: S101
        if slot.process is None:
            self._model.watch(slot.connection.fileno(), self._connection_is_readable, slot)
            return
        fds = (slot.connection.fileno(), slot.control.fileno(), slot.stdout, slot.stderr)
        slot.process.tell({"slot": slot.number}, fds)

    def _connection_is_readable(self, slot: Slot) -> None:
        byte = slot.first_byte()
        if byte:
            self._model.request_came()
        elif byte is not None:
            self.end(slot, 1)

    def vacant(self) -> list[Slot]:
        """Return the slots that have no process, less those of which a request is read away."""
        return [slot for slot in self._slots if slot.process is None and not slot.unread]

    def take_vacant(self) -> list[Slot]:
        """Watch the slots without a process no more, and return them."""
        for slot in self.vacant():
            if slot.connection is not None:
                self._loop.unwatch(slot.connection.fileno())
        return self.vacant()

    def refuse_requests(self, slots: Iterable[Slot], reason: str) -> None:
        """Answer the requests that wait with an error; the slots stay, without a process."""
        for slot in slots:
            slot.print(f"WARN::mmekit: {reason}\n".encode())
            slot.process = None
            if slot.has_bytes():
                assert slot.connection is not None  # noqa: S101
                self._model.watch(slot.connection.fileno(), self._read_away, slot, reason)
            else:
                self.open(slot)

    def _read_away(self, slot: Slot, reason: str) -> None:
        """Read a request as far as it has come, and answer it when that is all of it."""
        whole = slot.drain()
        if whole is None:
            self.end(slot, 1)
        elif whole:
            assert slot.connection is not None  # noqa: S101
            self._loop.unwatch(slot.connection.fileno())
            slot.answer_error(reason, self._model.refusal_status())
            self._model.request_refused(slot)

    def _control_is_readable(self, slot: Slot) -> None:
        """End a slot whose stub was killed or whose server let go."""
        try:
            data = slot.control.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if slot.is_stub and data:
            return
        process = slot.process
        # Before the slot ends, as that clears its place in the scoreboard.
        state = 0 if process is None or process.dead else process.state(slot)
        self.end(slot, 0)
        self._model.slot_left(slot, process, state)

    def end(self, slot: Slot, code: int) -> None:
        """End a slot; its stub ends with this exit code."""
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
                if not slot.is_stub and not process.dead and process.pid:
                    # The answer means that the memory is free.
                    slot.ended = True
                    self._closing.append(slot)
                    return
        slot.close(code)
        self._model.slot_closed()

    def _fail(self, slot: Slot, reason: str) -> None:
        slot.print(f"ERROR::mmekit: {reason}\n".encode())
        self.end(slot, 1)

    def _forget(self, slot: Slot) -> None:
        self._slots.remove(slot)
        if not self._slots:
            self._model.slots_ended()
        self._loop.unwatch(slot.control.fileno())
        for one in (slot.listener, slot.connection):
            if one is not None:
                self._loop.unwatch(one.fileno())

    def refuse(self, slots: Sequence[Slot], reason: str) -> None:
        """Leave slots to the plain engine, or end those that have been given already."""
        for slot in list(slots):
            slot.process = None
            if slot.confirmed:
                self._fail(slot, reason)
            else:
                self._forget(slot)
                slot.refuse(reason)
        self._model.slot_closed()

    def survivors(
        self, process: ProcessHandle, states: Mapping[Slot, int], reason: str
    ) -> list[Slot]:
        """Return the slots of a process that has died which another one can go on with.

        A request that the dead one had taken is answered with the reason; a slot of which it had
        read a part of a request, or had sent a part of an answer, ends.

        Parameters
        ----------
        states
            What the scoreboard says of each slot.
        """
        survivors = []
        for slot in list(process.slots):
            slot.process = None
            if states[slot] in (READING, SENDING, YIELDING):
                self.end(slot, 1)
            else:
                slot.answer_for_the_dead(states[slot], reason)
                survivors.append(slot)
        process.slots.clear()
        return survivors

    def fail(self, process: ProcessHandle, states: Mapping[Slot, int], reason: str) -> None:
        """End all slots of a process that has died."""
        for slot in list(process.slots):
            slot.print(f"ERROR::mmekit: {reason}\n".encode())
            # A server hears why with the end of the slot: between the two it would send more.
            if slot.is_stub or not slot.given_up:
                slot.answer_for_the_dead(states[slot], reason)
            process.slots.remove(slot)
            self.end(slot, 1)
        self._model.slot_closed()

    def end_all(self, reason: str) -> None:
        """End all slots."""
        for slot in self.all():
            self._fail(slot, reason)

    def process_gone(self, process: ProcessHandle) -> None:
        """Close the slots that have ended and waited for a process to be gone."""
        for slot in [one for one in self._closing if one.process is process]:
            self._closing.remove(slot)
            slot.close(0)

    def abandon(self, reason: str) -> None:
        """End all slots, whatever state they are in; each step may fail alone."""
        slots = [*self._slots, *self._closing]
        self._slots, self._closing = [], []
        for slot in slots:
            for one in (slot.control, slot.listener, slot.connection):
                with contextlib.suppress(Exception):
                    self._loop.unwatch(one.fileno())  # type: ignore[union-attr]
            with contextlib.suppress(Exception):
                slot.print(f"ERROR::mmekit: {reason}\n".encode())
            with contextlib.suppress(Exception):
                if slot.confirmed:
                    slot.close(1)
                else:
                    slot.refuse(reason)


def _most_of_a_process() -> int:
    """Return how many slots one process may have; it may have as many open files as this one."""
    limit = descriptors.descriptor_limit()
    if limit is None:
        return MAX_SLOTS
    return max(1, min(MAX_SLOTS, (limit - descriptors.RESERVE) // descriptors.PER_SLOT))


class SlotMoves:
    """The moves of a model's slots from processes that have many to one that has none.

    A process leaves a slot only between two requests, so that it is asked, and may say no.
    """

    def __init__(self, slots: ModelSlots) -> None:
        self._slots = slots
        self._tokens = 0

    def begin(self, target: ProcessHandle, others: Sequence[ProcessHandle]) -> None:
        """Ask the others to release a fair share of their slots for a process that is ready."""
        left = {one: [slot for slot in one.slots if slot.move is None] for one in others}
        for _ in range(len(self._slots) // (len(others) + 1) if others else 0):
            fullest = max(others, key=lambda one: len(left[one]))
            # Each keeps one: a process without slots ends.
            if len(left[fullest]) < 2:  # noqa: PLR2004
                break
            slot = left[fullest].pop()
            self._tokens += 1
            # An answer to an earlier question must not be taken for one to this.
            slot.move = (self._tokens, target)
            fullest.tell({"release": slot.number, "token": self._tokens})
        self.end_if_useless(target)

    def answered(self, process: ProcessHandle, token: int, *, released: bool) -> bool:
        """Move a slot that a process has released; whether its target is left without any."""
        is_useless = False
        for slot in list(process.slots):
            if slot.move is None or slot.move[0] != token:
                continue
            target, slot.move = slot.move[1], None
            if released:
                process.slots.remove(slot)
                # The target may have ended in the meantime: the slot goes back then.
                (target if target.is_there else process).assign(slot)
                self._slots.confirm(slot)
                if not slot.ended:
                    self._slots.open(slot)
            self.end_if_useless(process)
            is_useless = self.end_if_useless(target) or is_useless
        return is_useless

    def end_if_useless(self, process: ProcessHandle) -> bool:
        """End a process that has no slots, and will have none; whether that was so."""
        awaited = any(
            slot.move is not None and slot.move[1] is process for slot in self._slots.all()
        )
        useless = not process.slots and not awaited and not process.dead
        if useless:
            process.kill()
        return useless
