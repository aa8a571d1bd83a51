"""Puts a load on a destination: starts the generator and waits for what it found."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import threading
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any

from pydantic import TypeAdapter

from mmekit.errors import EndpointError, MmekitError
from mmekit.interpreter import module_command
from mmekit_bench.machine import this_machine, versions
from mmekit_bench.messages import messages
from mmekit_bench.plan import Plan
from mmekit_bench.result import FORMAT, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit_bench.messages import Message, Progress

__all__ = ["put_load"]


def put_load(plan: Plan, tell: Callable[[Progress], None] | None = None) -> Result:
    """Put a load on a destination.

    SIGINT ends it early, and what was found until then is returned; a second one raises
    KeyboardInterrupt.

    Parameters
    ----------
    plan
        What the load is to be.
    tell
        Is told how far it is, about every second.

    Raises
    ------
    EndpointError
        Nobody answers there.
    MmekitError
        The plan makes no sense, or the generator itself failed.
    """
    plan.check()  # before anything is started
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    machine = this_machine()
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            module_command("mmekit_bench.generator"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,  # Ctrl-C is for us to pass on
        ) as process,
        _passing_on_interrupts(process) as interrupted,
    ):
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise AssertionError  # both are pipes
        _send(stdin, plan)
        last = _listen(stdout, tell)
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        process.wait()
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip()
    if last is None or last.recording is None:
        raise _failure(last, said)
    return Result(
        format=FORMAT,
        started=started,
        plan=plan,
        recording=last.recording,
        machine=machine,
        versions=versions(),
        interrupted=interrupted.is_set(),
    )


def _send(stdin: IO[bytes], plan: Plan) -> None:
    with contextlib.suppress(BrokenPipeError):  # then it says why on standard error
        stdin.write(TypeAdapter(Plan).dump_json(plan) + b"\n")
        stdin.flush()


def _listen(stdout: IO[bytes], tell: Callable[[Progress], None] | None) -> Message | None:
    """Read until the generator ends; return its last message."""
    message = None
    for line in stdout:
        message = messages.validate_json(line)
        if message.progress is not None and tell is not None:
            tell(message.progress)
    return message


def _failure(last: Message | None, said: str) -> MmekitError:
    if last is not None and last.failure is not None:
        failure = last.failure
        return EndpointError(failure.what, where=failure.where, remedy=failure.remedy)
    return MmekitError(
        "The load generator failed.", where="mmekit_bench.generator", remedy=said or None
    )


@contextlib.contextmanager
def _passing_on_interrupts(process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """Let the first SIGINT end the load, whose generator ends with its standard input."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # signals are none of this thread's business
        return

    def pass_on(_number: int, _frame: Any) -> None:
        if interrupted.is_set():
            process.kill()
            raise KeyboardInterrupt
        interrupted.set()
        if process.stdin is not None:
            process.stdin.close()

    before = signal.signal(signal.SIGINT, pass_on)
    try:
        yield interrupted
    except BaseException:
        process.kill()
        raise
    finally:
        signal.signal(signal.SIGINT, before)
