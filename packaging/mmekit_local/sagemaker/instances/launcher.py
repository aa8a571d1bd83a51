"""Containers: how they are started, and what the endpoint needs to know of one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mmekit.aws_environment import container_environment, leads_elsewhere, past_proxies
from mmekit.errors import EndpointError
from mmekit_local.guard import guard_command
from mmekit_local.ports import free_port
from mmekit_local.printed import LineRateLimit, lines_per_second, open_pipe, show_lines
from mmekit_local.scratch import ScratchFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "CommandLauncher",
    "Container",
    "ContainerLauncher",
    "Placement",
    "container_variables",
    "launcher_named",
    "start_process",
]

logger = logging.getLogger("mmekit.endpoint")

_HOST = "127.0.0.1"
_PIPE_SECONDS = 2.0  # for the last of a dead container's output
_MODELS = 4  # that may print as much as one may, at the same time
_TAIL = 30  # lines of a container's output to quote when it does not start
_FRAMES = ("\tat ", "\t... ")  # of Java's traces, which would leave no line for anything else
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True)
class Placement:
    """Where a container shall run.

    Parameters
    ----------
    label
        How it is called in the log: endpoint, variant, number.
    folder
        A folder of its own, in which the models that it loads lie.
    environment
        Environment variables that the SageMaker model asks for.
    account
        Those by which it reaches AWS: credentials of the model's role, region, address.
    memory
        Bytes that its models may take; None leaves it to the container.
    vcpus
        Those of its instance type, None when that is not known. Nothing is throttled to them
        here; a launcher of real containers may.
    model
        The unpacked archive of a single-model container; None for a multi-model container.
    image
        The URI of its image.
    isolated
        Whether it is to reach no network; only a launcher of real containers can see to that.
    sink
        Gets every line that the container prints, and must not block.
    """

    label: str
    folder: Path
    environment: tuple[tuple[str, str], ...] = ()
    account: tuple[tuple[str, str], ...] = ()
    memory: int | None = None
    vcpus: int | None = None
    model: Path | None = None
    image: str = ""
    isolated: bool = False
    sink: Callable[[str], None] | None = None

    def variables(self) -> dict[str, str]:
        """Return what SageMaker gives a container: what its model asks for, and its account.

        What would take a client of AWS away from here is left out, and the log says so: the
        address of an endpoint in a VPC, for instance, which leads to the real account.
        """
        asked = dict(self.environment)
        if self.isolated:
            return asked  # without a network SageMaker gives no credentials either
        elsewhere = sorted(name for name in asked if leads_elsewhere(name))
        if elsewhere and self.account:
            logger.warning(
                "%s: its Environment says %s, which would lead away from the rehearsal and is "
                "left out here",
                self.label,
                ", ".join(elsewhere),
            )
            asked = {name: value for name, value in asked.items() if name not in elsewhere}
        account = dict(self.account)
        proxies = past_proxies(asked, account.get("AWS_ENDPOINT_URL", ""))
        return {**account, **asked, **proxies}


class Container(Protocol):
    """A running container."""

    @property
    def host(self) -> str:
        """The address on which it listens."""

    @property
    def port(self) -> int:
        """The port on which it listens."""

    @property
    def pid(self) -> int | None:
        """Its process on this machine, where it has one."""

    @property
    def exit_reason(self) -> str | None:
        """Why it ended, with its last words; None while it runs."""

    async def ended(self) -> None:
        """Return as soon as it has ended, however that comes."""

    async def stop(self, seconds: float) -> None:
        """Ask it to end, wait so long, then make it."""


class ContainerLauncher(Protocol):
    """Starts containers of one kind: the seam for DJL Serving, Multi Model Server or Docker."""

    def require(self, image: str, instance_type: str | None) -> None:
        """Raise an MmekitError where an image cannot run on an instance type, before any starts.

        Parameters
        ----------
        image
            Its URI.
        instance_type
            None for a serverless endpoint.
        """

    async def launch(self, placement: Placement) -> Container:
        """Start a container that will answer /ping with 200 as soon as it is ready.

        A single-model container is ready once its model is loaded.
        """


def launcher_named(server: str, *, installs: bool = True) -> ContainerLauncher:
    """Return the launcher for a kind of container.

    Parameters
    ----------
    installs
        Whether the embedded server makes environments for models that ask for more than is here.

    Raises
    ------
    EndpointError
        There is no such kind.
    """
    if server not in ("embedded", "djl"):
        remedy = "Use --server embedded or --server djl."
        raise EndpointError("There is no such kind of container.", where=server, remedy=remedy)
    own = () if installs else ("--no-install",)
    return CommandLauncher((sys.executable, "-m", "mmekit_local.server", "--server", server, *own))


class CommandLauncher:
    """Starts a command of this machine as a container.

    Parameters
    ----------
    command
        Gets ``--port P --host H --exit-with-stdin`` appended. The last makes it end when its
        standard input does, so that it never outlives the endpoint service, not even one that
        was killed. ``--memory BYTES`` follows where memory is limited, and ``--model DIR`` for a
        single-model container.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)

    def require(self, image: str, instance_type: str | None) -> None:
        """Raise nothing: the command runs, whatever the image is called."""

    async def launch(self, placement: Placement) -> Container:
        """Start the command in the placement's folder."""
        port = free_port()
        command = [*self._command, *_arguments(placement, port)]
        variables = await asyncio.to_thread(container_variables, placement, port)
        return await start_process(command, variables, placement, port)


async def start_process(
    command: Sequence[str],
    variables: Mapping[str, str],
    placement: Placement,
    port: int,
    *,
    afterwards: Sequence[str] | None = None,
) -> Container:
    """Start a command in a placement's folder, in a session and with a TMPDIR of its own.

    A session of its own, because Ctrl-C in a terminal reaches all processes of a session's
    foreground group: the service, not the terminal, says when containers stop.

    Parameters
    ----------
    command
        Its standard input ends when this process does.
    variables
        Its environment, but for TMPDIR.
    port
        On which it will listen, on loopback.
    afterwards
        For a command that does not mind its standard input: its process group is ended when this
        process was killed, and then this command is run, such as ``("true",)``.
    """
    await asyncio.to_thread(placement.folder.mkdir, parents=True, exist_ok=True)
    # Its sockets need a short name; what it leaves there is removed when it has ended.
    scratch = ScratchFolder("mme-")
    try:
        # A pipe, as a container's log is: model processes write their metrics into it themselves.
        output, closing, writing = await open_pipe()
    except BaseException:
        scratch.remove()
        raise
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=placement.folder,
            env={**variables, "TMPDIR": str(scratch.path)},
            stdin=asyncio.subprocess.PIPE,
            stdout=writing,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except BaseException:
        closing.close()
        scratch.remove()
        raise
    finally:
        os.close(writing)
    try:
        guard = None if afterwards is None else await _guard(process.pid, afterwards)
    except BaseException:
        # Nobody else knows of the process yet, so nobody else could end it.
        os.killpg(process.pid, signal.SIGKILL)
        closing.close()
        scratch.remove()
        raise
    return _ProcessContainer(process, (output, closing), port, placement, scratch, guard)


class _ProcessContainer:
    """A container that is a process of this machine."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        output: tuple[asyncio.StreamReader, asyncio.ReadTransport],
        port: int,
        placement: Placement,
        scratch: ScratchFolder,
        guard: asyncio.subprocess.Process | None,
    ) -> None:
        self._scratch: ScratchFolder | None = scratch
        self._guard = guard
        self.host = _HOST
        self.port = port
        self._process = process
        self._output, self._closing = output
        self._placement = placement
        self._last_lines: deque[str] = deque(maxlen=_TAIL)
        self._reading = asyncio.ensure_future(self._read_output())

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def exit_reason(self) -> str | None:
        status = self._process.returncode
        if status is None:
            return None
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return "\n".join([f"The container ended ({how}).", *self._last_lines])

    async def ended(self) -> None:
        await self._process.wait()

    async def stop(self, seconds: float) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), seconds)
            except asyncio.TimeoutError:
                logger.info("%s does not end; killing it", self._placement.label)
        # Its workers too, should it have left any: they are in its session.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        # After the group: should this process be killed in between, the guard still ends it.
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            await guard.wait()
        # Not for ever: a process that left the session may hold the pipe open.
        await asyncio.wait([self._reading], timeout=_PIPE_SECONDS)
        self._reading.cancel()
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            await asyncio.to_thread(scratch.remove)

    async def _read_output(self) -> None:
        """Hand the container's output on; nothing that may fail stands in between.

        A container whose output is not read stops at its next line.
        """
        rate_limit = LineRateLimit(_MODELS * lines_per_second())
        try:
            await show_lines(self._output, rate_limit, self._say)
        finally:
            self._closing.close()

    def _say(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if not text.startswith(_FRAMES):
            self._last_lines.append(_COLOURS.sub("", text))
        if self._placement.sink is not None:
            self._placement.sink(text)
        logger.info("[%s] %s", self._placement.label, text, extra={"printed": True})


def _arguments(placement: Placement, port: int) -> list[str]:
    arguments = ["--port", str(port), "--host", _HOST, "--exit-with-stdin"]
    if placement.memory is not None:
        arguments += ["--memory", str(placement.memory)]
    if placement.model is not None:
        arguments += ["--model", str(placement.model)]
    return arguments


def container_variables(placement: Placement, port: int) -> dict[str, str]:
    """Return the environment of a container that is a process of this machine.

    Of this process's environment it has nothing that is about AWS, and not the home folder: a
    handler's client of AWS reaches the rehearsal, as the role of its model.
    """
    home = placement.folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    url = dict(placement.account).get("AWS_ENDPOINT_URL", "")
    variables = {
        **container_environment(os.environ, home.absolute(), url),
        **placement.variables(),
        # Into a pipe Python writes by the block: the last words of one that dies would be lost.
        "PYTHONUNBUFFERED": "1",
        "SAGEMAKER_BIND_TO_PORT": str(port),
    }
    if placement.model is None:
        variables["SAGEMAKER_MULTI_MODEL"] = "true"
    else:
        # The model's own Environment may have it.
        variables.pop("SAGEMAKER_MULTI_MODEL", None)
    return variables


async def _guard(group: int, afterwards: Sequence[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *guard_command(group, afterwards),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
