"""Real servers on free ports, and small models made on the spot."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ECHO = """
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    return Output().add(inputs.get_as_bytes())
"""


@dataclass
class RunningServer:
    """A server process and a client for it."""

    process: subprocess.Popen[str]
    port: int
    client: httpx.Client
    lines: list[str]

    def load(self, name: str, folder: Path) -> httpx.Response:
        content = {"model_name": name, "url": folder.as_uri()}
        return self.client.post("/models", json=content)

    def invoke(self, name: str, body: bytes | str = b"", **headers: str) -> httpx.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.client.post(f"/models/{name}/invoke", content=body, headers=named)


def start_server(*arguments: str) -> RunningServer:
    process = subprocess.Popen(
        [sys.executable, "-m", "mmekit.server", "--port", "0", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    lines: list[str] = []
    port = 0
    for line in process.stdout:
        lines.append(line)
        if "serving on http://" in line:
            port = int(line.rpartition(":")[2])
            break
    else:
        pytest.fail("the server did not start:\n" + "".join(lines))
    stream = process.stdout
    threading.Thread(target=lambda: lines.extend(stream), daemon=True).start()
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    return RunningServer(process, port, client, lines)


def stop_server(server: RunningServer) -> None:
    server.client.close()
    server.process.terminate()
    server.process.wait(timeout=30)
    for stream in (server.process.stdin, server.process.stdout):
        if stream:
            stream.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One server for a file of tests."""
    running = start_server()
    yield running
    stop_server(running)


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a model folder out of a model.py and properties."""

    def make(code: str = ECHO, name: str = "model", **properties: str | int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.py").write_text(code)
        lines = [f"{key.replace('__', '.')}={value}" for key, value in properties.items()]
        (folder / "serving.properties").write_text("\n".join(["engine=Python", *lines]))
        return folder

    return make
