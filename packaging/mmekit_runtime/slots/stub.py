"""The process that DJL Serving starts for a worker, turned into a slot of a model process.

It runs while Python starts (sitecustomize.py), before the engine: it asks the fork server for a
slot and then becomes a shell that waits for its end, 0.1 MiB instead of a Python. When anything
stands in the way it says why in one line and returns, and the plain engine runs. Either holds the
model's layers, by descriptors that it has from `mmekit_runtime.layers`, as long as it lives.
"""

from __future__ import annotations

import contextlib
import os
import sys

from mmekit_runtime.slots import keys
from mmekit_runtime.texts import PROPERTIES_BYTES, read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mmekit_runtime.slots.channel import Channel

ENGINE_SCRIPT = "djl_python_engine.py"
SHELL = "/bin/sh"
# Ends with the number that the fork server sends, as the engine would have; 1 without one.
WAIT = 'read -r code; exit "${code:-1}"'
ANSWER_TIMEOUT_S = 110.0
"""DJL Serving gives a worker two minutes to start."""

_HEARD_TIMEOUT_S = 10.0
"""A fork server that is at work says sooner that it has heard; one that was stopped never does."""
_START_TIMEOUT_S = 30.0
# As long as its holder may take: to find that nobody listens, and to start one that does.
_LOCK_TIMEOUT_S = 40.0
_LOCK_PAUSE_S = 0.01
_ATTEMPTS = 3


class _Refused(Exception):  # noqa: N818
    """There will be no slot; the text says why."""


def enter() -> None:
    """Become a slot, and never return; or return for the plain engine to run."""
    try:
        _become_slot()
    except _Refused as refusal:
        reason = str(refusal)
    except Exception as error:  # noqa: BLE001  a model never fails to load because of this
        reason = f"{type(error).__name__}: {error}"
    line = f"INFO::mmekit: plain engine, no worker slot: {' '.join(reason.split())}\n"
    os.write(1, line.encode("utf-8", "replace"))


def engine_arguments(argv: list[str]) -> list[str] | None:
    """Return the engine's own arguments when this process is DJL's engine."""
    for index, argument in enumerate(argv):
        if argument.endswith(ENGINE_SCRIPT):
            return argv[index:]
    return None


def option(arguments: list[str], name: str) -> str:
    """Return the value that follows an option; empty when it is not there."""
    try:
        return arguments[arguments.index(name) + 1]
    except (ValueError, IndexError):
        return ""


def unsupported(arguments: list[str]) -> str | None:
    """Return why a worker with these arguments cannot have a slot, None when it can."""
    if option(arguments, "--sock-type") != "unix":
        return "the worker's socket is not a Unix socket"
    if "--async-mode" in arguments:
        return "option.async_mode"
    if option(arguments, "--tensor-parallel-degree"):
        return "tensor parallelism"
    model_dir = option(arguments, "--model-dir")
    if os.path.exists(os.path.join(model_dir, "MAR-INF")):  # noqa: PTH110, PTH118
        return "a TorchServe archive"
    try:
        file = os.path.join(model_dir, "serving.properties")  # noqa: PTH118
        text = b"\n" + read_text(file, PROPERTIES_BYTES).lower()
    except OSError:
        text = b""
    except ValueError as error:
        return f"serving.properties cannot be read: {error}"
    # The separator is one of = : and white space; the module re would cost the stub more.
    for character in b" \t\f=:":
        text = text.replace(b"%c" % character, b"")
    return "option.enable_venv" if b"\noption.enable_venvtrue" in text else None


def _become_slot() -> None:  # noqa: C901  a list of reasons, one after the other
    if not sys.platform.startswith("linux"):
        raise _Refused(f"worker slots need Linux, this is {sys.platform}")
    arguments = engine_arguments(sys.orig_argv)
    if arguments is None:
        raise _Refused("this is not DJL's engine")
    if keys.is_off(os.environ):
        raise _Refused(f"{keys.OFF_VARIABLE} is off")
    reason = unsupported(arguments)
    if reason:
        raise _Refused(reason)
    if not os.access(SHELL, os.X_OK):
        raise _Refused(f"{SHELL} is missing")
    from _socket import AF_UNIX, SOCK_STREAM
    from _socket import socket as new_socket

    from mmekit_runtime.slots.channel import Channel

    model_dir = os.path.abspath(option(arguments, "--model-dir"))  # noqa: PTH100
    key = keys.sharing_key(os.environ, model_dir)
    path = keys.socket_path(keys.socket_folder(os.environ), key)
    message = {
        "ask": "worker",
        "key": key,
        "argv": arguments,
        "environ": dict(os.environ),
        "model_dir": model_dir,
        "cwd": os.getcwd(),  # noqa: PTH109
        "pid": os.getpid(),
        "acknowledge": True,
    }
    for attempt in range(_ATTEMPTS):
        sock = new_socket(AF_UNIX, SOCK_STREAM)
        sock.settimeout(_HEARD_TIMEOUT_S)
        try:
            _connect(sock, path, key, model_dir)
            channel = Channel(sock)
            channel.send(message, (1, 2))
            channel.finish()
            reply = _reply(channel)
        except TimeoutError:
            sock.close()
            raise _Refused("the fork server does not answer") from None
        except OSError:
            sock.close()
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        if reply is None:
            # The fork server ended just now; the next one will have us.
            sock.close()
            continue
        if "plain" in reply:
            sock.close()
            raise _Refused(reply["plain"])
        # The flag goes along into the shell, whose read would fail instead of waiting.
        sock.setblocking(True)  # noqa: FBT003
        os.dup2(sock.fileno(), 0)
        os.execve(SHELL, ["mmekit-slot", "-c", WAIT], {})  # noqa: S606
    raise _Refused("the fork server ends again and again")


def _reply(channel: Channel) -> dict[str, Any] | None:
    """Return what the fork server says; None when it ends."""
    while (received := channel.receive()) is not None:
        for message, _ in received:
            if "heard" not in message:
                return message
            channel.sock.settimeout(ANSWER_TIMEOUT_S)
    return None


def _connect(sock: object, path: str, key: str, model_dir: str) -> None:
    try:
        sock.connect(path)  # type: ignore[attr-defined]
    except (FileNotFoundError, ConnectionRefusedError):
        start_fork_server(path, key, model_dir)
        sock.connect(path)  # type: ignore[attr-defined]


def start_fork_server(path: str, key: str, model_dir: str) -> None:
    """Start the fork server for a key; of several that try, the first does and the others wait.

    Raises
    ------
    OSError
        It did not come to listen.
    """
    lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait_for_lock(lock)
        if not _listens(path):
            _launch(path, key, model_dir)
    finally:
        os.close(lock)


def _wait_for_lock(lock: int) -> None:
    """Wait until the worker that starts the fork server has done so; it may be stopped itself."""
    import fcntl
    import time

    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError("another worker starts the fork server for ever") from None
            time.sleep(_LOCK_PAUSE_S)
        else:
            return


def _listens(path: str) -> bool:
    from _socket import AF_UNIX, SOCK_STREAM
    from _socket import socket as new_socket

    probe = new_socket(AF_UNIX, SOCK_STREAM)
    # connect() waits while the queue of a fork server that was stopped is full.
    probe.settimeout(_HEARD_TIMEOUT_S)
    try:
        probe.connect(path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _launch(path: str, key: str, model_dir: str) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # A process of a session of its own, whose parent is gone: it outlives this worker.
        try:
            os.setsid()
            if os.fork() == 0:
                _execute(path, key, model_dir, writer)
        finally:
            os._exit(1)
    os.close(writer)
    os.waitpid(child, 0)
    try:
        if not _readable(reader, _START_TIMEOUT_S) or not os.read(reader, 1):
            raise OSError(f"the fork server did not start; {path}.log may say why")
    finally:
        os.close(reader)


def _readable(reader: int, timeout_s: float) -> bool:
    import select

    poll = select.poll()
    poll.register(reader, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _execute(path: str, key: str, model_dir: str, ready: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(path + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    environ = fork_server_environment(os.environ, model_dir)
    # In hex, as NUL stands between the parts of a key, and no variable can hold that.
    environ["MMEKIT_SLOTS_KEY"] = key.encode("utf-8", "surrogateescape").hex()
    # Of the locks that hold this model's layers: it outlives the model.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) > 2 and int(name) != ready:  # noqa: PLR2004
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)  # noqa: FBT003
    os.set_inheritable(ready, True)  # noqa: FBT003
    # It outlives the model's folder; and -m puts the working directory onto sys.path.
    os.chdir("/")
    module = "mmekit_runtime.slots.forkserver"
    os.execve(sys.executable, [sys.executable, "-m", module, path, str(ready)], environ)  # noqa: S606


def fork_server_environment(
    environ: dict[str, str] | os._Environ[str], model_dir: str
) -> dict[str, str]:
    """Return the environment for a fork server: the runtime of this model can be imported."""
    paths = [*keys.library_paths(environ, model_dir), model_dir]
    # One thread each: a library that starts threads when it is imported, as OpenBLAS does, cannot
    # be forked. MKL takes its number from OMP_NUM_THREADS, and starts them later. The last is for
    # the allocator in pyarrow, which scikit-learn imports when it is installed.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    calm = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
    return {**single, **calm, **environ, "PYTHONPATH": os.pathsep.join(paths)}
