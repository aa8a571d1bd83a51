"""One model, as the fork server keeps it: its slots, its processes, and what becomes of both."""

from __future__ import annotations

import contextlib
import functools
import time

from mmekit_runtime.metering.settings import imports_of, is_on
from mmekit_runtime.slots.admission import ParkingState
from mmekit_runtime.slots.lifecycle import (
    CRASH_WINDOW_S,
    MAX_CRASHES,
    CrashHistory,
    ModelProcesses,
    Sharing,
    exit_reason,
)
from mmekit_runtime.slots.loop import guarded
from mmekit_runtime.slots.model_slots import ModelSlots, SlotMoves
from mmekit_runtime.slots.scaling import Scaling
from mmekit_runtime.slots.scoreboard import BEGUN, YIELDING
from mmekit_runtime.slots.settings import (
    read_concurrency,
    read_park_after,
    read_preload,
    read_processes,
    read_required_bytes,
)
from mmekit_runtime.slots.shared_body import SharedBody
from mmekit_runtime.slots.slot import STUCK_S, ProcessHandle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from mmekit_runtime.slots.admission import Admission
    from mmekit_runtime.slots.loop import Loop
    from mmekit_runtime.slots.scaling import Cores
    from mmekit_runtime.slots.slot import Slot
    from mmekit_runtime.slots.template_process import TemplateProcess
    from mmekit_runtime.slots.templates import Templates

    class _ForkServer(Protocol):
        """The fork server, as far as one of its models is concerned."""

        loop: Loop
        templates: Templates
        admission: Admission
        cores: Cores
        site_environ: dict[str, str]
        dropped_paths: list[str]
        period_s: float

        def forget(self, model: HostedModel) -> None: ...
        def has_departed(self, pid: int, model: HostedModel) -> None: ...
        def look_at_models_in(self, seconds: float) -> None: ...
        def look_at_models_soon(self) -> None: ...
        def look_at_memory_soon(self) -> None: ...


MIB = 1 << 20
_UNAVAILABLE, _NO_MEMORY = 503, 507
"""A request that may be repeated; a load for which there is no memory, by SageMaker's contract."""


class HostedModel:
    """One model.

    Attributes
    ----------
    identity
        What tells it from other models (`Slot.identity`).
    imports, body
        What its processes are forked from; the body is what it shares with others beyond that.
    init
        What the model was loaded with, None before that.
    ended
        Whether its last slot has ended: a further worker gets a process of another `HostedModel`.
    processes
        Those that answer, or are about to; none while the model is parked.
    parking
        Whether it is parked, and when it will be.
    template
        From which its last process was forked.
    """

    def __init__(self, server: _ForkServer, first: Slot) -> None:
        self._server = server
        self.identity = first.identity
        self.body = SharedBody.of_worker(first.argv, first.environ, first.model_dir)
        self.imports = frozenset(read_preload(first.model_dir)) | imports_of(first.environ)
        if self.body is not None:
            self.imports |= {self.body.token}
        self._first_worker = {"argv": first.argv, "environ": first.environ, "cwd": first.cwd}
        self._metrics_server = first.server if is_on(first.environ) else None
        self.init: dict[str, str] | None = None
        self.ended = False
        self.processes = ModelProcesses(self, server.loop, server.templates, server.admission)
        self.parking = ParkingState(read_park_after(first.model_dir, first.environ))
        self.template: TemplateProcess | None = None
        self._slots = ModelSlots(server.loop, self, self.parking)
        self._sharing = Sharing(self.body, server.templates, self._slots.print)
        self._moves = SlotMoves(self._slots)
        self._scaling = Scaling(read_processes(first.model_dir))
        self._concurrency = read_concurrency(first.environ)
        self._required = read_required_bytes(first.model_dir)
        self._crashes = CrashHistory()

    def guarded(self, act: Callable[..., None]) -> Callable[..., None]:
        """Return what does the same, and ends the model when that fails unexpectedly."""
        return guarded(act, self._abandon)

    def watch(self, fd: int, act: Callable[..., None], *arguments: Any) -> None:
        """Have ``act`` called whenever ``fd`` can be read."""
        self._server.loop.watch(fd, functools.partial(self.guarded(act), *arguments))

    def end(self, reason: str) -> None:
        """End the model's slots and processes."""
        self._slots.end_all(reason)
        for process in self.processes:
            process.kill()

    def _abandon(self, reason: str) -> None:
        """End everything of the model, whatever state it is in; each step may fail alone."""
        self.ended = True
        for process in self.processes:
            with contextlib.suppress(Exception):
                process.kill()
            with contextlib.suppress(Exception):
                self._discard(process)
        self._slots.abandon(f"the fork server failed: {reason}")
        self._server.forget(self)

    # Slots.

    def add(self, slot: Slot) -> None:
        """Give a slot to the process that has the fewest, or to a new one."""
        self._slots.add(slot)
        self.guarded(self._add)(slot)

    def _add(self, slot: Slot) -> None:
        self._slots.watch(slot)
        if not self.processes:
            if not self.parking.since and self._server.admission.fits(self.needed):
                self.admit()
                return
            # The request wakes it, be it the one that loads it: others may have to park first.
            self._slots.confirm(slot)
            self._slots.open(slot)
            return
        # A serverless endpoint has a container for each request: a slot plays one, with a process.
        is_container = len(self.processes) < self._concurrency
        fits = is_container and self._server.admission.fits(self.needed)
        if fits or len(self.processes) < self._scaling.at_start:
            self.processes.start([slot])
            return
        process = self.processes.least_used()
        if len(process.slots) >= self._slots.most_of_a_process:
            reason = f"the model has {len(process.slots)} worker slots already"
            self._slots.refuse([slot], reason)
            return
        self._fill([slot])

    def slot_left(self, slot: Slot, process: ProcessHandle | None, state: int) -> None:
        """End a process that is stuck in the request of a slot that somebody has ended."""
        if process is None or not process.slots:
            return
        # No server ends a worker in the middle of a request that it still waits for.
        if state == BEGUN:
            process.kill()
        elif state == YIELDING:
            # A stream that nobody wants any more is dropped after this chunk, if that has an end.
            process.suspect = slot.number
            self._server.look_at_models_in(STUCK_S)

    def slots_ended(self) -> None:
        """Note that there are no slots any more; end the processes that had none."""
        self.ended = True
        for process in self.processes:
            if not process.slots:
                process.kill()

    def slot_closed(self) -> None:
        """Be forgotten if that was the last of the model."""
        if not self._slots and not self.processes:
            self._server.forget(self)

    def streams(self) -> tuple[int, int]:
        """Return where a new process prints to."""
        return self._slots.streams()

    # Parking.

    def look(self, now: float) -> None:
        """Park the model if nobody has asked it for long enough."""
        self.guarded(self._look)(now)

    def _look(self, now: float) -> None:
        for process in self.processes:
            process.end_if_stuck()
        if self._concurrency == 1:
            for process in self._scaling.surplus(list(self.processes), self._server.period_s):
                process.ask_to_park()
        for process in self.processes:
            self._learn_from(process)
        after_s = self.parking.after_s
        if after_s and self.may_park and now - self.processes.used_at() >= after_s:
            self.processes.park()

    def _learn_from(self, process: ProcessHandle) -> None:
        """Let its template process know what one has written to, unless it knows of enough."""
        template = process.template
        if process.is_known or template is None or template.knows_enough:
            return
        if process.ready and process.scoreboard and process.scoreboard.counters()["requests"]:
            process.is_known = True
            self._server.templates.learn(template, process.pid)

    @property
    def needed(self) -> int:
        """The bytes that one process takes: as measured when it last parked, or as packed."""
        return self.parking.given_back or self._required

    @property
    def may_park(self) -> bool:
        """Whether all its processes could be asked to end."""
        # What was never loaded cannot be woken: there is no initialisation to repeat.
        return self.init is not None and self.parking.after_s > 0 and self.processes.may_park

    def dispensable(self) -> list[ProcessHandle]:
        """Return the processes that it could do without, were it not for its speed."""
        if self._scaling.fixed is not None or not self.processes.are_ready:
            return []
        return [one for one in list(self.processes)[1:] if not one.parking]

    def _process_parked(self, process: ProcessHandle) -> None:
        # Before it is discarded, as that closes the scoreboard, which says so.
        idle_s = time.monotonic() - process.used_at()
        self._discard(process)
        self._server.admission.given_back(process.private_bytes)
        slots, process.slots = process.slots, []
        for slot in slots:
            slot.process = None
        if self.processes:
            # Where all of them have been asked to park, the end of the last one parks the model.
            self._fill(slots)
            return
        if not self._slots:
            self.slot_closed()
            return
        self.parking.park(process.private_bytes)
        self._server.look_at_memory_soon()  # somebody may wait for what it has given back
        given_back = process.private_bytes / MIB
        self._slots.print(
            f"INFO::mmekit: parked after {idle_s:.0f} s without a request, "
            f"{given_back:.1f} MiB given back"
        )
        for slot in slots:
            self._slots.confirm(slot)
            if not slot.ended:
                self._slots.open(slot)

    def request_came(self) -> None:
        """Wake the model, or have it wait for memory."""
        if self.parking.since:
            self.parking.wake()
        if self.processes:
            self._fill(self._slots.take_vacant())
        elif self._server.admission.fits(self.needed):
            self.admit()
        else:
            # Watched no more meanwhile: bytes that nobody reads would wake the loop in every turn.
            self._slots.take_vacant()
            self._server.admission.wait(self)
            self._server.look_at_memory_soon()

    def admit(self) -> None:
        """Get a process: there is memory for one."""
        self._server.admission.forget(self)
        self.guarded(self.processes.start)(self._slots.take_vacant())

    def reject(self, reason: str) -> None:
        """Answer the requests that wait with the reason, and stay without a process."""
        self.guarded(self._stay_parked)(self._slots.vacant(), reason)

    def _stay_parked(self, slots: list[Slot], reason: str) -> None:
        self.parking.stay()
        self._slots.refuse_requests(slots, reason)

    def refusal_status(self) -> int:
        """Return the status of an answer to a request for which there is no process."""
        return _UNAVAILABLE if self.init is not None else _NO_MEMORY

    def request_refused(self, slot: Slot) -> None:
        """Give the slot to a process, if there is one by now."""
        if self.processes:
            self._fill([slot])
        else:
            self._slots.hand_over(slot)

    # Processes.

    def _fill(self, slots: list[Slot]) -> None:
        """Give slots without a process to those that there are."""
        for slot in slots:
            process = self.processes.least_used()
            process.assign(slot)
            if process.pid:
                self._slots.confirm(slot)
            if process.ready and not slot.ended:
                self._slots.open(slot)

    def start_message(self, process: ProcessHandle) -> dict[str, Any]:
        """Return what a new process is told of the model."""
        return {
            **self._first_worker,
            "site_environ": self._server.site_environ,
            "dropped_paths": self._server.dropped_paths,
            "init": self.init,
            "quiet": bool(self.parking.since) or process.is_further,
            "woken": bool(self.parking.since) and not process.is_further,
            "metrics_server": self._metrics_server,
            "shared": self._sharing.token_for(process.template),
        }

    def started(self, process: ProcessHandle) -> None:
        """Go on with a process that has been forked."""
        assert process.channel is not None  # noqa: S101
        self.template = process.template
        self.watch(process.channel.fileno(), self._process_is_readable, process)
        for slot in list(process.slots):
            # After a death a stub knows already; a server learns the new process.
            self._slots.confirm(slot)

    def not_started(self, process: ProcessHandle, reason: str) -> None:
        """Leave the slots of a process that there will not be to the plain engine, or end them."""
        self._discard(process)
        if self.parking.since and process.slots:
            self._stay_parked(process.slots, reason)
        else:
            self._slots.refuse(process.slots, reason)

    def _process_is_readable(self, process: ProcessHandle) -> None:
        messages = process.receive_all()
        if messages is None:
            self._process_died(process)
            return
        for message in messages:
            self._take_message(process, message)

    def _take_message(self, process: ProcessHandle, message: dict[str, Any]) -> None:
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

    def _is_ready(self, process: ProcessHandle, _: dict[str, Any]) -> None:
        process.ready = True
        if self.init is not None:
            self._server.admission.commit(process)
        if process.template is not None and not self._server.admission.is_short:
            self._server.templates.keep_spare(process.template)
            if not process.template.knows_enough:
                self._server.look_at_models_soon()
        took_s = self.parking.woken()
        if took_s is not None:
            times = process.start_times()
            self._slots.print(f"INFO::mmekit: woken in {took_s * 1000:.1f} ms: {times}")
        for slot in list(process.slots):
            self._slots.open(slot)
            if took_s is not None and not slot.is_stub and not slot.ended:
                # What a server was told with the process was before it had loaded.
                self._slots.confirm(slot)
        if process.is_further:
            others = [one for one in self.processes if one is not process and one.ready]
            self._moves.begin(process, others)

    def _is_initialised(self, process: ProcessHandle, message: dict[str, Any]) -> None:
        process.initialised = True
        self._server.admission.commit(process)
        self.init = message["initialised"]

    def _has_closed(self, process: ProcessHandle, message: dict[str, Any]) -> None:
        for slot in list(process.slots):
            if slot.number == message["closed"]:
                self._slots.end(slot, 1)

    def _stays(self, process: ProcessHandle, _: dict[str, Any]) -> None:
        process.parking = False

    def _parks(self, process: ProcessHandle, message: dict[str, Any]) -> None:
        process.parked, process.private_bytes = True, message["parked"]

    # As many processes as the requests need.

    def _is_crowded(self, _process: ProcessHandle, message: dict[str, Any]) -> None:
        # Those on their way may be enough: a process that stays crowded says so again.
        if self.init is None or not self.processes.are_ready:
            return
        number = self._scaling.further_processes(
            len(self.processes),
            len(self._slots),
            message["crowded"],
            message["computing"],
            self._server.cores,
        )
        for _ in range(number):
            if not self._server.admission.fits(self.needed):
                break
            self.processes.start(is_further=True)

    def _has_released(self, process: ProcessHandle, message: dict[str, Any]) -> None:
        token, released = message["token"], message["released"]
        if self._moves.answered(process, token, released=released):
            # Streams stay where they are: another process would end the same way.
            self._scaling.failed()

    # The end of a process.

    def process_ended(self, pid: int, status: int) -> None:
        """Note how a process ended, for the log."""
        self._slots.print(f"WARN::mmekit: model process {pid} ended: {exit_reason(status)}")

    def _discard(self, process: ProcessHandle) -> None:
        self.processes.discard(process)
        self._slots.process_gone(process)

    def _process_died(self, process: ProcessHandle) -> None:
        if process.parked:
            self._process_parked(process)
            return
        # Read before the scoreboard is closed with the process.
        states = {slot: process.state(slot) for slot in process.slots}
        was_loaded = process.ready and (process.initialised or self.init is not None)
        self._discard(process)
        if not process.killed:
            # Its template process reaps it, and tells how it ended a moment later.
            self._server.has_departed(process.pid, self)
        if process.is_further and not process.ready:
            self._scaling.failed()
        if not process.slots:
            self.slot_closed()
            return
        if process.was_spare and not process.ready:
            # It may have died before it was given to this model: one that is forked now has not.
            self.processes.start(list(process.slots), may_be_spare=False)
            return
        # Files or memory that it lacks may be there at the next request; but not so for ever.
        if not was_loaded and self.parking.since and self._crashes.one_too_many() is None:
            reason = "the model process ended while it loaded the model again"
            self._stay_parked(process.slots, reason)
            return
        if not was_loaded:
            # model.py could not be imported, or the load itself ended the process: no second try.
            self._slots.fail(process, states, "the model process ended while it loaded the model")
            return
        self._heal(process, states)

    def _heal(self, process: ProcessHandle, states: dict[Slot, int]) -> None:
        others = self._crashes.one_too_many()
        if others is not None:
            reason = f"the model process died {MAX_CRASHES + 1} times within {CRASH_WINDOW_S:.0f} s"
            for slot in process.slots:
                slot.given_up = f"{reason} (now and {others} s ago)"
            self._slots.fail(process, states, f"{reason}: the model is given up")
            return
        survivors = self._slots.survivors(process, states, "the model process died in this request")
        if survivors:
            self.processes.start(survivors)
        else:
            self.slot_closed()
