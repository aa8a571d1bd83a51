"""A template process: it imports a set of libraries, and forks on demand.

Others call such a process a zygote. None has threads, but for some that are known: a fork copies
only the thread that calls it, and what the others hold stays locked for ever in the child. An
import that starts one is left to the model processes.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import select
import signal
import sys
import time
from _socket import AF_UNIX, SOCK_STREAM
from _socket import socket as new_socket
from collections import deque
from dataclasses import dataclass, field
from types import MappingProxyType

from mmekit_runtime.slots import shared_body
from mmekit_runtime.slots.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

_MODEL_PROCESS = "mmekit_runtime.slots.model_process"
_REHEARSAL = "mmekit_runtime.slots.rehearsal"

BASE_IMPORTS = (
    "numpy",
    "djl_python",
    "djl_python.service_loader",
    "mmekit_runtime.handler",
    _MODEL_PROCESS,
)
"""What every model process needs."""

_NOT_MISSED = frozenset({b"jemalloc_bg_thd", b"polars-ooc-clea"})
"""Threads, by the name that the kernel knows, that polars starts when it is imported; others import
it where it is installed, CatBoost for one. jemalloc gives its locks back at a fork and does without
the thread; the other removes files that polars has put aside for want of memory."""

_OOM_SCORE = "/proc/self/oom_score_adj"
_FIRST_TO_GO = 500
"""Thousandths of the memory, which the kernel adds to what a process takes."""

_ENOUGH_MODELS = 2
"""Model processes from which one learns which pages they write to: others write to the same."""


@dataclass(eq=False)
class TemplateProcess:
    """A template process, as the fork server knows it.

    Attributes
    ----------
    imports
        Everything that it was asked to import, its ancestors' included, and the body that it has
        loaded (`shared_body`); what failed or was dropped counts as there, since trying again would
        end the same.
    own_ms
        Milliseconds that its own imports took.
    used_at
        When a model process that it forked was last there, or it was asked for one.
    wanted, forking
        Forks that it is still to be asked for, and who waits for each; how many it is at.
    since
        When it was started, was asked for a fork or has forked last, by the monotonic clock.
    spare, is_sparing
        A process that it has forked ahead: its id and a channel to it; whether it is about to.
    learned_from, written
        From how many model processes it has learned what those write to that it forks; that, as in
        `copy_on_write`.
    """

    imports: frozenset[str]
    channel: Channel | None = None
    pid: int = 0
    ready: bool = False
    own_ms: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    used_at: float = field(default_factory=time.monotonic)
    wanted: deque[tuple[dict[str, Any], Callable[[int, Channel | None], None]]] = field(
        default_factory=deque
    )
    forking: int = 0
    since: float = field(default_factory=time.monotonic)
    spare: tuple[int, Channel] | None = None
    is_sparing: bool = False
    learned_from: int = 0
    written: list[tuple[int, int]] = field(default_factory=list)

    def __str__(self) -> str:
        """Return what the log calls it."""
        return f"a template process with {len(self.imports)} imports"

    @property
    def has_body(self) -> bool:
        """Whether it was asked to load a body that models share."""
        return any(map(shared_body.is_body, self.imports))

    @property
    def knows_enough(self) -> bool:
        """Whether it need not learn from further model processes."""
        return self.learned_from >= _ENOUGH_MODELS


def pair() -> tuple[Any, Any]:
    """Return a connected pair of stream sockets."""
    import socket

    return socket.socketpair(AF_UNIX, SOCK_STREAM)


def thread_count() -> int:
    """Return the number of threads of this process, less those that a fork does not miss."""
    count = 0
    for number in os.listdir("/proc/self/task"):  # noqa: PTH208
        with contextlib.suppress(OSError), open(f"/proc/self/task/{number}/comm", "rb") as file:  # noqa: PTH123
            count += file.read().strip() not in _NOT_MISSED
    return count


def keep_only(fds: Iterable[int]) -> None:
    """Close every descriptor but the standard ones and these."""
    kept = sorted({0, 1, 2, *fds})
    for lower, upper in zip(kept, [*kept[1:], None]):  # noqa: B905
        if upper is None:
            limit = max((int(name) for name in os.listdir("/proc/self/fd")), default=lower)  # noqa: PTH208
            os.closerange(lower + 1, limit + 1)
        else:
            os.closerange(lower + 1, upper)


def fork_template(imports: Sequence[str]) -> tuple[int, Any]:
    """Fork a template process that imports modules; return its pid and a socket to it.

    It reports once: ``{"imported": [...], "failed": {name: reason}, "ms": ...}`` when it is ready,
    or ``{"spoiled": name, "reason": ...}`` when an import started a thread and ``{"broken":
    reason}`` when the runtime itself cannot be imported, and ends then.
    """
    ours, theirs = pair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _live(theirs.detach(), imports, {})
        except BaseException:  # noqa: BLE001
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    theirs.close()
    return pid, ours


def _live(fd: int, imports: Sequence[str], bodies: dict[str, dict[str, Any]]) -> None:
    # A connection has ended when its last duplicate is closed: none of them may be left here.
    keep_only([fd])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    channel = Channel(new_socket(fileno=fd))
    channel.sock.setblocking(False)  # noqa: FBT003
    # As the engine has it, whose model processes need not set it then.
    logging.getLogger().setLevel(logging.INFO)
    report = import_all(imports, bodies)
    if _MODEL_PROCESS in report.get("failed", ()):
        report = {"broken": report["failed"][_MODEL_PROCESS]}
    channel.send(report)
    if "imported" not in report:
        return
    if _MODEL_PROCESS in imports:
        # Before what is here is frozen, as what this makes is to be shared as well.
        importlib.import_module(_REHEARSAL).rehearse()
    from mmekit_runtime.slots import copy_on_write  # brings ctypes: not for the fork server

    plugs = copy_on_write.prepare_to_fork()
    _serve(channel)
    del plugs


def import_all(
    imports: Sequence[str], bodies: Mapping[str, dict[str, Any]] = MappingProxyType({})
) -> dict[str, Any]:
    """Import modules one by one, and load bodies; say which failed, or which started a thread.

    Parameters
    ----------
    bodies
        What those of the imports stand for that are bodies (`shared_body`).
    """
    began = time.monotonic()
    # Packages may have been installed since the process that this one is forked from looked.
    importlib.invalidate_caches()
    failed: dict[str, str] = {}
    for name in imports:
        try:
            if name in bodies:
                shared_body.SharedBody(**bodies[name]).load()
            else:
                importlib.import_module(name)
        except shared_body.CannotShare as problem:
            return {"spoiled": name, "reason": str(problem)}
        except BaseException as error:  # noqa: BLE001  the model process will have the same error
            failed[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if thread_count() > 1:
            return {"spoiled": name, "reason": "starts a thread"}
    imported = [name for name in imports if name not in failed]
    elapsed = (time.monotonic() - began) * 1000
    return {"imported": imported, "failed": failed, "ms": elapsed}


def _serve(channel: Channel) -> None:
    """Fork what the fork server asks for, and tell it how children ended."""
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    os.set_blocking(wake_reader, False)
    # A child may end between two calls of poll(), which would sleep on: the signal leaves a byte.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    watched = select.poll()
    watched.register(channel.fileno(), select.POLLIN)
    watched.register(wake_reader, select.POLLIN)
    with contextlib.suppress(ConnectionError):  # the fork server is gone
        while True:
            writing = select.POLLOUT if channel.pending else 0
            watched.modify(channel.fileno(), select.POLLIN | writing)
            for fd, event in watched.poll():
                if fd == wake_reader:
                    os.read(wake_reader, 4096)
                    continue
                if event & select.POLLOUT:
                    channel.flush()
                if not event & ~select.POLLOUT:
                    continue
                messages = channel.receive()
                if messages is None:
                    return
                for message, fds in messages:
                    if "learn" in message:
                        _learn(channel, message)
                    else:
                        _fork_for(channel, message, fds)
            _reap(channel)


def _learn(channel: Channel, message: dict[str, Any]) -> None:
    """Tell what a model process has written to, with what is known of others."""
    from mmekit_runtime.slots import copy_on_write

    written = message["known"]
    with contextlib.suppress(OSError):  # it has ended
        found = copy_on_write.written(message["learn"])
        written = copy_on_write.common(written or found, found)
    channel.send({"written": written})


def _fork_for(channel: Channel, message: dict[str, Any], fds: list[int]) -> None:
    pid = _forked() if len(fds) == message["fds"] else None
    if pid == 0:
        try:
            # The number is another file's soon, and a signal of the model's would write there.
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if message["fork"] == "template":
                _live(fds[0], message["imports"], message.get("bodies", {}))
            else:
                # What the model starts ends with it, by its group.
                os.setpgid(0, 0)
                _go_before_the_server()
                keep_only(fds)
                is_spare = message["fork"] == "spare"
                importlib.import_module(_MODEL_PROCESS).run(fds[0], is_spare=is_spare)
        except BaseException:  # noqa: BLE001
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(1)
    for fd in fds:
        os.close(fd)
    channel.send({"forked": message["number"], "pid": pid or 0})


def _go_before_the_server() -> None:
    """Be what the kernel ends first where memory runs out: another process replaces this one.

    Left to itself it takes the largest, which is the server, and with it all of its models.
    """
    with contextlib.suppress(OSError, ValueError), open(_OOM_SCORE, "r+b", buffering=0) as file:  # noqa: PTH123
        # Never down, for which a process needs a privilege.
        if int(file.read()) < _FIRST_TO_GO:
            file.write(b"%d" % _FIRST_TO_GO)


def _forked() -> int | None:
    try:
        return os.fork()
    except OSError as error:
        print(f"{os.getpid()} cannot fork: {error}", flush=True)  # noqa: T201
        return None


def _reap(channel: Channel) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        # What the model has started is in its group; nobody else knows of it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        channel.send({"ended": pid, "status": status})
