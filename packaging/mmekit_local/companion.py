"""A local endpoint at the side of a command, for as long as the command runs."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from mmekit.aws_environment import program_environment, reachable_url
from mmekit.errors import EndpointError
from mmekit.interpreter import module_command
from mmekit.settings import local_region
from mmekit_local.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_START_S = 60
# More than the 30 s that the endpoint's containers have to end.
_STOP_S = 40
_POLL_S = 0.05


def run_beside(command: Sequence[str], options: Sequence[str], host: str, port: int) -> int:
    """Start an endpoint, run a command, end the endpoint; return the command's exit code.

    As a shell has it: a command that signal N killed gives 128 + N.

    To the command, AWS is the endpoint (`mmekit.aws_environment`), which it finds through
    MME_LOCAL_URL, too. Only where MME_TARGET is ``aws`` does it keep what leads to the user's
    account. For programs only: it changes what signals do to this process, so that neither of the
    two outlives it.

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
        There is no such command, or the endpoint did not start.
    SettingsError
        A setting is not what it may be.
    OSError
        The command cannot be started.
    """
    if shutil.which(command[0]) is None:  # said before anything is started
        raise EndpointError(
            f"There is no program {command[0]} on the PATH.",
            where=shlex.join(command),
            remedy="Install it in this environment, or correct the command.",
        )
    environment = _environment(reachable_url(host, port))
    for ending in (signal.SIGTERM, signal.SIGHUP):
        # As an exception: the blocks below end what they have started.
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    with (
        local_endpoint(options, host, port),
        subprocess.Popen(command, env=environment) as process,
        _ended(process),
    ):
        # Ctrl-C reaches the command too, which may ask back: how it ends is its affair. A handler
        # and not SIG_IGN, which children would inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
        status = process.wait()
    return status if status >= 0 else 128 - status


@contextmanager
def local_endpoint(
    options: Sequence[str], host: str, port: int, log: Path | None = None
) -> Iterator[str]:
    """Run ``mme up`` for as long as the block runs; yield its URL.

    Parameters
    ----------
    options
        Of ``mme up``, such as ``["--port", "8950"]``.
    host, port
        Where these options make the endpoint listen.
    log
        A file for what it prints; None is this process's standard error: standard output is
        for the command at its side, whose answers someone may want to keep.

    Raises
    ------
    EndpointError
        The endpoint did not start; the message ends with the last lines of the log.
    """
    where = f"{host}:{port}"
    if _listens(host, port):
        what, remedy = "Something listens there already.", "End it, or choose another --port."
        raise EndpointError(what, where=where, remedy=remedy)
    arguments = [*module_command("mmekit.cli"), "up", *options]
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else _standard_error()
        # In a session of its own, so that Ctrl-C in the terminal does not end it before the rest.
        process = stack.enter_context(
            subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        stack.enter_context(guarded(process.pid))
        stack.enter_context(_ended(process))
        deadline = time.monotonic() + _START_S
        while not _listens(host, port):
            if process.poll() is not None or time.monotonic() > deadline:
                lines = log.read_text(errors="replace").splitlines()[-8:] if log else []
                what = "\n".join(["The local endpoint did not start.", *lines])
                remedy = f"see what `mme up --port {port}` says"
                raise EndpointError(what, where=where, remedy=remedy)
            time.sleep(_POLL_S)
        yield reachable_url(host, port)


def _environment(url: str) -> dict[str, str]:
    region = local_region()
    if region is not None:
        return program_environment(os.environ, url, region)
    sys.stderr.write(
        "mme: MME_TARGET is aws, so the command keeps your credentials, and what it asks of AWS "
        "reaches your account.\n"
    )
    return {**os.environ, "MME_LOCAL_URL": url}


def _standard_error() -> int:
    """Return what a process may print to instead of standard output."""
    is_closed = sys.__stderr__ is None  # the number may be that of another file by now
    return subprocess.DEVNULL if is_closed else 2


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
