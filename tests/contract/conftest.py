"""Servers that keep the container contract, and models made on the spot.

The tests know a base URL and nothing of what is behind it. `Server.side` is for those that show
where two servers differ on purpose (test_differences.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest

from mmekit.errors import ServerError
from mmekit_local.containers.docker import INSIDE_PORT, run_command
from mmekit_local.ports import free_port
from mmekit_local.sagemaker import Placement
from mmekit_local.scratch import scratch_folder
from mmekit_local.server.djl import DjlServing
from tests.docker_engine import IMAGE_VARIABLE, why_not
from tests.server_process import ServerProcess, give_slots, wait_until

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator, Sequence

    Starts = dict[str, Callable[..., contextlib.AbstractContextManager["Server"]]]

ECHO = """
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    return Output().add(inputs.get_as_bytes())
"""

BEHAVIOUR = """
import json
import logging
import sys
import time
from hashlib import sha256
from pathlib import Path
from djl_python import Output

def numbers():
    yield "a"
    yield "b"

def gated(path):
    yield "first"
    while not Path(path).exists():
        time.sleep(0.005)
    yield "second"

def broken():
    yield "a"
    time.sleep(0.2)
    raise ValueError("in the middle")

def parts(inputs):
    pairs = zip(inputs.content.keys, inputs.content.values)
    return [[key, bytes(value).decode("latin-1")] for key, value in pairs]

def log():
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logging.getLogger("the.model"), level)("logged as %s by the model", level)
    print("printed by the model", flush=True)  # Python keeps it back otherwise, as on DJL Serving
    print("printed on stderr", file=sys.stderr)
    return Output().add("logged")

WISHES = {
    "none": lambda _: None,
    "str": lambda _: "x",
    "empty": lambda _: Output(),
    "text": lambda _: Output().add("ü").add_property("Content-Type", "text/plain; charset=utf-8"),
    "teapot": lambda _: Output(code=418, message="teapot").add("t").add_property("X-My", "1"),
    "created": lambda _: Output(code=201, message="made").add("t"),
    "bad": lambda _: Output(code=500, message="bad").add("t"),
    "unavailable": lambda _: Output(code=503, message="later").add("t"),
    "no body": lambda _: Output(code=204, message="nothing").add("x"),
    "not modified": lambda _: Output(code=304, message="the same").add("x"),
    "error": lambda _: Output().error("why", code=424, message="the message"),
    "nan": lambda _: Output().add_as_json(float("nan")),
    "json": lambda _: Output().add_as_json({"a": [1, "ü"]}),
    "two": lambda _: Output().add("a", key="k1").add("b", key="k2"),
    "data last": lambda _: Output().add("a", key="k1").add("b", key="data"),
    "generator": lambda _: numbers(),
    "stream": lambda _: Output().add_stream_content(numbers(), None),
    "gated": lambda inputs: Output().add_stream_content(gated(inputs.get_as_string()), None),
    "no chunk": lambda _: Output().add_stream_content(iter([]), None),
    "broken stream": lambda _: Output().add_stream_content(broken(), None),
    "large": lambda _: Output().add(b"x" * (20 << 20)),
    "hash": lambda inputs: Output().add(sha256(inputs.get_as_bytes()).hexdigest()),
    "properties": lambda inputs: Output().add_as_json(inputs.get_properties()),
    "parts": lambda inputs: Output().add_as_json(parts(inputs)),
    "log": lambda _: log(),
    "euro": lambda _: Output(code=299, message="\\u20ac").add("x").add_property("X-A", "\\u20ac"),
    "ours": lambda _: Output()
    .add("x")
    .add_property("Connection", "close")
    .add_property("Content-Length", "3")
    .add_property("X-Request-Id", "mine")
    .add_property("content-type", "text/a")
    .add_property("Content-Type", "text/b"),
    "reason": lambda _: Output(code=400, message="a\\r\\nX-Evil: 1").add("x"),
    "value": lambda _: Output().add("x").add_property("X-E", "a\\r\\nX-Evil: 1"),
    "name": lambda _: Output().add("x").add_property("X Y", "1"),
    "status": lambda _: Output(code=1000, message="beyond").add("x"),
}

def handle(inputs):
    if inputs.is_empty():
        return None
    wish = inputs.get_properties().get("wish", "")
    if wish == "raise":
        raise RuntimeError("boom\\nline2")
    if wish == "memory":
        raise MemoryError("big")
    if wish in WISHES:
        return WISHES[wish](inputs)
    return Output().add(inputs.get_as_bytes() or b"")
"""


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


@dataclass
class Answer:
    """One HTTP response, byte by byte."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


class Wire:
    """A connection on which bytes are sent as they are."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=60)
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self) -> Answer:
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        _, status, reason = (lines[0] + " ").split(" ", 2)
        headers = [(line.partition(":")[0], line.partition(":")[2].strip()) for line in lines[1:]]
        return Answer(int(status), reason.strip(), headers)

    def answer(self, *, method: str = "POST") -> Answer:
        answer = self.head()
        if answer.header("transfer-encoding") == "chunked" and method != "HEAD":
            while chunk := self.chunk():
                answer.chunks.append(chunk)
            answer.body = b"".join(answer.chunks)
        elif method != "HEAD" and answer.status not in (100, 204, 304):
            answer.body = self._exactly(int(answer.header("content-length") or 0))
        return answer

    def chunk(self) -> bytes:
        size = int(self._until(b"\r\n"), 16)
        return self._exactly(size + 2)[:-2]

    def ended(self) -> bool:
        """Whether the server closed the connection and sent no further byte."""
        with contextlib.suppress(ConnectionError):
            return not self._buffer and not self.socket.recv(1)
        return True

    def close(self) -> None:
        self.socket.close()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _more(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError(f"the server closed the connection after {self._buffer!r}")
        self._buffer += data


@dataclass
class Server:
    """A running server, whichever it is."""

    side: str
    port: int
    log: Callable[[], str]
    pid: int
    slots: bool = False
    host: str = "127.0.0.1"
    only_model: Path | None = None
    """Where it finds the one model of a single-model container; None is where it lies."""

    def __post_init__(self) -> None:
        self.base = f"http://{self.host}:{self.port}"
        self.client = httpx.Client(base_url=self.base, timeout=60)
        self._wires: list[Wire] = []

    @property
    def is_djl(self) -> bool:
        """Whether it is the real DJL Serving, wherever that runs."""
        return self.side != "embedded"

    def has_plugin(self, name: str) -> bool:
        """Whether DJL Serving has said that it loads a plugin; distributions have more or fewer."""
        return f"Loading plugin: {{{name}/" in self.log()

    def load(self, name: str, folder: Path) -> httpx.Response:
        content = {"model_name": name, "url": folder.as_uri()}
        return self.client.post("/models", json=content)

    def unload(self, name: str) -> httpx.Response:
        return self.client.delete(f"/models/{quote(name, safe='')}")

    def invoke(self, name: str, body: bytes | str = b"", **headers: str) -> httpx.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        path = f"/models/{quote(name, safe='')}/invoke"
        return self.client.post(path, content=body, headers=named)

    def describe(self, name: str) -> dict[str, Any]:
        (described,) = self.client.get(f"/models/{name}").json()
        (model,) = described["models"]
        return model

    def workers(self, name: str) -> list[dict[str, Any]]:
        (group,) = self.describe(name)["workerGroups"]
        return group["workers"]

    def connect(self) -> Wire:
        wire = Wire((self.host, self.port))
        self._wires.append(wire)
        return wire

    def close_wires(self) -> None:
        for wire in self._wires:
            wire.close()
        self._wires.clear()


@contextlib.contextmanager
def embedded(*arguments: str) -> Iterator[Server]:
    running = ServerProcess(*arguments)
    try:
        server = Server("embedded", running.port, lambda: running.log, running.pid)
        with server.client:
            yield server
    finally:
        running.close()


@contextlib.contextmanager
def djl_serving(**options: Any) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="djl-"))
    port = free_port("127.0.0.1")
    serving = DjlServing(folder, port, **options)
    file = folder / "output.log"
    try:
        with file.open("wb") as output:
            serving.start(output)
        serving.wait_until_healthy()
        log = lambda: file.read_text(errors="replace")  # noqa: E731
        server = Server("djl", port, log, serving.pid or 0)
        with server.client:
            yield server
    finally:
        serving.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def docker_container(shared: Path, model: Path | None = None) -> Iterator[Server]:
    """DJL Serving in a container, started as `mme up` starts it, but in this machine's processes.

    Tests look at processes, and share files with models; and at how connections end, so they are
    made to the container itself and not to what Docker puts before it.
    """
    if reason := why_not():
        pytest.skip(reason)
    name = f"mmekit-contract-{os.getpid()}-{free_port()}"
    image = os.environ[IMAGE_VARIABLE]
    # The folder is its owner, too: a service that starts meanwhile takes it for nobody's otherwise.
    with scratch_folder("mme-contract-") as folder:
        # Without a locale, as in AWS's image, Java 17 resets connections that name models beyond
        # ASCII. SageMaker's names are none.
        locale = (("LC_ALL", "C.UTF-8"),)
        placement = Placement(name, folder, locale, model=model, image=image)
        (folder / "models").mkdir()
        command = run_command(placement, free_port(), name, folder)
        mounts = [word for place in (shared, PACKAGING) for word in ("-v", f"{place}:{place}")]
        command[2:2] = ["--pid", "host", *mounts]
        file = folder / "output.log"
        with file.open("wb") as output:
            client = subprocess.Popen(command, stdout=output, stderr=output)
        log = lambda: file.read_text(errors="replace")  # noqa: E731
        try:
            host, pid = _address_and_pid(name, client, log)
            inside = Path("/opt/ml/model") if model else None
            server = Server("docker", INSIDE_PORT, log, pid, host=host, only_model=inside)
            with server.client:
                wait_until(lambda: _answers(server, client), 120)
                yield server
        finally:
            subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
            client.wait(60)


def _address_and_pid(
    name: str, client: subprocess.Popen[bytes], log: Callable[[], str]
) -> tuple[str, int]:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}} {{.State.Pid}}"
    command = ["docker", "inspect", "--format", form, name]

    def asked() -> tuple[str, int] | None:
        if client.poll() is not None:
            raise RuntimeError(log())
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        return (told[0], int(told[1])) if len(told) == 2 else None

    found: tuple[str, int] = wait_until(asked, 60)
    return found


def _answers(server: Server, client: subprocess.Popen[bytes]) -> bool:
    if client.poll() is not None:
        raise RuntimeError(server.log())
    with contextlib.suppress(httpx.HTTPError):
        return server.client.get("/ping").status_code == 200
    return False


PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
SIDES = (
    "embedded",
    *(["djl"] if os.environ.get("MMEKIT_DJL_HOME") else []),
    *(["docker"] if os.environ.get(IMAGE_VARIABLE) else []),
)
KINDS = tuple(kind for side in SIDES for kind in (side, f"{side}-slots"))


@pytest.fixture(scope="session", params=KINDS)
def shared_server(request: pytest.FixtureRequest, start: Starts) -> Iterator[Server]:
    """One server of each kind for all tests."""
    side, _, slots = request.param.partition("-")
    with start[side]() as server:
        server.slots = bool(slots)
        yield server


@pytest.fixture
def server(shared_server: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server without any model, except the one that does what it is told, if asked for."""
    if "behaviour" not in request.fixturenames:
        shared_server.unload("behaviour")
    yield shared_server
    shared_server.close_wires()
    for model in shared_server.client.get("/models").json()["models"]:
        if model["modelName"] != "behaviour":
            shared_server.unload(model["modelName"])


class ModelFolder:
    """Makes the folders of models."""

    def __init__(self, parent: Path, *, slots: bool) -> None:
        self._parent = parent
        self._slots = slots

    def __call__(
        self, code: str | None = ECHO, name: str = "model", **properties: str | int
    ) -> Path:
        """Make one with a worker, unless properties say otherwise; a dot in them is `__`."""
        given = {key.replace("__", "."): value for key, value in properties.items()}
        given = {"engine": "Python", "minWorkers": 1, "maxWorkers": 1, **given}
        lines = [f"{key}={value}" for key, value in given.items() if value != ""]
        return self.of_text(code, "\n".join(lines), name)

    def of_text(self, code: str | None, properties: str | None, name: str = "model") -> Path:
        folder = self._parent / name
        folder.mkdir(parents=True)
        if code is not None:
            (folder / "model.py").write_text(code)
        if properties is not None:
            (folder / "serving.properties").write_text(properties)
        if self._slots:
            give_slots(folder)
        return folder


@pytest.fixture
def model_folder(server: Server, tmp_path: Path) -> ModelFolder:
    return ModelFolder(tmp_path, slots=server.slots)


@pytest.fixture(scope="session")
def behaviour_folder(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ModelFolder(tmp_path_factory.mktemp("models"), slots=shared_server.slots)(BEHAVIOUR)


@pytest.fixture
def behaviour(
    shared_server: Server, behaviour_folder: Path
) -> Iterator[Callable[..., httpx.Response]]:
    """The model that does what the header `wish` says; it stays loaded for the tests after."""
    if shared_server.client.get("/models/behaviour").status_code != 200:
        loaded = shared_server.load("behaviour", behaviour_folder)
        assert loaded.status_code == 200, loaded.text

    def wish(what: str, body: bytes | str = b"", **headers: str) -> httpx.Response:
        return shared_server.invoke("behaviour", body, wish=what, **headers)

    yield wish
    shared_server.close_wires()


@pytest.fixture
def says() -> Callable[..., None]:
    """Assert that an answer is an error, in DJL Serving's words."""

    def check(
        answer: httpx.Response, status: int, kind: str, message: str | re.Pattern[str] | None
    ) -> None:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"]
        assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
        content = json.loads(answer.content)
        assert (content["code"], content["type"]) == (status, kind)
        if isinstance(message, str):
            assert content["message"] == message
        elif message is not None:
            assert message.search(content["message"]), content["message"]

    return check


@pytest.fixture
def post() -> Callable[..., bytes]:
    """Write a request by hand."""

    def write(
        path: str, body: bytes = b"", headers: Sequence[str] = (), method: str = "POST"
    ) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body

    return write


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Starts:
    """Ways to start a server of one's own."""
    in_docker = functools.partial(docker_container, tmp_path_factory.getbasetemp())
    return {"embedded": embedded, "djl": djl_serving, "docker": in_docker}


@pytest.fixture(scope="session")
def start_errors() -> tuple[type[Exception], ...]:
    """Return the errors that mean that a server did not start."""
    return (RuntimeError, ServerError)
