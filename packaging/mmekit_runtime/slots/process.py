"""The model process: one handler behind many connections.

It does for every connection what DJL's python_sync_engine.py does for its one, with two
differences: requests that wait at the same time are answered by one vectorised call, where the
handler is an mmekit_runtime Handler, and the initialisation reaches the handler once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import random
import select
import signal
import sys
import time
from _socket import socket as new_socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mmekit_runtime.handler import Handler
from mmekit_runtime.messages import Reply
from mmekit_runtime.slots import heap, pages
from mmekit_runtime.slots.channel import Channel
from mmekit_runtime.slots.connection import Connection
from mmekit_runtime.slots.demand import Demand
from mmekit_runtime.slots.departure import Departure
from mmekit_runtime.slots.descriptors import Pipes
from mmekit_runtime.slots.ledger import (
    BEGUN,
    IDLE,
    SENDING,
    SENDING_NOTED,
    TAKEN,
    YIELDING,
    Ledger,
)
from mmekit_runtime.slots.memory import private_bytes
from mmekit_runtime.slots.outbox import LONGEST, Outbox
from mmekit_runtime.slots.service import (
    Arguments,
    Service,
    is_single,
    output_bytes,
    reply_bytes,
    request_of,
    stream_pieces,
)
from mmekit_runtime.wire import Message, WireError, decode_request, encode_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The engine logs to the root logger, and so does what stands in for it.
_logger = logging.getLogger()

_REHEARSALS = 64
_ERRORS = 400
_FAILURES = 300
_PREDICT_TIMEOUT_S = 120.0


class ModelProcess:
    """The loop of one model process.

    Parameters
    ----------
    channel
        To the fork server.
    ledger
        Shared with it.
    start
        What the fork server sent first: the worker's arguments, environment and so on.
    """

    def __init__(self, channel: Channel, ledger: Ledger, start: dict[str, Any]) -> None:
        self._channel: Channel | None = channel
        self._ledger = ledger
        self._outbox = Outbox(ledger) if Outbox.is_possible() else None
        self._start = start
        self._by_fd: dict[int, Connection] = {}
        self._by_number: dict[int, Connection] = {}
        # Of those that are ready it names first who has been for longest; poll() does not.
        self._poll = select.epoll()
        self._pipes = Pipes()
        self._demand = Demand()
        self._initialised: bytes | None = None
        self._limit_s = _PREDICT_TIMEOUT_S
        self._service = self._import_model()

    def _import_model(self) -> Service:
        # The lines are those of djl_python_engine.py.
        arguments = Arguments(self._start["argv"])
        logging.basicConfig(
            stream=sys.stdout,
            format="%(levelname)s::%(message)s",
            level=arguments.log_level.upper(),
            # What the parents have imported may have set up logging, which the engine does first.
            force=True,
        )
        if "SM_TELEMETRY_LOG_REV_2022_12" in os.environ:
            _log_for_sagemaker(os.environ["SM_TELEMETRY_LOG_REV_2022_12"])
        if not self._start["quiet"]:  # the fork server says so
            _logger.info(
                "%d - djl_python_engine started with args: %s", os.getpid(), self._start["argv"][1:]
            )
        began = time.monotonic_ns()
        service = Service(arguments)
        self._ledger.set_load(import_ns=time.monotonic_ns() - began)
        return service

    def run(self) -> None:
        """Say that model.py is imported, and answer until the last connection ends."""
        assert self._channel is not None  # noqa: S101
        self._poll.register(self._channel.fileno(), select.EPOLLIN)
        replay = self._start.get("init")
        if replay is not None:
            # A predecessor had been initialised: its connections will not ask again.
            self._initialise(Message(dict(replay), ()))
            if self._initialised is None:
                raise RuntimeError("the model could not be loaded again")
            heap.give_back()
        self._tell({"ready": os.getpid()})
        while self._channel is not None or self._by_fd:
            self._turn()

    # The loop.

    def _turn(self) -> None:
        channel = self._channel
        if channel is not None and channel.pending:
            self._poll.modify(channel.fileno(), select.EPOLLIN | select.EPOLLOUT)
        events = dict(self._poll.poll())
        # First of all, as what is printed from now on may have to go elsewhere.
        if channel is not None and channel.fileno() in events:
            self._hear(channel, events.pop(channel.fileno()))
        ready = list(events)
        if self._channel is None:
            # A server that stops a request kills what it started, not this process; and nobody
            # else does so now. This watch needs no interpreter that is free to run it.
            faulthandler.dump_traceback_later(self._limit_s, exit=True)
            self._serve(ready)
            faulthandler.cancel_dump_traceback_later()
        else:
            self._serve(ready)

    def _serve(self, ready: list[int]) -> None:
        connections = [one for fd in ready if (one := self._by_fd.get(fd)) is not None]
        leaving = [one for one in connections if one.departure is not None]
        asking = [one for one in connections if one.departure is None]
        # One by one, where requests cannot be answered together: those that wait stay in the
        # kernel, for a successor or another process to take.
        is_joining = self._service.handler is not None
        chosen = asking[: self._demand.most(self._limit_s) if is_joining else 1]
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
            crowded = self._demand.note(answered, waiting, took_ns)
            if crowded is not None:
                self._tell(crowded)

    def _waiting(self, served: list[Connection]) -> int:
        """Return on how many other connections a request waits, those that came meanwhile too."""
        ready = (self._by_fd.get(fd) for fd, _ in self._poll.poll(0))
        return sum(one is not None and one not in served for one in ready)

    def _take(self, chosen: list[Connection]) -> int:
        """Answer the requests of connections that can be read.

        Returns how many there were, those that load the model not counted.
        """
        taken = []
        for connection in chosen:
            try:
                alive = connection.receive(self._ledger.states)
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

    def _hear(self, channel: Channel, event: int) -> None:
        messages: Iterable[tuple[dict[str, Any], list[int]]] | None = ()
        try:
            if event & select.EPOLLOUT:
                channel.flush()
                if not channel.pending:
                    self._poll.modify(channel.fileno(), select.EPOLLIN)
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
            self._park(message["park"])

    def _release(self, number: int, token: int) -> None:
        """Leave a connection to another process, unless something on it is half done."""
        connection = self._by_number.get(number)
        released = connection is not None and not connection.is_halfway
        if connection is not None and released:
            self._drop(connection, tell=False)
        self._tell({"released": released, "token": token})

    def _park(self, answered_ns: int) -> None:
        """End, if nothing has come since the fork server looked, and nothing is half done.

        What is in the connections stays there: the fork server watches them from now on.
        """
        halfway = any(connection.is_halfway for connection in self._by_fd.values())
        if halfway or self._ledger.answered_ns != answered_ns or self._channel is None:
            self._tell({"stays": os.getpid()})
            return
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        self._tell({"parked": private_bytes()})
        with contextlib.suppress(OSError):
            self._channel.finish()
        # What the model has started ends with it, by its parent; nothing else is left to do.
        os._exit(0)

    def _receive_slot(self, message: dict[str, Any], fds: list[int]) -> None:
        if len(fds) == message["fds"]:
            self._add(Connection(message["slot"], fds, self._pipes))
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

    def _add(self, connection: Connection) -> None:
        self._by_fd[connection.sock.fileno()] = connection
        self._by_number[connection.number] = connection
        # It may have been that of a slot that was dropped in the middle of an answer.
        self._ledger.states[connection.number] = IDLE
        self._poll.register(connection.sock.fileno(), select.EPOLLIN)
        if len(self._by_fd) == 1:
            _print_to(connection)

    def _drop(self, connection: Connection, *, tell: bool = True) -> None:
        self._poll.unregister(connection.sock.fileno())
        del self._by_fd[connection.sock.fileno()]
        del self._by_number[connection.number]
        if tell:
            self._tell({"closed": connection.number})
        if self._by_fd:
            # What the model prints must not go to a worker that nobody reads any more.
            _print_to(next(iter(self._by_fd.values())))
        connection.close()
        departure, connection.departure = connection.departure, None
        if departure is not None:
            _finalize(departure.output)

    # Answering.

    def _answer(self, taken: list[tuple[Connection, Message]]) -> None:
        together = []
        for connection, message in taken:
            if not message.content:
                loads = self._initialised is None
                self._ledger.begin(connection.number)
                self._send(connection, self._initialise(message))
                if loads:
                    heap.give_back()
            elif self._service.handler is not None and is_single(message):
                together.append((connection, message))
            else:
                self._answer_alone(connection, message)
        if together:
            self._answer_together(self._service.handler, together)

    def _answer_together(
        self, handler: Handler | None, taken: list[tuple[Connection, Message]]
    ) -> None:
        assert handler is not None  # noqa: S101
        for connection, _ in taken:
            self._ledger.begin(connection.number)
        began = time.monotonic_ns()
        try:
            replies = handler.answer([request_of(message) for _, message in taken])
        except Exception as error:  # a bug of ours: the requests must be answered all the same
            _logger.exception("the handler could not be asked")
            replies = [Reply.of_exception(error)] * len(taken)
        # Counted first: whoever has an answer finds it counted.
        errors = sum(reply.status >= _ERRORS for reply in replies)
        self._count([connection for connection, _ in taken], began, errors)
        for (connection, _), reply in zip(taken, replies, strict=True):
            self._send(connection, reply_bytes(reply))

    def _answer_alone(self, connection: Connection, message: Message) -> None:
        self._ledger.begin(connection.number)
        began = time.monotonic_ns()
        output = self._service.invoke(message)
        self._count([connection], began, int(output.code >= _ERRORS))
        if output.stream_content is None:
            self._send(connection, output_bytes(output), output)
        else:
            self._depart(connection, Departure(b"", stream_pieces(output), output), TAKEN)

    def _count(self, connections: list[Connection], began: int, errors: int) -> None:
        self._ledger.add(
            requests=len(connections),
            errors=errors,
            queue_ns=sum(began - connection.taken_ns for connection in connections),
            predict_ns=time.monotonic_ns() - began,
        )

    def _initialise(self, message: Message) -> bytes:
        """Answer the initialisation; later slots get the answer of the first that succeeded."""
        if self._initialised is not None:
            return self._initialised
        began = time.monotonic_ns()
        output = self._service.invoke(message)
        elapsed = time.monotonic_ns() - began
        data = output_bytes(output)
        if output.code < _FAILURES:
            self._initialised = data
            self._limit_s = _limit_of(message.properties)
            self._ledger.set_load(load_ns=elapsed)
            self._tell({"initialised": dict(message.properties)})
            if not self._start["quiet"]:
                self._log_load(elapsed)
        return data

    def _log_load(self, load_ns: int) -> None:
        times = self._start["times"]
        _logger.info(
            "mmekit: worker slot: a parent with %s was ready in %.0f ms; forked in %.1f ms, "
            "model.py in %.1f ms, loaded in %.1f ms",
            ", ".join(times["imports"]) or "numpy alone",
            times["parent_ms"],
            times["fork_ms"],
            self._ledger.counters()["import_ns"] / 1e6,
            load_ns / 1e6,
        )

    def _send(self, connection: Connection, data: bytes, output: Any = None) -> None:
        sent = 0
        if self._outbox is not None and len(data) <= LONGEST:
            self._outbox.prepare(data)
            self._ledger.states[connection.number] = SENDING_NOTED
            sent = self._outbox.send(connection.sock.fileno())
        if sent == len(data):
            self._done(connection)
            _finalize(output)
        else:
            self._depart(connection, Departure(data[sent:], output=output), SENDING)
            self._go_on(connection)

    def _depart(self, connection: Connection, departure: Departure, state: int) -> None:
        """Have an answer leave in turns, as far as its connection takes it."""
        self._ledger.states[connection.number] = state
        connection.departure = departure
        self._poll.modify(connection.sock.fileno(), select.EPOLLOUT)

    def _go_on(self, connection: Connection) -> bool:
        """Send more of an answer; whether the model was asked for it."""
        departure = connection.departure
        assert departure is not None  # noqa: S101
        is_making = departure.lacks_data
        if is_making:
            self._ledger.begin(connection.number, YIELDING if departure.has_begun else BEGUN)
            departure.make()
            self._ledger.states[connection.number] = SENDING
        try:
            has_left = departure.send(connection.sock)
        except OSError:
            # It shows again as the end of the connection, in the next turn.
            has_left = True
        if has_left:
            connection.departure = None
            self._poll.modify(connection.sock.fileno(), select.EPOLLIN)
            self._ledger.touch()
            self._done(connection)
            _finalize(departure.output)
        return is_making

    def _done(self, connection: Connection) -> None:
        connection.message = None
        self._ledger.states[connection.number] = IDLE


def _finalize(output: Any) -> None:
    """Call what a model wants to be called when its answer has left."""
    if output is None:
        return
    try:
        output.execute_finalize()
    except Exception:
        _logger.exception("Failed on finalize function")


def _limit_of(properties: Mapping[str, str]) -> float:
    """Return the seconds after which a server gives up a request, read as PyModel does."""
    try:
        return max(1.0, float(properties["predict_timeout"]))
    except (KeyError, ValueError):
        return _PREDICT_TIMEOUT_S


def _log_for_sagemaker(filename: str) -> None:
    # configure_sm_logging of djl_python_engine.py.
    from djl_python.sm_log_filter import SMLogFilter

    handler = logging.FileHandler(filename=filename)
    handler.addFilter(SMLogFilter())
    _logger.addHandler(handler)


class _Stream(io.FileIO):
    """A standard stream whose reader may go away: a model's worker ends, and its model prints on.

    What is printed until the stream is that of another worker is lost, and no request fails.
    """

    def write(self, data: Any) -> int:
        """Write, or pretend to."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _reopened(stream: TextIO) -> TextIO:
    # Line by line, as a worker's output is read while the model works.
    raw = io.BufferedWriter(_Stream(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)


def _print_to(connection: Connection) -> None:
    """Let what the model prints go to a worker's streams."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os.dup2(connection.stdout, 1)
    os.dup2(connection.stderr, 2)


class _Echo(Handler):
    """Answers the first column."""

    def load(self, folder: Path) -> None:  # noqa: ARG002
        return None

    def predict(self, model: None, rows: Any, parameters: Any) -> Any:  # noqa: ARG002
        return rows[:, 0]


def rehearse(times: int = _REHEARSALS) -> None:
    """Answer a few requests without a model, so that forks find the code warm.

    CPython rewrites the bytecode of a function while it is new; done before the fork it is done
    once, and the pages stay shared.
    """
    handler = _Echo()
    handler.prepare(Path())
    properties = {"Content-Type": "application/json", "Accept": "*/*", "handler": "handle"}
    data = encode_request(properties, (("data", b'{"instances": [[1.0, 2.0]]}'),))
    for _ in range(times):
        found = decode_request(data)
        assert found is not None  # noqa: S101
        for reply in handler.answer([request_of(found[0]), request_of(found[0])]):
            reply_bytes(reply)


def run(channel_fd: int, *, is_spare: bool = False) -> None:
    """Be a model process, once the fork server says of which model.

    One that was forked ahead has time until then to make the pages its own that models write to.
    """
    parent = os.getppid()
    channel = Channel(new_socket(fileno=channel_fd))
    channel.sock.setblocking(True)  # noqa: FBT003
    if is_spare:
        rehearse(1)
    first = _first_message(channel)
    if first is None:
        return
    start, (ledger_fd, stdout, stderr) = first
    ledger = Ledger(ledger_fd)
    os.close(ledger_fd)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    sys.stdout, sys.stderr = _reopened(sys.stdout), _reopened(sys.stderr)
    _take_place(start)
    try:
        ModelProcess(channel, ledger, start).run()
    except Exception:
        _logger.exception("Python engine process died")
    finally:
        _logger.info("%d - Python process finished", os.getpid())
        if os.getppid() != parent:
            # Which would end what the model has started.
            os.killpg(0, signal.SIGKILL)


def _first_message(channel: Channel) -> tuple[dict[str, Any], list[int]] | None:
    while (received := channel.receive()) is not None:
        for message, fds in received:
            if "written" not in message:
                return message, fds
            pages.copy(message["written"])
    return None


def _take_place(start: dict[str, Any]) -> None:
    """Become what the worker's own process would have been."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(start["environ"])
    os.environ.update(start["site_environ"])
    os.chdir(start["cwd"])
    sys.argv = list(start["argv"])
    sys.orig_argv = [sys.executable, *start["argv"]]
    engine = str(Path(start["argv"][0]).parent)
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    own = {*start["dropped_paths"], *inherited, engine}
    sys.path[:] = [engine, *inherited, *(path for path in sys.path if path not in own)]
    random.seed()
    # numpy imports it when it is first asked for, and seeds it then.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()
