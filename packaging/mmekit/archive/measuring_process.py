"""The process in which a model is loaded to be measured: its environment, its end, its output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

from mmekit.aws_environment import without_account
from mmekit.errors import MeasureError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

    from mmekit.archive.properties import Properties

DEFAULT_TIMEOUT_S = 300.0
_OUTPUT_LINES = 12
_OUTPUT_BYTES = 64 << 10
_LOOK_S = 0.2


def worker_environment(engine: Path, model_folder: Path, properties: Properties) -> dict[str, str]:
    """Return the environment of a worker of DJL Serving, without the user's account."""
    given = _given()
    inherited = given.get("PYTHONPATH")
    # DJL Serving's order: what the container has, the engine, the model's folder.
    path = ([inherited] if inherited else []) + [str(engine), str(model_folder)]
    own = {
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(path),
    }
    return {**given, **own, **properties.env}


def _given() -> dict[str, str]:
    from mmekit.settings import local_region

    try:
        is_local = local_region() is not None
    except SettingsError:  # whoever needs the settings says it
        is_local = True
    return without_account(os.environ) if is_local else dict(os.environ)


def exit_of(status: int) -> str:
    """Say how a process ended."""
    if status >= 0:
        return f"exit code {status}"
    return f"signal {signal.Signals(-status).name}"


class MeasuringProcess:
    """A process that leads a session of its own, and with which everything goes that it started.

    Parameters
    ----------
    command, folder, environment
        What runs, where, and with which environment.
    stop
        When it is set, whoever waits for the process ends it.
    descriptors
        What it has of this process besides its output.
    """

    def __init__(
        self,
        command: list[str],
        folder: Path,
        environment: dict[str, str],
        *,
        stop: Event | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        self._stop = stop
        self._look_s = DEFAULT_TIMEOUT_S if stop is None else _LOOK_S
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - `wait` closes it
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=descriptors,
            )
        except OSError as error:
            self._output.close()
            raise MeasureError(
                f"{command[0]} could not be started: {error.strerror}",
                remedy="correct option.pythonExecutable",
            ) from error

    def wait(self, timeout_s: float, where: str) -> tuple[int, str]:
        """Return the exit status and the last lines of output."""
        with self._output:
            try:
                status = self._end(timeout_s, where)
            finally:
                self.kill()
            self._output.seek(max(0, self._output.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
            lines = self._output.read().decode("utf-8", "replace").strip().splitlines()
        return status, "\n".join(lines[-_OUTPUT_LINES:])

    def _end(self, timeout_s: float, where: str) -> int:
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            try:
                return self._process.wait(max(0.0, min(left, self._look_s)))
            except subprocess.TimeoutExpired:
                self.expect_wanted()
                if time.monotonic() >= deadline:
                    raise MeasureError(
                        f"The model took longer than {timeout_s:g} s",
                        where=where,
                        remedy="give it more time, or look for what it waits for",
                    ) from None

    def expect_wanted(self) -> None:
        """Raise StoppedError where nobody waits for the result any more."""
        if self._stop is not None and self._stop.is_set():
            raise StoppedError

    def kill(self) -> None:
        """End it and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class StoppedError(Exception):
    """Somebody has interrupted what this was a part of."""
