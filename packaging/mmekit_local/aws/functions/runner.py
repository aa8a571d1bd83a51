"""Runs one invocation of a function in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import psutil

from mmekit.aws_environment import leads_elsewhere, past_proxies
from mmekit_local.aws.functions.function import FunctionInvocation, InvocationResult
from mmekit_local.aws.functions.log import PrintedOutput
from mmekit_local.aws.functions.template_process import FunctionTemplateProcess
from mmekit_local.scratch import ScratchFolder

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit_local.aws.functions.template_process import Fork, ProcessExit

__all__ = ["Runner"]

_LENGTH = struct.Struct(">I")  # as in runtime.py
_INIT_S = 10.0  # AWS's limit for importing the handler, before its own time limit counts
_LAST_S = 2.0  # for what a process that has ended wrote
_WATCH_S = 0.25  # between two looks at a process' memory
_KIB_PER_MIB = 1 << 10
# AWS's own number: a hundred bytes more than a request may have.
_RESPONSE_BYTES = 6_291_556


class Runner:
    """Has processes forked by a template process, which it starts when it is first needed.

    Parameters
    ----------
    url
        What functions reach AWS by: this service.
    folder
        For temporary files.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._template: FunctionTemplateProcess | None = None
        self._starting = asyncio.Lock()

    async def run(self, invocation: FunctionInvocation) -> InvocationResult:
        """Run a function's handler to its end, or to its time limit.

        Raises
        ------
        OSError
            No process could be had.
        """
        async with self._starting:
            if self._template is None or self._template.over:
                self._template = await FunctionTemplateProcess.start(self._folder)
            template = self._template
        scratch = ScratchFolder("tmp-", self._folder)
        try:
            return await _Run(template, invocation, self._url, scratch.path).outcome()
        finally:
            await asyncio.to_thread(scratch.remove)

    async def close(self) -> None:
        """End every process that was forked."""
        if self._template is not None:
            await self._template.close()


class _Run:
    """One invocation under way."""

    def __init__(
        self, template: FunctionTemplateProcess, invocation: FunctionInvocation, url: str, tmp: Path
    ) -> None:
        self._template = template
        self._invocation = invocation
        self._seconds = invocation.function.seconds
        self._spec = _spec(invocation, url, tmp)
        self._output = PrintedOutput()
        self._grew_too_large = False

    async def outcome(self) -> InvocationResult:
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        async with contextlib.AsyncExitStack() as stack:
            # Closed here once the fork has its own: while one of ours is open, its end is never
            # read.
            with theirs, os.fdopen(writing, "wb", 0):
                pipe, _ = await loop.connect_read_pipe(
                    lambda: self._output, os.fdopen(reading, "rb", 0)
                )
                stack.callback(pipe.close)
                reader, writer = await asyncio.open_connection(sock=ours)
                stack.callback(writer.close)
                fork = await self._template.fork(theirs, writing)
            # Whatever happens from here: a function does not outlive its invocation.
            stack.push_async_callback(self._template.kill, fork)
            looking = asyncio.ensure_future(self._watch_memory(fork))
            stack.callback(looking.cancel)
            body = json.dumps(self._spec).encode()
            writer.write(_LENGTH.pack(len(body)) + body)
            return await self._follow(fork, reader, began)

    async def _follow(
        self, fork: Fork, reader: asyncio.StreamReader, began: float
    ) -> InvocationResult:
        init_s, started = 0.0, began
        message: dict[str, Any] | None = None
        timed_out = False
        try:
            message = await _next_message(reader, fork, _INIT_S + self._seconds)
            started = time.perf_counter()
            init_s = started - began
            if message is not None and "ready" in message:
                message = await _next_message(reader, fork, self._seconds)
            took = time.perf_counter() - started
        except asyncio.TimeoutError:
            timed_out, took = True, self._seconds
            await self._template.kill(fork)
        else:  # a handler that has answered is followed by the end of its process at once
            await asyncio.wait([fork.ended], timeout=_LAST_S)
            await self._template.kill(fork)
        ended = fork.ended.result()
        await asyncio.wait([self._output.ended], timeout=_LAST_S)
        if timed_out:
            payload, failed = self._time_out(), True
        else:
            payload, failed = self._payload(message, ended)
        memory_mb = -(-ended.memory_kib // _KIB_PER_MIB)
        return InvocationResult(
            payload,
            failed,
            self._output.entries(),
            init_s,
            took,
            # Between two looks it may have had more than AWS would have let it have.
            min(memory_mb, self._invocation.function.memory_mb),
            timed_out,
        )

    def _time_out(self) -> bytes:
        sentence = f"Task timed out after {self._seconds:.2f} seconds"
        request_id = self._invocation.request_id
        self._output.add(f"{_timestamp()} {request_id} {sentence}\n")
        return _error("Sandbox.Timedout", f"RequestId: {request_id} Error: {sentence}")

    def _payload(self, message: dict[str, Any] | None, ended: ProcessExit) -> tuple[bytes, bool]:
        if message is None:
            kind = "Runtime.OutOfMemory" if self._grew_too_large else "Runtime.ExitError"
            how = f"RequestId: {self._invocation.request_id} Error: {_exit_reason(ended.status)}"
            self._output.add(f"{_timestamp()} {how}\n")
            return _error(kind, how), True
        if "error" in message:
            self._output.add(message["log"])
            return message["error"].encode(), True
        answer: bytes = message["answer"].encode()
        if len(answer) > _RESPONSE_BYTES:
            sentence = (
                "Response payload size exceeded maximum allowed payload size "
                f"({_RESPONSE_BYTES} bytes)."
            )
            return _error("Function.ResponseSizeTooLarge", sentence), True
        return answer, False

    async def _watch_memory(self, fork: Fork) -> None:
        limit = self._invocation.function.memory_mb << 20
        # Looked at now and then: a kernel's limits for one process count addresses, not memory.
        while not fork.ended.done():
            await asyncio.sleep(_WATCH_S)
            if fork.process is not None:
                with contextlib.suppress(psutil.Error):
                    if psutil.Process(fork.process).memory_info().rss > limit:
                        self._grew_too_large = True
                        await self._template.kill(fork)


def _spec(invocation: FunctionInvocation, url: str, tmp: Path) -> dict[str, Any]:
    """Return what the process is told: AWS's variables are in its developer guide."""
    function = invocation.function
    own = {name: value for name, value in function.environment if not leads_elsewhere(name)}
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "HOME": str(tmp),
        "TMPDIR": str(tmp),
        "AWS_ENDPOINT_URL": url,
        **own,
        **past_proxies(own, url),
        # From here on they are reserved: a function's own come before, and cannot change them.
        "_HANDLER": function.handler,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        "AWS_REGION": function.region,
        "AWS_DEFAULT_REGION": function.region,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_SESSION_TOKEN": "local",
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": function.log_group,
        "AWS_LAMBDA_LOG_STREAM_NAME": invocation.stream,
    }
    return {
        "root": str(invocation.root),
        "handler": function.handler,
        "name": function.name,
        "version": function.version,
        "arn": function.arn,
        "request_id": invocation.request_id,
        "timeout": function.seconds,
        "event": invocation.event.decode(),
        "environment": environment,
    }


async def _next_message(
    reader: asyncio.StreamReader, fork: Fork, seconds: float
) -> dict[str, Any] | None:
    """Return a process' next message; None when it has ended without one.

    Raises
    ------
    asyncio.TimeoutError
        Neither came in time.
    """
    reading = asyncio.ensure_future(_message(reader))
    either: list[asyncio.Future[Any]] = [reading, fork.ended]
    try:
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            if not fork.ended.done():
                raise asyncio.TimeoutError
            # What it wrote before its end may still be on its way.
            await asyncio.wait([reading], timeout=_LAST_S)
        return reading.result() if reading.done() else None
    finally:
        reading.cancel()


async def _message(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        message: dict[str, Any] = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError):
        return None
    return message


def _exit_reason(status: int) -> str:
    if status == 0:
        return "Runtime exited without providing a reason"
    if status == -signal.SIGKILL:
        return "Runtime exited with error: signal: killed"
    if status < 0:
        return f"Runtime exited with error: signal: {signal.strsignal(-status)}"
    return f"Runtime exited with error: exit status {status}"


def _error(kind: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()


def _timestamp() -> str:
    seconds = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{stamp}.{int(seconds * 1000) % 1000:03}Z"
