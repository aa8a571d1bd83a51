"""Worker slots for real: processes that are started as DJL Serving starts its workers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from mmekit.engine import engine_folder
from mmekit_local.server.replies import ReplyReader, WorkerReply
from mmekit_local.server.worker import STARTED, WorkerSpec
from mmekit_runtime.slots import stub
from mmekit_runtime.slots.channel import Channel
from mmekit_runtime.wire import encode_request
from tests.control_group import ControlGroup, control_group
from tests.server_process import RUNTIME, ServerProcess, give_slots, open_files, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

if not sys.platform.startswith("linux"):
    # Worker slots need Linux; elsewhere models run on the plain engine.
    collect_ignore_glob = ["test_*.py"]

EVALUATE = """
import os, random, signal, sys, threading, time
from pathlib import Path
from djl_python import Output

initialised = []

def handle(inputs):
    if inputs.is_empty():
        initialised.append(dict(inputs.get_properties()))
        return None
    return Output().add(str(eval(inputs.get_as_string())))

def hold(path):
    while not os.path.exists(path):
        time.sleep(0.002)
    return "held"
"""
"""A model that answers Python expressions."""


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return wait_until


class ModelFolder:
    """Makes the folders of models."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    def __call__(
        self,
        code: str = EVALUATE,
        name: str = "model",
        *,
        runtime: bool = True,
        files: dict[str, str] | None = None,
        **properties: str | int,
    ) -> Path:
        """Write a model.py, serving.properties, further files, and the runtime or a link to it."""
        folder = self._parent / name
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(code)
        # Tests that want more processes than one say so: others count them.
        properties = {"option__processes": 1, **properties}
        lines = [f"{key.replace('__', '.')}={value}" for key, value in properties.items()]
        (folder / "serving.properties").write_text("\n".join(["engine=Python", *lines, ""]))
        for path, text in (files or {}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        if runtime:
            give_slots(folder)
        return folder

    @staticmethod
    def change_runtime(folder: Path, module: str, old: str, new: str) -> None:
        """Give a model a runtime of its own, with a line of a module of the slots changed."""
        runtime = folder / "mmekit_runtime"
        if runtime.is_symlink():
            runtime.unlink()
            shutil.copytree(RUNTIME, runtime, ignore=shutil.ignore_patterns("__pycache__"))
        file = runtime / "slots" / f"{module}.py"
        text = file.read_text()
        assert text.count(old) == 1
        file.write_text(text.replace(old, new))


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    return ModelFolder(tmp_path / "models")


@pytest.fixture(scope="module")
def shared_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return ModelFolder(tmp_path_factory.mktemp("models"))


class Conversation:
    """A server's side of the connection to one worker."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(path)

    def ask(self, body: bytes | str, **properties: str) -> WorkerReply:
        """Send one request and return its answer."""
        self.send(body, **properties)
        return self.receive()

    def send(self, body: bytes | str, **properties: str) -> None:
        """Send one request, as DJL Serving does: its body is the content ``data``."""
        data = body.encode() if isinstance(body, str) else body
        named = {key.replace("_", "-"): value for key, value in properties.items()}
        self.sock.sendall(encode_request({"handler": "handle", **named}, (("data", data),)))

    def receive(self) -> WorkerReply:
        """Return the next answer; ConnectionError at the end of the connection."""
        reader = ReplyReader()
        reply = None
        while reply is None or reader.stream is not None:
            chunk = self.sock.recv(1 << 20)
            if not chunk:
                break
            reply = reader.feed(chunk) or reply
        else:
            if reply.stream is None:
                return reply
            gathered = b"".join(reply.stream._chunks)
            return reply._replace(content=((None, gathered),), stream=None)
        raise ConnectionError("the worker ended the connection")

    def unread(self) -> int:
        """Return how much of what was sent has not been taken, in bytes of the kernel's memory."""
        return struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, b"\0" * 4))[0]

    def initialise(self, **properties: str) -> WorkerReply:
        """Send the empty request that loads the model, and return its answer."""
        self.send_load(**properties)
        return self.receive()

    def send_load(self, **properties: str) -> None:
        """Send the empty request that loads the model."""
        self.sock.sendall(encode_request({"handler": "handle", **properties}))

    def value(self, expression: str) -> str:
        """Ask a model that is made of `EVALUATE`."""
        answer = self.ask(expression)
        assert answer.status == 200, answer
        return answer.body.decode()


class StubWorker(Conversation):
    """A worker's process, started and read as DJL Serving does it.

    Attributes
    ----------
    lines
        What it has printed, standard error included.
    """

    _numbers = iter(range(19000, 10**9))

    def __init__(
        self, folder: Path, sockets: Path, environment: dict[str, str], arguments: Sequence[str]
    ) -> None:
        spec = WorkerSpec(folder.name[:15], folder, engine_folder(), sockets, {}, environment)
        self.path = str(sockets / f"djl_sock.{next(self._numbers)}")
        # Not with PYTHONPATH of whoever runs the tests: it would hide the model's runtime.
        paths = [environment.get("PYTHONPATH"), str(spec.engine), str(folder)]
        variables = {**spec.variables(), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.process = subprocess.Popen(
            [sys.executable, *spec.engine_arguments(self.path), *arguments],
            cwd=folder,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._spoken = threading.Condition()
        self._reading = threading.Lock()
        self._closed = False
        self._wake = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        fd = self.process.stdout.fileno()
        rest = b""
        while self._wake[0] not in select.select([fd, self._wake[0]], [], [])[0]:
            chunk = os.read(fd, 1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            with self._reading, self._spoken:
                self.lines += [line.decode(errors="replace") + "\n" for line in lines]
                self._spoken.notify_all()
        with self._spoken:
            self._closed = True
            self._spoken.notify_all()

    def wait_for(self, text: str, seconds: float = 120.0) -> str:
        """Return the first line with a text, once it is printed."""
        with self._spoken:
            self._spoken.wait_for(lambda: self._closed or self.line(text), seconds)
        line = self.line(text)
        assert line, f"no {text!r} in:\n{self.output}"
        return line

    def line(self, text: str) -> str | None:
        """Return the first line with a text, None when there is none yet."""
        return next((line for line in list(self.lines) if text in line), None)

    def reading_stopped(self) -> threading.Lock:
        """Return what to hold while nobody shall read the worker's output."""
        return self._reading

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def connect(self) -> None:
        """Wait until the engine has started, and connect to it."""
        self.wait_for(STARTED.decode())
        super().__init__(self.path)

    @property
    def is_slot(self) -> bool:
        """Whether the process has become, or becomes, a shell that waits."""
        if self.line(f"{self.process.pid} - djl_python_engine started"):
            return False
        process = psutil.Process(self.process.pid)
        wait_until(lambda: process.cmdline()[:1] == ["mmekit-slot"])
        return True

    def kill(self) -> None:
        """End it as DJL Serving does: the process first, then the connection."""
        self.process.kill()
        self.process.wait(60)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        if hasattr(self, "sock"):
            self.sock.close()

    def close(self) -> None:
        """Leave nothing behind, as a server that is gone: nobody reads the output any more."""
        self.kill()
        assert self.process.stdin
        assert self.process.stdout
        if not self.process.stdout.closed:
            os.write(self._wake[1], b"x")
            self._reader.join(10)
            for fd in self._wake:
                os.close(fd)
            self.process.stdin.close()
            self.process.stdout.close()


class Claim(Conversation):
    """A slot as a server asks for it that makes both ends of its connection itself.

    Attributes
    ----------
    reply
        What the fork server has said last.
    """

    def __init__(self, path: Path, message: dict[str, Any], streams: tuple[int, int]) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(60)
        asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        asking.connect(str(path))
        asking.settimeout(60)
        self.control = Channel(asking)
        self.reply: dict[str, Any] = {}
        with theirs:
            self.control.send(message, (*streams, theirs.fileno()))
            self.control.finish()

    def hear(self) -> dict[str, Any] | None:
        """Return what the fork server says next; None at the end of the slot."""
        while (messages := self.control.receive()) is not None:
            for message, fds in messages:
                for fd in fds:
                    os.close(fd)
                self.reply = message
                return message
        return None

    def close(self) -> None:
        """End the slot."""
        self.sock.close()
        self.control.close()


class MemoryLine:
    """The connection over which a server speaks with its fork server about memory."""

    def __init__(self, path: Path) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(path))
        connection.settimeout(60)
        self._channel = Channel(connection)
        self._heard: list[dict[str, Any]] = []
        self.send(ask="memory", key="")
        assert self.hear() == {"memory": True, "fds": 0}

    def send(self, **message: Any) -> None:
        self._channel.send(message)

    def hear(self) -> dict[str, Any]:
        """Return what the fork server says next."""
        while not self._heard:
            received = self._channel.receive()
            assert received is not None
            self._heard += [message for message, _ in received]
        return self._heard.pop(0)

    def close(self) -> None:
        self._channel.close()


class BareForkServer:
    """A fork server of a test's own, as a server starts one, and the slots that it gives.

    Parameters
    ----------
    folder
        Of a model, whose runtime it runs.
    descriptors
        How many it may have open; as many as it likes by default.
    before
        Called in the new process before it becomes the fork server.
    """

    def __init__(
        self,
        folder: Path,
        descriptors: int | None = None,
        before: Callable[[], object] | None = None,
        **environment: str,
    ) -> None:
        self.folder = folder
        self._base = Path(tempfile.mkdtemp(prefix="bf-"))
        self._path = self._base / "s"
        self._claims: list[Claim] = []
        self._lines: list[MemoryLine] = []
        owner, self._owner = os.pipe()
        ready, said = os.pipe()
        paths = {"PYTHONPATH": str(engine_folder()), "MMEKIT_SLOTS_SPARES": "0"}
        variables = {**os.environ, **paths, **environment}
        self._variables = variables
        arguments = (str(self._path), str(said), "--owner", str(owner))

        def limit() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
            if before is not None:
                before()

        self._log = (self._base / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mmekit_runtime.slots.forkserver", *arguments],
            env=stub.fork_server_environment(variables, str(folder)),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=(owner, said),
            preexec_fn=limit,  # noqa: PLW1509  no thread holds a lock that it needs
        )
        os.close(owner)
        os.close(said)
        assert os.read(ready, 1), self.log
        os.close(ready)
        self._streams = os.pipe()
        self._drain = threading.Thread(target=self._read_streams, daemon=True)
        self.output = b""
        self._drain.start()

    def _read_streams(self) -> None:
        while chunk := os.read(self._streams[0], 1 << 16):
            self.output += chunk

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self._base / "log").read_text()

    def ask(self, model: str = "model", folder: Path | None = None) -> Claim:
        """Ask for a slot, and don't wait for it."""
        folder = folder or self.folder
        spec = WorkerSpec(model, folder, engine_folder(), folder, {}, {})
        message = {
            "ask": "slot",
            "key": "",
            "argv": spec.engine_arguments("slot"),
            "environ": {**self._variables, "PYTHONPATH": f"{engine_folder()}:{folder}"},
            "model_dir": str(folder),
            "model": model,
            "cwd": str(folder),
            "pid": os.getpid(),
        }
        claim = Claim(self._path, message, (self._streams[1], self._streams[1]))
        self._claims.append(claim)
        return claim

    def memory_line(self) -> MemoryLine:
        """Speak about memory."""
        self._lines.append(MemoryLine(self._path))
        return self._lines[-1]

    def start(self, model: str = "model", folder: Path | None = None) -> Claim:
        """Return a slot whose model is loaded."""
        claim = self.ask(model, folder)
        assert "slot" in (claim.hear() or {}), f"{claim.reply}\n{self.log}"
        answer = claim.initialise()
        assert answer.status < 300, answer
        return claim

    def templates(self) -> list[psutil.Process]:
        """Return the processes that model processes are forked from."""
        return psutil.Process(self.process.pid).children()

    def close(self) -> None:
        """End it, and see that all that it has forked ends too."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        os.close(self._owner)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self.process.send_signal(signal.SIGCONT)
        self.process.wait(60)
        wait_until(lambda: not any(one.is_running() for one in processes))
        for one in (*self._claims, *self._lines):
            one.close()
        os.close(self._streams[1])
        self._drain.join(10)
        os.close(self._streams[0])
        self._log.close()
        shutil.rmtree(self._base)


class Slots:
    """A private folder for fork servers, and the workers that use it."""

    def __init__(self, idle_s: float) -> None:
        # Short names: the path of a socket may have 107 characters.
        self._base = Path(tempfile.mkdtemp(prefix="sl-"))
        self.folder = self._base / "f"
        self._sockets = self._base / "s"
        self._sockets.mkdir()
        self._idle_s = idle_s
        self._workers: list[StubWorker] = []

    def launch(self, folder: Path, *arguments: str, **environment: str) -> StubWorker:
        """Start a worker's process and don't wait for it."""
        variables = {
            "MMEKIT_SLOTS_DIR": str(self.folder),
            "MMEKIT_SLOTS_IDLE_S": str(self._idle_s),
            # Tests count processes; those of spares say so.
            "MMEKIT_SLOTS_SPARES": "0",
            **environment,
        }
        worker = StubWorker(folder, self._sockets, variables, arguments)
        self._workers.append(worker)
        return worker

    def start(self, folder: Path, *arguments: str, **environment: str) -> StubWorker:
        """Start a worker, connect to it and have the model loaded."""
        worker = self.launch(folder, *arguments, **environment)
        worker.connect()
        answer = worker.initialise()
        assert answer.status < 300, answer
        return worker

    def start_many(self, count: int, folder: Path) -> list[StubWorker]:
        """Start several workers of one model, the first of them first."""
        first = self.start(folder)
        others = [self.launch(folder) for _ in range(count - 1)]
        for worker in others:
            worker.connect()
            assert worker.initialise().status < 300
        return [first, *others]

    def processes(self) -> list[psutil.Process]:
        """Return all that a fork server is and forks: forks have one command line."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                named = any(str(self.folder) in part for part in process.cmdline())
                if named and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def model_processes(self) -> list[psutil.Process]:
        """Return the processes that answer: these alone are in a model's folder."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.cwd() != "/":
                    found.append(process)
        return found

    def templates(self) -> list[psutil.Process]:
        """Return the processes that model processes are forked from."""
        others = [self.fork_server(), *self.model_processes()]
        return [one for one in self.processes() if one not in others]

    def fork_server(self) -> psutil.Process:
        """Return the one fork server that listens."""
        (path,) = [path for path in self.folder.iterdir() if path.is_socket()]
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return psutil.Process(struct.unpack("3i", credentials)[0])

    def socket_files(self) -> list[Path]:
        """Return what workers have left where the server has put their sockets."""
        return list(self._sockets.iterdir())

    def scoreboards(self) -> int:
        """Return the number of model processes that the fork server has."""
        (server,) = self.roots()
        files = open_files(server).items()
        return sum(count for name, count in files if "mmekit-scoreboard" in name)

    def waiting_connections(self) -> int:
        """Return the number of clients that the fork server has not accepted yet."""
        (path,) = [path for path in self.folder.iterdir() if path.is_socket()]
        lines = Path("/proc/net/unix").read_text().splitlines()
        connecting = "02"
        return sum(line.split()[5] == connecting for line in lines if line.endswith(str(path)))

    def roots(self) -> list[psutil.Process]:
        """Return the processes that none of the others has forked."""
        processes = self.processes()
        pids = {process.pid for process in processes}
        found = []
        for process in processes:
            with contextlib.suppress(psutil.Error):
                if process.ppid() not in pids:
                    found.append(process)
        return found

    @property
    def log(self) -> str:
        """What the fork servers have logged."""
        return "".join(path.read_text() for path in self.folder.glob("*.log"))

    def close(self) -> None:
        """End everything, and see that it does end."""
        for worker in self._workers:
            worker.close()
        for process in self.roots():
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not self.processes())
        shutil.rmtree(self._base)


@pytest.fixture
def group() -> Iterator[Callable[[int], ControlGroup]]:
    """Make a control group with a limit; whoever is in it has to end before this does."""
    with contextlib.ExitStack() as stack:
        yield lambda limit: stack.enter_context(control_group(limit))


@pytest.fixture
def bare(model: ModelFolder) -> Iterator[Callable[..., BareForkServer]]:
    """Start a fork server of a test's own."""
    servers = []

    def start(folder: Path | None = None, **options: Any) -> BareForkServer:
        servers.append(BareForkServer(folder or model(), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def slots() -> Iterator[Slots]:
    """Fork servers of a test's own."""
    own = Slots(idle_s=60)
    yield own
    own.close()


@pytest.fixture
def impatient_slots() -> Iterator[Slots]:
    """Fork servers that end as soon as they have nothing to do."""
    own = Slots(idle_s=0.2)
    yield own
    own.close()


@pytest.fixture(scope="module")
def shared_slots() -> Iterator[Slots]:
    """A fork server for a file of tests."""
    own = Slots(idle_s=60)
    yield own
    own.close()


@pytest.fixture(scope="module")
def embedded() -> Iterator[ServerProcess]:
    """The embedded server, for a file of tests; each names its models."""
    running = ServerProcess()
    yield running
    running.close()
