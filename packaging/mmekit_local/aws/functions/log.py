"""What CloudWatch Logs shows of an invocation: START, what the function prints, END and REPORT."""

from __future__ import annotations

import asyncio
import math
import secrets
import sys
import time
from typing import TYPE_CHECKING

from moto.backends import get_backend

if TYPE_CHECKING:
    from mmekit_local.aws.functions.function import Function, FunctionInvocation, InvocationResult

__all__ = ["RUNNING", "PrintedOutput", "entries_of", "new_stream", "tail_of", "write"]

RUNNING = f"python{sys.version_info[0]}.{sys.version_info[1]}"
"""The runtime of every function here."""

_STREAMS = 1000  # of a group; it lives in this process' memory
_LONGEST = 256 * 1024 - 26  # characters; CloudWatch Logs' limit, 26 bytes of overhead included
_TAIL_BYTES = 4096  # of AWS's LogType=Tail

_BYTES = 1 << 20  # of one invocation; the rest is read and dropped


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


class PrintedOutput(asyncio.Protocol):
    """Takes the bytes of a pipe, with the time at which they came.

    Attributes
    ----------
    ended : asyncio.Future
        Done when nobody can write any more.
    """

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pieces: list[tuple[int, bytes]] = []
        self._added: list[tuple[int, str]] = []
        self._bytes = 0

    def data_received(self, data: bytes) -> None:
        """Keep what came, up to a limit."""
        if self._bytes < _BYTES:
            self._pieces.append((_now(), data))
            self._bytes += len(data)

    def connection_lost(self, _: Exception | None) -> None:
        """Note that this was all."""
        if not self.ended.done():
            self.ended.set_result(None)

    def add(self, text: str) -> None:
        """Add an entry after all that was printed: it is the runtime's own."""
        self._added.append((_now(), text))

    def entries(self) -> tuple[tuple[int, str], ...]:
        """Return a line an entry: milliseconds since the epoch when it began, and its text."""
        found: list[tuple[int, str]] = []
        rest, since = b"", 0
        for at, piece in self._pieces:
            since = since if rest else at
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                found.append((since, line.decode("utf-8", "replace") + "\n"))
                since = at
        if rest:
            found.append((since, rest.decode("utf-8", "replace") + "\n"))
        return (*found, *self._added)


def _now() -> int:
    return int(time.time() * 1000)
