"""A local endpoint at the side of a command, for as long as the command runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmekit.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_START_S = 60
_POLL_S = 0.05


def run_beside(command: Sequence[str], options: Sequence[str], host: str, port: int) -> int:
    """Start an endpoint, run a command, end the endpoint; return the command's exit code.

    The command finds the endpoint through MME_LOCAL_URL. For programs only: it changes what
    signals do to this process, so that neither of the two outlives it.

    Parameters
    ----------
    command
        The program and its arguments.
    options
        Of ``mme up``, such as ``["--port", "8950"]``.
    host, port
        Where these options make the endpoint listen.

    Raises
    ------
    EndpointError
        The endpoint did not start.
    OSError
        The command cannot be started.
    """
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    environment = {**os.environ, "MME_LOCAL_URL": f"http://{host}:{port}"}
    with (
        _endpoint(options, host, port),
        subprocess.Popen(command, env=environment) as process,
        _ended(process),
    ):
        # Ctrl-C reaches the command too, which may ask back: how it ends is its affair. A handler
        # and not SIG_IGN, which children would inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
        return process.wait()


@contextmanager
def _endpoint(options: Sequence[str], host: str, port: int) -> Iterator[None]:
    where = f"{host}:{port}"
    if _listens(host, port):
        what, remedy = "Something listens there already.", "End it, or choose another --port."
        raise EndpointError(what, where=where, remedy=remedy)
    # In a session of its own, so that Ctrl-C in the terminal does not end it before the command.
    arguments = [sys.executable, "-m", "mmekit.cli", "up", *options]
    with subprocess.Popen(arguments, start_new_session=True) as process, _ended(process):
        deadline = time.monotonic() + _START_S
        while not _listens(host, port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise EndpointError("The local endpoint did not start.", where=where)
            time.sleep(_POLL_S)
        yield


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
