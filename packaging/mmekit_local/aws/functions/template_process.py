"""A template process: a program that forks the processes in which functions run.

A process of its own for every invocation is what a rehearsal needs; to start Python and boto3 each
time would take seconds of a core. So both are imported here, once, and a function's process begins
as a fork of this one: it has the standard library and boto3, as AWS's runtime has, and nothing else
that happens to be installed.

`FunctionTemplateProcess` is the service's side. It runs this very file by its path, isolated:
``python -I -S template_process.py FD FOLDERS``. FD is a Unix stream socket, FOLDERS the JSON list
of places to import boto3 from. Messages are of one size, `_MESSAGE`. From the service: ``F`` (fork;
it brings two descriptors, the channel and where output goes) and ``K`` (kill), with the token of an
invocation. To it: ``R`` (ready), ``P`` (the process has this id) and ``X`` (it has ended, with this
status, and its memory was at most so many KiB). When the socket ends, because the service did, so
does everything that was forked here.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import importlib.util
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Fork", "FunctionTemplateProcess", "ProcessExit"]

_MESSAGE = struct.Struct("<cQqq")
_DESCRIPTORS = 2
_MAXRSS_PER_KIB = 1024 if sys.platform == "darwin" else 1
_PREFIX = "_mmekit_function_"

_READY_S = 60.0
_STOP_S = 5.0
_FULL_S = 0.005  # until the template process has read some of what waits for it


# Measured against a plain process for each, on two cores with other work: a handler with a boto3
# client took 0.1 s against 2 to 4 s; 30 at once took 2.9 s and 339 MB against 56 s and 937 MB.
class _Program:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._runtime = _load("runtime")
        self._can_mount = self._runtime.can_mount(Path.cwd())
        self._running: dict[int, int] = {}  # process id -> token
        self._woken, self._wake = os.pipe()
        for descriptor in (self._woken, self._wake):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        # It does nothing, but without one of Python's nothing is written to the descriptor.
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Fork, kill and reap as told, until the socket ends."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            self._send((b"R", 0, os.getpid(), 0))
            try:
                while True:
                    ready = [key.fileobj for key, _ in selector.select()]
                    if self._woken in ready:
                        self._reap()
                    if self._control in ready and not self._dispatch():
                        return
            except (BrokenPipeError, ConnectionResetError):
                return
            finally:
                for process in self._running:
                    _kill_group(process)

    def _dispatch(self) -> bool:
        ancillary = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)
        # One message and no more: descriptors come with the bytes that they were sent with.
        message, received, *_ = self._control.recvmsg(_MESSAGE.size, ancillary)
        if not message:
            return False
        kind, token, *_ = _MESSAGE.unpack(message)
        if kind == b"F":
            descriptors = array.array("i")
            for level, what, content in received:
                if (level, what) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.frombytes(content[: _DESCRIPTORS * descriptors.itemsize])
            self._fork(token, *descriptors)
        else:
            for process, running in self._running.items():
                if running == token:
                    _kill_group(process)
        return True

    def _fork(self, token: int, channel: int, output: int) -> None:
        process = os.fork()
        if process == 0:
            self._run_function(channel, output)
        with contextlib.suppress(OSError):  # either of the two may be first
            os.setpgid(process, process)
        os.close(channel)
        os.close(output)
        self._running[process] = token
        self._send((b"P", token, process, 0))

    def _run_function(self, channel: int, output: int) -> NoReturn:
        """Be a function's process, to the end."""
        status = 1
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            for descriptor in (nothing, output, self._woken, self._wake):
                os.close(descriptor)
            self._control.close()
            with socket.socket(fileno=channel) as connection:
                spec = self._runtime.receive(connection)
                if self._can_mount:
                    self._runtime.mount(spec["root"])
                    spec["root"] = self._runtime.TASK_ROOT
                self._runtime.run(spec, connection)
            status = 0
        except SystemExit as leaving:
            code = leaving.code
            status = code & 0xFF if isinstance(code, int) else int(code is not None)
        except BaseException:  # noqa: BLE001 - nothing may get back into the template
            sys.excepthook(*sys.exc_info())
        finally:
            self._runtime.flush()
            # Not by way of the exit handlers, which are the template's.
            os._exit(status)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken, 4096):
                pass
        ended = []
        with contextlib.suppress(ChildProcessError):
            while True:
                process, status, usage = os.wait4(-1, os.WNOHANG)
                if process == 0:
                    break
                _kill_group(process)  # what the handler left behind; AWS freezes it
                token = self._running.pop(process, None)
                if token is not None:
                    code = os.waitstatus_to_exitcode(status)
                    ended.append((b"X", token, code, usage.ru_maxrss // _MAXRSS_PER_KIB))
        if ended:
            self._send(*ended)

    def _send(self, *messages: tuple[bytes, int, int, int]) -> None:
        self._control.sendall(b"".join(_MESSAGE.pack(*message) for message in messages))


def _kill_group(process: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def _load(name: str) -> Any:
    """Load a module beside this file without making its folder one to import from."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(_PREFIX + name, path)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[_PREFIX + name] = module
    spec.loader.exec_module(module)
    return module


def _import_boto3(folders: list[str]) -> None:
    """Import boto3 and what it needs; nothing else of these folders can be imported afterwards.

    Its descriptions of AWS's services are read once and shared: to read them takes a function
    longer than all else that it does.
    """
    standard = sys.path[:]
    sys.path += folders
    import boto3.s3.transfer
    import botocore.session
    from botocore.loaders import Loader, create_loader

    loader = create_loader()

    def shared_loader(search_path: str | None = None) -> Loader:
        return create_loader(search_path) if search_path else loader

    setattr(botocore.session, "create_loader", shared_loader)  # noqa: B010 - its own is typed
    session = boto3.Session(aws_access_key_id="-", aws_secret_access_key="-")  # noqa: S106
    for service in ("sagemaker-runtime", "s3"):
        session.client(service, region_name="us-east-1").close()
    sys.path[:] = standard


def _main() -> None:
    """Be the program: serve on the socket that the first argument names."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _import_boto3(json.loads(sys.argv[2]))
    program = _Program(control)
    gc.collect()
    gc.freeze()  # what is here is shared by all; a collection would copy it
    program.serve()


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended: its status, negative for a signal, and the most memory it had."""

    status: int
    memory_kib: int


class Fork:
    """A process that was forked for an invocation.

    Attributes
    ----------
    process : int or None
        Its id, as soon as it is known.
    ended : asyncio.Future of Ending
    """

    def __init__(self, token: int) -> None:
        self.token = token
        self.process: int | None = None
        self.ended: asyncio.Future[ProcessExit] = asyncio.get_running_loop().create_future()


class FunctionTemplateProcess:
    """The running program, as the service sees it; `start` starts one.

    Attributes
    ----------
    over : bool
        Whether it has ended, and with it all that it forked.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.over = False
        self._process = process
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._tokens = 0
        self._forks: dict[int, Fork] = {}
        self._received = b""
        self._sending = asyncio.Lock()
        control.setblocking(False)  # noqa: FBT003 - the name says it
        self._loop.add_reader(control.fileno(), self._receive)

    @classmethod
    async def start(cls, folder: Path) -> FunctionTemplateProcess:
        """Start the program in a folder, and wait until it can fork.

        Raises
        ------
        OSError
            It does not start.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.to_thread(_start_program, theirs, folder)
        template = cls(process, ours)
        try:
            await asyncio.wait_for(asyncio.shield(template._ready), _READY_S)
        except asyncio.TimeoutError as error:
            await template.close()
            raise OSError("the program that forks functions does not start") from error
        except BaseException:
            await template.close()
            raise
        return template

    async def fork(self, channel: socket.socket, output: int) -> Fork:
        """Have a process forked that has one end of a channel, and a pipe to print to.

        Raises
        ------
        OSError
            The program has ended.
        """
        self._tokens += 1
        fork = self._forks[self._tokens] = Fork(self._tokens)
        descriptors = array.array("i", [channel.fileno(), output]).tobytes()
        await self._send(b"F", fork, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        return fork

    async def kill(self, fork: Fork) -> None:
        """Kill a process and all that it has started, and wait until it has ended."""
        if not fork.ended.done():
            with contextlib.suppress(OSError):  # then it has ended with the program
                await self._send(b"K", fork, [])
        await asyncio.wait([fork.ended])

    async def close(self) -> None:
        """End the program, and it all that it forked."""
        self._on_closed()
        try:
            await asyncio.to_thread(self._process.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def _send(self, kind: bytes, fork: Fork, attached: list[tuple[int, int, bytes]]) -> None:
        message = _MESSAGE.pack(kind, fork.token, 0, 0)
        async with self._sending:
            while not self.over:
                try:
                    self._control.sendmsg([message], attached)
                except BlockingIOError:
                    await asyncio.sleep(_FULL_S)
                else:
                    return
        raise OSError("the program that forks functions has ended")

    def _receive(self) -> None:
        try:
            received = self._control.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._on_closed()
            return
        self._received += received
        while len(self._received) >= _MESSAGE.size:
            message, self._received = (
                self._received[: _MESSAGE.size],
                self._received[_MESSAGE.size :],
            )
            self._dispatch(*_MESSAGE.unpack(message))

    def _dispatch(self, kind: bytes, token: int, value: int, memory_kib: int) -> None:
        if kind == b"R" and not self._ready.done():
            self._ready.set_result(None)
        elif kind == b"P":
            self._forks[token].process = value
        elif kind == b"X":
            self._forks.pop(token).ended.set_result(ProcessExit(value, memory_kib))

    def _on_closed(self) -> None:
        if self.over:
            return
        self.over = True
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        for fork in self._forks.values():
            if fork.process is not None:  # should the program have been killed
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(fork.process, signal.SIGKILL)
            fork.ended.set_result(ProcessExit(-signal.SIGKILL, 0))
        self._forks.clear()
        if not self._ready.done():
            self._ready.set_exception(OSError("the program that forks functions has ended"))


def _start_program(control: socket.socket, folder: Path) -> subprocess.Popen[bytes]:
    # boto3 is wherever this Python finds it; no site folders of its own, and none of our variables,
    # some of which are secrets.
    folders = json.dumps([path for path in sys.path if Path(path).is_dir()])
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", __file__, str(control.fileno()), folders],
        pass_fds=[control.fileno()],
        cwd=folder,
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "no_proxy": "*"},
        stdin=subprocess.DEVNULL,
        # Ctrl-C is for the service, with whose socket this ends.
        start_new_session=True,
    )


if __name__ == "__main__":
    _main()
