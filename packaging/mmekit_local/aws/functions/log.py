"""What CloudWatch Logs shows of an invocation: START, the function's lines, END and REPORT."""

from __future__ import annotations

import math
import secrets
import sys
import time
from typing import TYPE_CHECKING

from moto.backends import get_backend

if TYPE_CHECKING:
    from mmekit_local.aws.functions.function import Function
    from mmekit_local.aws.functions.runner import FunctionInvocation, InvocationResult

__all__ = ["RUNNING", "entries_of", "new_stream", "tail_of", "write"]

RUNNING = f"python{sys.version_info[0]}.{sys.version_info[1]}"
"""The runtime of every function here."""

_STREAMS = 1000  # of a group; it lives in this process' memory
_LONGEST = 256 * 1024 - 26  # characters; CloudWatch Logs' limit, 26 bytes of overhead included
_TAIL_BYTES = 4096  # of AWS's LogType=Tail


def new_stream(version: str) -> str:
    """Return the name of a log stream, as every execution environment of AWS's has one."""
    return f"{time.strftime('%Y/%m/%d', time.gmtime())}/[{version}]{secrets.token_hex(16)}"


def entries_of(
    invocation: FunctionInvocation, outcome: InvocationResult, began_ms: int, ended_ms: int
) -> list[tuple[int, str]]:
    """Return the log's entries as AWS has them: milliseconds since the epoch and text, each."""
    request, function = invocation.request_id, invocation.function
    duration = outcome.seconds * 1000
    report = [
        f"REPORT RequestId: {request}",
        f"Duration: {duration:.2f} ms",
        f"Billed Duration: {max(1, math.ceil(duration + outcome.init_s * 1000))} ms",
        f"Memory Size: {function.memory_mb} MB",
        f"Max Memory Used: {outcome.memory_mb} MB",
        f"Init Duration: {outcome.init_s * 1000:.2f} ms",
    ]
    if outcome.timed_out:
        report.append("Status: timeout")
    return [
        *_of_another_python(function, began_ms),
        (began_ms, f"START RequestId: {request} Version: {function.version}\n"),
        *outcome.output,
        (ended_ms, f"END RequestId: {request}\n"),
        (ended_ms, "\t".join([*report, "\n"])),
    ]


def _of_another_python(function: Function, began_ms: int) -> list[tuple[int, str]]:
    """Return a line where the function's Python is not here, in the place of AWS's INIT_START."""
    if function.runtime == RUNNING:
        return []
    text = f"INIT_START Runtime Version: {RUNNING} here, where the function asks for"
    return [(began_ms, f"{text} {function.runtime}\n")]


def tail_of(entries: list[tuple[int, str]]) -> bytes:
    """Return the last 4 KB of a log, as AWS sends them with the answer."""
    return "".join(text for _, text in entries).encode()[-_TAIL_BYTES:]


def write(invocation: FunctionInvocation, entries: list[tuple[int, str]]) -> None:
    """Bring an invocation's log to CloudWatch Logs, into a stream of its own."""
    function = invocation.function
    backend = get_backend("logs")[function.account][function.region]
    backend.ensure_log_group(function.log_group)
    backend.ensure_log_stream(function.log_group, invocation.stream)
    last, events = 0, []
    for at, text in entries:
        last = max(last, at)  # CloudWatch Logs refuses what is not in order
        events.append({"timestamp": last, "message": text[:_LONGEST]})
    events = [event for event in events if event["message"]]
    backend.put_log_events(function.log_group, invocation.stream, events)
    streams = backend.groups[function.log_group].streams
    for name in list(streams)[: max(0, len(streams) - _STREAMS)]:
        del streams[name]
