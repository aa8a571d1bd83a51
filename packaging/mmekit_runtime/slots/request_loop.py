"""The loop of a model process: one handler behind many connections.

It does for every connection what DJL's python_sync_engine.py does for its one, with two
differences: requests that wait at the same time are answered by one vectorised call, where the
handler is an mmekit_runtime Handler, and the initialisation reaches the handler once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any

from mmekit_runtime.messages import Reply
from mmekit_runtime.metering.start import name_model, start_meter
from mmekit_runtime.slots import copy_on_write
from mmekit_runtime.slots.connection import (
    LONGEST,
    AtomicSender,
    PendingAnswer,
    SlotConnection,
)
from mmekit_runtime.slots.descriptors import Pipes
from mmekit_runtime.slots.memory import private_bytes
from mmekit_runtime.slots.scaling import LoadMonitor
from mmekit_runtime.slots.scoreboard import (
    BEGUN,
    IDLE,
    SENDING,
    SENDING_NOTED,
    TAKEN,
    YIELDING,
    Scoreboard,
)
from mmekit_runtime.slots.service import (
    PREDICT_TIMEOUT_S,
    Arguments,
    ModelService,
    configure_logging,
    is_single,
    output_bytes,
    predict_timeout,
    reply_bytes,
    request_of,
    stream_chunks,
)
from mmekit_runtime.wire import WireError, WireRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit_runtime.handler import Handler
    from mmekit_runtime.slots.channel import Channel

# The engine logs to the root logger, and so does what stands in for it.
_logger = logging.getLogger()

_ERRORS = 400
_FAILURES = 300


class RequestLoop:
    """The loop of one model process.

    Parameters
    ----------
    channel
        To the fork server.
    scoreboard
        Shared with it.
    start
        What the fork server sent first: the worker's arguments, environment and so on.
    """

    def __init__(self, channel: Channel, scoreboard: Scoreboard, start: dict[str, Any]) -> None:
        self._channel: Channel | None = channel
        self._scoreboard = scoreboard
        self._sender = AtomicSender(scoreboard) if AtomicSender.is_possible() else None
        self._start = start
        self._by_fd: dict[int, SlotConnection] = {}
        self._by_number: dict[int, SlotConnection] = {}
        # Of those that are ready it names first who has been for longest; poll() does not.
        self._poll = select.epoll()
        self._pipes = Pipes()
        self._load = LoadMonitor()
        self._initialised: bytes | None = None
        self._limit_s = PREDICT_TIMEOUT_S
        server = start.get("metrics_server")
        self._meter = None if server is None else start_meter(server)
        self._report_in_s: float | None = None
        self._service = self._import_model()

    def _import_model(self) -> ModelService:
        # The lines are those of djl_python_engine.py.
        arguments = Arguments(self._start["argv"])
        configure_logging(arguments.log_level)
        if not self._start["quiet"]:  # the fork server says so
            _logger.info(
                "%d - djl_python_engine started with args: %s", os.getpid(), self._start["argv"][1:]
            )
        began = time.monotonic_ns()
        service = ModelService(arguments)
        if self._start["shared"] is not None:
            service.receive_shared(self._start["shared"])
        self._scoreboard.set_load(import_ns=time.monotonic_ns() - began)
        return service

    def run(self) -> None:
        """Say that model.py is imported, and answer until the last connection ends."""
        self._begin()
        while self._channel is not None or self._by_fd:
            self._turn()
        if self._meter is not None:
            self._meter.close()

    def rehearse(self) -> None:
        """Answer what has been sent in advance, as `run` would, and leave the fork server alone."""
        self._begin()
        self._turn()
        while self._by_fd:
            self._turn()
        self._poll.close()

    def _begin(self) -> None:
        assert self._channel is not None  # noqa: S101
        self._poll.register(self._channel.fileno(), select.EPOLLIN)
        replay = self._start.get("init")
        if replay is not None:
            # A predecessor had been initialised: its connections will not ask again.
            self._initialise(WireRequest(dict(replay), ()))
            if self._initialised is None:
                raise RuntimeError("the model could not be loaded again")
            copy_on_write.give_back()
            if self._meter is not None and self._start["woken"]:
                self._meter.woken()
        self._tell({"ready": os.getpid()})

    # The loop.

    def _turn(self) -> None:
        channel = self._channel
        if channel is not None and channel.pending:
            self._poll.modify(channel.fileno(), select.EPOLLIN | select.EPOLLOUT)
        events = dict(self._poll.poll(self._report_in_s))
        # First of all, as what is printed from now on may have to go elsewhere.
        if channel is not None and channel.fileno() in events:
            self._read_channel(channel, events.pop(channel.fileno()))
        ready = list(events)
        if self._channel is None:
            # A server that stops a request kills what it started, not this process; and nobody
            # else does so now. This watch needs no interpreter that is free to run it.
            faulthandler.dump_traceback_later(self._limit_s, exit=True)
            self._serve(ready)
            faulthandler.cancel_dump_traceback_later()
        else:
            self._serve(ready)
        if self._meter is not None:
            self._report_in_s = self._meter.report_if_due()

    def _serve(self, ready: list[int]) -> None:
        connections = [one for fd in ready if (one := self._by_fd.get(fd)) is not None]
        leaving = [one for one in connections if one.pending is not None]
        asking = [one for one in connections if one.pending is None]
        # One by one, where requests cannot be answered together: those that wait stay in the
        # kernel, for a successor or another process to take.
        is_joining = self._service.handler is not None
        chosen = asking[: self._load.batch_limit(self._limit_s) if is_joining else 1]
        began = time.monotonic_ns()
        answered = self._take(chosen)
        made = sum(self._go_on(connection) for connection in leaving)
        if answered or made:
            took_ns = time.monotonic_ns() - began
            joined = is_joining and len(chosen) == len(asking) and not made
            waiting = 0 if joined else self._waiting([*chosen, *leaving])
            if made:
                # Those of one turn have waited for each other.
                waiting, answered = waiting + answered + made - 1, 0
            crowded = self._load.record(answered, waiting, took_ns)
            if crowded is not None:
                self._tell(crowded)

    def _waiting(self, served: list[SlotConnection]) -> int:
        """Return on how many other connections a request waits, those that came meanwhile too."""
        ready = (self._by_fd.get(fd) for fd, _ in self._poll.poll(0))
        return sum(one is not None and one not in served for one in ready)

    def _take(self, chosen: list[SlotConnection]) -> int:
        """Answer the requests of connections that can be read.

        Returns how many there were, those that load the model not counted.
        """
        taken = []
        for connection in chosen:
            try:
                alive = connection.receive(self._scoreboard.states)
            except WireError as error:
                _logger.error("a worker slot got garbage: %s", error)  # noqa: TRY400
                alive = False
            if not alive:
                self._drop(connection)
            elif connection.message is not None:
                taken.append((connection, connection.message))
        if taken:
            self._answer(taken)
        return sum(bool(message.content) for _, message in taken)

    def _read_channel(self, channel: Channel, event: int) -> None:
        messages: Iterable[tuple[dict[str, Any], list[int]]] | None = ()
        try:
            if event & select.EPOLLOUT:
                channel.flush()
                if not channel.pending:
                    self._poll.modify(channel.fileno(), select.EPOLLIN)
            # EPOLLHUP and EPOLLERR come without being asked for; reading tells what they mean.
            if event & ~select.EPOLLOUT:
                messages = channel.receive()
        except OSError:
            messages = None
        if messages is None:
            # The fork server is gone: this process serves on, and ends with its connections.
            _logger.warning("mmekit: the fork server ended; this model process goes on without")
            self._poll.unregister(channel.fileno())
            channel.close()
            self._channel = None
            return
        for message, fds in messages:
            self._follow(message, fds)

    def _follow(self, message: dict[str, Any], fds: list[int]) -> None:
        if "slot" in message:
            self._receive_slot(message, fds)
        elif "drop" in message:
            connection = self._by_number.get(message["drop"])
            if connection:
                self._drop(connection, tell=False)
        elif "release" in message:
            self._release(message["release"], message["token"])
        elif "park" in message:
            self._park(message["park"], is_last=message["is_last"])

    def _release(self, number: int, token: int) -> None:
        """Leave a connection to another process, unless something on it is half done."""
        connection = self._by_number.get(number)
        released = connection is not None and not connection.is_halfway
        if connection is not None and released:
            self._drop(connection, tell=False)
        self._tell({"released": released, "token": token})

    def _park(self, answered_ns: int, *, is_last: bool) -> None:
        """End, if nothing has come since the fork server looked, and nothing is half done.

        What is in the connections stays there: the fork server watches them from now on.
        """
        halfway = any(connection.is_halfway for connection in self._by_fd.values())
        if halfway or self._scoreboard.answered_ns != answered_ns or self._channel is None:
            self._tell({"stays": os.getpid()})
            return
        if self._meter is not None:
            if is_last:
                self._meter.parked()
            self._meter.close()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        # An end without this word is taken for a crash, and mended.
        self._tell({"parked": private_bytes()})
        with contextlib.suppress(OSError):
            self._channel.finish()
        # What the model has started ends with it, by its parent; nothing else is left to do.
        os._exit(0)

    def _receive_slot(self, message: dict[str, Any], fds: list[int]) -> None:
        if len(fds) == message["fds"]:
            self._add(SlotConnection(message["slot"], fds, self._pipes))
            return
        # The kernel drops what there is no room for.
        _logger.error("mmekit: no descriptors are left for a worker slot")
        for fd in fds:
            os.close(fd)
        self._tell({"closed": message["slot"]})

    def _tell(self, message: dict[str, Any]) -> None:
        """Tell the fork server, if there is one."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.send(message)

    def _add(self, connection: SlotConnection) -> None:
        self._by_fd[connection.sock.fileno()] = connection
        self._by_number[connection.number] = connection
        # It may have been that of a slot that was dropped in the middle of an answer.
        self._scoreboard.states[connection.number] = IDLE
        self._poll.register(connection.sock.fileno(), select.EPOLLIN)
        # While there was none, it has kept the streams of a worker that may be gone.
        if len(self._by_fd) == 1:
            _print_to(connection)

    def _drop(self, connection: SlotConnection, *, tell: bool = True) -> None:
        self._poll.unregister(connection.sock.fileno())
        del self._by_fd[connection.sock.fileno()]
        del self._by_number[connection.number]
        if tell:
            self._tell({"closed": connection.number})
        if self._by_fd:
            # What the model prints must not go to a worker that nobody reads any more.
            _print_to(next(iter(self._by_fd.values())))
        connection.close()
        pending, connection.pending = connection.pending, None
        if pending is not None:
            _finalize(pending.output)

    # Answering.

    def _answer(self, taken: list[tuple[SlotConnection, WireRequest]]) -> None:
        together = []
        for connection, message in taken:
            if not message.content:
                loads = self._initialised is None
                self._scoreboard.begin(connection.number)
                self._send(connection, self._initialise(message))
                if loads:
                    copy_on_write.give_back()
            elif self._service.handler is not None and is_single(message):
                together.append((connection, message))
            else:
                self._answer_alone(connection, message)
        if together:
            self._answer_together(self._service.handler, together)

    def _answer_together(
        self, handler: Handler | None, taken: list[tuple[SlotConnection, WireRequest]]
    ) -> None:
        assert handler is not None  # noqa: S101
        # The one call works on all of them: a server's patience begins for each.
        for connection, _ in taken:
            self._scoreboard.begin(connection.number)
        began = time.monotonic_ns()
        try:
            replies = handler.answer([request_of(message) for _, message in taken])
        except Exception as error:  # a bug of ours: the requests must be answered all the same
            _logger.exception("the handler could not be asked")
            replies = [Reply.of_exception(error)] * len(taken)
        # Counted first: whoever has an answer finds it counted.
        errors = sum(reply.status >= _ERRORS for reply in replies)
        self._count([connection for connection, _ in taken], began, errors)
        if self._meter is not None:
            waited = [began - connection.taken_ns for connection, _ in taken]
            took = time.monotonic_ns() - began
            self._meter.called([reply.status for reply in replies], took, waited)
        for (connection, _), reply in zip(taken, replies, strict=True):
            self._send(connection, reply_bytes(reply))

    def _answer_alone(self, connection: SlotConnection, message: WireRequest) -> None:
        self._scoreboard.begin(connection.number)
        began = time.monotonic_ns()
        output = self._service.invoke(message)
        self._count([connection], began, int(output.code >= _ERRORS))
        if self._meter is not None:
            took = time.monotonic_ns() - began
            # The answer to a batch of a server's has one status for all of them.
            size = message.properties.get("batch_size", "")
            statuses = [output.code] * (int(size) if size.isdigit() else 1)
            statuses = self._meter.take_answered() or statuses
            self._meter.called(statuses, took, [began - connection.taken_ns])
        if output.stream_content is None:
            self._send(connection, output_bytes(output), output)
        else:
            # Nothing of it is sent yet: if the process dies now, the fork server may still answer.
            self._send_later(connection, PendingAnswer(b"", stream_chunks(output), output), TAKEN)

    def _count(self, connections: list[SlotConnection], began: int, errors: int) -> None:
        self._scoreboard.add(
            requests=len(connections),
            errors=errors,
            queue_ns=sum(began - connection.taken_ns for connection in connections),
            predict_ns=time.monotonic_ns() - began,
        )

    def _initialise(self, message: WireRequest) -> bytes:
        """Answer the initialisation; later slots get the answer of the first that succeeded."""
        if self._initialised is not None:
            return self._initialised
        began = time.monotonic_ns()
        output = self._service.invoke(message)
        elapsed = time.monotonic_ns() - began
        data = output_bytes(output)
        if output.code < _FAILURES:
            self._initialised = data
            self._limit_s = predict_timeout(message.properties)
            self._scoreboard.set_load(load_ns=elapsed)
            self._tell({"initialised": dict(message.properties)})
            if self._meter is not None:
                name_model(self._meter, message.properties)
                if self._start["init"] is None:
                    self._meter.loaded(elapsed)
            if not self._start["quiet"]:
                self._log_load(elapsed)
        return data

    def _log_load(self, load_ns: int) -> None:
        times = self._start["times"]
        _logger.info(
            "mmekit: worker slot: a template process with %s was ready in %.0f ms; "
            "forked in %.1f ms, model.py in %.1f ms, loaded in %.1f ms",
            ", ".join(times["imports"]) or "numpy alone",
            times["template_ms"],
            times["fork_ms"],
            self._scoreboard.counters()["import_ns"] / 1e6,
            load_ns / 1e6,
        )

    def _send(self, connection: SlotConnection, data: bytes, output: Any = None) -> None:
        sent = 0
        if self._sender is not None and len(data) <= LONGEST:
            self._sender.prepare(data)
            # Only now, as the note in the page was of another answer until this one was prepared.
            self._scoreboard.states[connection.number] = SENDING_NOTED
            sent = self._sender.send(connection.sock.fileno())
        if sent == len(data):
            # Before the model's own finalizer, which may end the process: the answer has left.
            self._done(connection)
            _finalize(output)
        else:
            self._send_later(connection, PendingAnswer(data[sent:], output=output), SENDING)
            self._go_on(connection)

    def _send_later(self, connection: SlotConnection, pending: PendingAnswer, state: int) -> None:
        """Have an answer leave in turns, as far as its connection takes it."""
        self._scoreboard.states[connection.number] = state
        connection.pending = pending
        self._poll.modify(connection.sock.fileno(), select.EPOLLOUT)

    def _go_on(self, connection: SlotConnection) -> bool:
        """Send more of an answer; whether the model was asked for it."""
        pending = connection.pending
        assert pending is not None  # noqa: S101
        is_making = pending.lacks_data
        if is_making:
            self._scoreboard.begin(connection.number, YIELDING if pending.has_begun else BEGUN)
            pending.make_chunk()
            self._scoreboard.states[connection.number] = SENDING
        try:
            has_left = pending.send(connection.sock)
        except OSError:
            # It shows again as the end of the connection, in the next turn.
            has_left = True
        if has_left:
            connection.pending = None
            self._poll.modify(connection.sock.fileno(), select.EPOLLIN)
            # Idle from now on, and not since the call: behind a slow reader it would park at once.
            self._scoreboard.touch()
            self._done(connection)
            _finalize(pending.output)
        return is_making

    def _done(self, connection: SlotConnection) -> None:
        connection.message = None
        self._scoreboard.states[connection.number] = IDLE


def _finalize(output: Any) -> None:
    """Call what a model wants to be called when its answer has left."""
    if output is None:
        return
    try:
        output.execute_finalize()
    except Exception:
        _logger.exception("Failed on finalize function")


def _print_to(connection: SlotConnection) -> None:
    """Let what the model prints go to a worker's streams."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os.dup2(connection.stdout, 1)
    os.dup2(connection.stderr, 2)
