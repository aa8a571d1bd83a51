"""The embedded server as a process of its own, and what tests do to it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

import mmekit_runtime
from tests.forked_program import ForkedProgram

if TYPE_CHECKING:
    from collections.abc import Callable

RUNTIME = Path(mmekit_runtime.__file__).parent


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Wait for a condition; its value is returned, or the test fails."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition was not met within {seconds} s"
        time.sleep(0.005)
    return value


def has_ended(process: psutil.Process) -> bool:
    """Whether a process runs no more, be it a zombie still."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def open_files(process: psutil.Process) -> Counter[str]:
    """Return what a process has open, by name; what it closes meanwhile is not there."""
    found: Counter[str] = Counter()
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[re.sub(r":\[\d+\]$", "", str(path.readlink()))] += 1
    return found


def give_slots(folder: Path) -> Path:
    """Give a model's folder what an archive with worker slots has."""
    (folder / "mmekit_runtime").symlink_to(RUNTIME)
    shutil.copyfile(RUNTIME / "site_hook.py", folder / "sitecustomize.py")
    return folder


class _ForkedServer(ForkedProgram):
    """A server that has been forked, with pipes to it and from it."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        stdin, stdout = os.pipe(), os.pipe()
        ends = (stdin[0], stdout[1], os.dup(stdout[1]))
        super().__init__("mmekit_local.server.__main__", arguments, Path.cwd(), environment, *ends)
        self.stdin = os.fdopen(stdin[1], "w")
        self.stdout = os.fdopen(stdout[0], errors="replace")


class ServerProcess:
    """A server on a free port of loopback, and a client for it.

    Parameters
    ----------
    arguments
        Of ``python -m mmekit_local.server``, besides the port.
    environment
        Variables that it has besides this process's own.
    before
        Called in the new process before it becomes the server.
    forked
        Whether it may be forked from a process that has imported what a server needs. Not where
        its memory is measured: much of it would be shared.

    Attributes
    ----------
    lines
        What it has printed.
    """

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        before: Callable[[], object] | None = None,
        forked: bool = True,
    ) -> None:
        # Not with PYTHONPATH of whoever runs the tests: it would hide the models' runtime.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        variables = {**inherited, **(environment or {})}
        given = ["--port", "0", *arguments]
        self.process: Any
        if forked and before is None and sys.platform == "linux":
            self.process = _ForkedServer(given, variables)
        else:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mmekit_local.server", *given],
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                preexec_fn=before,  # noqa: PLW1509  no threads yet that could hold a lock
            )
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if "serving on http://" in line:
                self.port = int(line.rpartition(":")[2])
                break
        else:
            self._close_streams()
            raise RuntimeError("the server did not start:\n" + self.log)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.base = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.base, timeout=60)

    def _read(self) -> None:
        assert self.process.stdout
        self.lines.extend(self.process.stdout)

    @property
    def log(self) -> str:
        """What it has printed, as one text."""
        return "".join(list(self.lines))

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text: an answer may come before what was printed first."""
        wait_until(lambda: text in self.log)

    @property
    def pid(self) -> int:
        return self.process.pid

    def load(self, name: str, folder: Path) -> httpx.Response:
        content = {"model_name": name, "url": folder.as_uri()}
        return self.client.post("/models", json=content)

    def loaded(self, folder: Path, name: str | None = None) -> str:
        """Load a model and return its name, which is its folder's if nothing else is said."""
        answer = self.load(name or folder.name, folder)
        assert answer.status_code == 200, answer.text + self.log
        return name or folder.name

    def unload(self, name: str) -> httpx.Response:
        return self.client.delete(f"/models/{name}")

    def invoke(self, name: str, body: bytes | str = b"", **headers: str) -> httpx.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.client.post(f"/models/{name}/invoke", content=body, headers=named)

    def value(self, name: str, body: bytes | str = b"") -> str:
        """Return the text of an answer that must be a success."""
        answer = self.invoke(name, body)
        assert answer.status_code == 200, answer.text
        return answer.text

    def described(self, name: str) -> dict[str, Any]:
        return self.client.get(f"/models/{name}").json()[0]["models"][0]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def fork_servers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.Error):  # it has just ended
                if "mmekit_runtime.slots.forkserver" in process.cmdline():
                    found.append(process)
        return found

    def close(self) -> None:
        """End it; one that has ended already is only put away."""
        self.client.close()
        self.process.terminate()
        self.process.wait(timeout=60)
        self._reader.join(10)
        self._close_streams()

    def _close_streams(self) -> None:
        self.process.wait(timeout=60)
        for stream in (self.process.stdin, self.process.stdout):
            if stream and not stream.closed:
                stream.close()
