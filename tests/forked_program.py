"""Programs in processes that are forked from one that has imported what they need.

The tests import `ForkedProgram`; the process that it forks runs this file by its path, as a module
of the tests is known to pytest alone. What has been imported is said in conftest.py.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PROCESSES = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_PR_SET_PDEATHSIG = 1


class ForkedProgram:
    """A program that has been started, spoken of as a `subprocess.Popen` is.

    It ends with the tests, also when these are killed: on Linux, with the process that it was
    forked from.

    Parameters
    ----------
    program
        A module, whose function main is called, or the path of a file.
    arguments
        What it finds in ``sys.argv``.
    folder, environment
        Of the new process.
    streams
        Descriptors for its standard input, output and error; they are closed here.
    """

    def __init__(
        self,
        program: str,
        arguments: list[str],
        folder: Path,
        environment: Mapping[str, str],
        *streams: int,
    ) -> None:
        ends = [Connection(number) for number in streams]
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        given = (program, arguments, str(folder), dict(environment), limit, *ends)
        self._process = _PROCESSES.Process(
            target=runpy.run_path, args=(__file__, {"given": given}, "forked"), daemon=True
        )
        self._process.start()
        self.pid = self._process.pid
        for end in ends:
            end.close()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("the program", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _become(program, arguments, folder, environment, limit, *streams):
    """Run a program; what it finds is what a process has that is no fork."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it may have been looked up before there was TMPDIR
    sys.argv[1:] = arguments
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            sys.exit(importlib.import_module(program).main())
    finally:
        atexit._run_exitfuncs()  # a fork ends without them


if __name__ == "forked":
    _become(*globals()["given"])
