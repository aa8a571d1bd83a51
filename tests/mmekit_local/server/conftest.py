"""A real server on a free port, and small models made on the spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.server_process import ServerProcess

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


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One server for a file of tests."""
    running = ServerProcess()
    yield running
    running.close()


@pytest.fixture
def own_server() -> Iterator[ServerProcess]:
    """A server for one test, which ends with its standard input."""
    running = ServerProcess("--exit-with-stdin")
    yield running
    running.close()


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
