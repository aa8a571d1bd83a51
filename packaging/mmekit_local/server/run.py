"""Starting and ending a server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.engine import engine_folder
from mmekit.errors import ModelLoadError, ServerError
from mmekit_local.guard import killing_descendants, when_stdin_ends
from mmekit_local.http import HttpServer, OriginPolicy, run_in_loop
from mmekit_local.redaction import LineFormatter
from mmekit_local.scratch import ScratchFolder, sweep
from mmekit_local.server.api import ContainerApi
from mmekit_local.server.description import name_of
from mmekit_local.server.errors import ApiError
from mmekit_local.server.limits import ServerLimits
from mmekit_local.server.memory import ServerMemory
from mmekit_local.server.registry import Registry
from mmekit_runtime.slots.descriptors import raise_descriptor_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_logger = logging.getLogger("mmekit.server")

_BACKLOG = 2048
_SCRATCH = "mme-"
_LONGEST_PARENT = 64
"""Of the folder for sockets, whose paths may have 104 (macOS) to 108 characters."""
_DRAIN_S = 25
"""SageMaker kills a container 30 s after SIGTERM."""


@dataclass(frozen=True)
class ServerOptions:
    """How a server is started.

    Attributes
    ----------
    port
        0 takes a free one; the log says which.
    memory
        Bytes that the server and its workers may use; None for the machine's.
    model
        The folder of the only model of a single-model container: loaded before the first
        connection is accepted, and invoked by POST /invocations. None for a multi-model container.
    exit_with_stdin
        End when standard input does: a parent that dies takes the server with it.
    installs
        Whether models whose requirements.txt asks for more than is here get environments of their
        own, which uv makes; otherwise they are refused.
    """

    port: int = 8080
    host: str = "127.0.0.1"
    memory: int | None = None
    model: Path | None = None
    exit_with_stdin: bool = False
    installs: bool = True


def run(options: ServerOptions) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way and end.

    Raises
    ------
    ServerError
        The address cannot be used, or the model of ``options.model`` cannot be loaded.
    EngineError
        DJL's Python engine is not to be had.
    SettingsError
        ``MMEKIT_ALLOWED_HOSTS`` or one of `mmekit_local.server.limits` cannot be read.
    """
    limits = ServerLimits.of()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    engine = engine_folder()
    # Before `ServerLimits.http`, which gives half of them to connections.
    raise_descriptor_limit()
    listener = _listen(options.host, options.port)
    policy = OriginPolicy.of(options.host, listener.getsockname()[0])
    with killing_descendants() as variables, _socket_folder() as sockets:
        os.environ.update(variables)  # for all that is started from here on
        memory = ServerMemory(options.memory)
        registry = Registry(engine, sockets, memory, limits, installs=options.installs)
        server = HttpServer(ContainerApi(registry).responder, limits.http(), policy)
        run_in_loop(_serve(options, listener, registry, server))


@contextlib.contextmanager
def _socket_folder() -> Iterator[Path]:
    """Make a folder for sockets; what servers that were killed have left is removed."""
    long = len(os.fsencode(tempfile.gettempdir())) > _LONGEST_PARENT
    within = Path("/tmp") if long else None  # noqa: S108  a folder of our own in it
    sweep(_SCRATCH, within)
    try:
        folder = ScratchFolder(_SCRATCH, within)
    except OSError as error:
        parent = within or tempfile.gettempdir()
        what = f"no folder for sockets can be made: {error.strerror or error}"
        remedy = "make room there, or set TMPDIR to another folder with a short name"
        raise ServerError(what, where=str(parent), remedy=remedy) from error
    try:
        yield folder.path
    finally:
        folder.remove()


def warn_of(host: str) -> None:
    """Say in the log what it means to listen on an address that is not loopback."""
    if host not in ("127.0.0.1", "localhost", "::1"):
        _logger.warning(
            "listening on %s: whoever reaches this address can load and run models; "
            "there is no authentication",
            host,
        )


def _listen(host: str, port: int) -> socket.socket:
    warn_of(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Before anything says where: whoever reads that may connect at once.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        what = f"the server cannot listen: {error.strerror or error}"
        remedy = "choose another port with --port, or end what uses this one"
        raise ServerError(what, where=f"{host}:{port}", remedy=remedy) from error
    listener.set_inheritable(False)
    return listener


async def _serve(
    options: ServerOptions, listener: socket.socket, registry: Registry, server: HttpServer
) -> None:
    loop = asyncio.get_running_loop()
    stop_requested = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop_requested.set)
    if options.exit_with_stdin:
        when_stdin_ends(lambda: _call_soon(loop, stop_requested.set))
    try:
        if options.model is not None and not await _load_at_start(
            options.model, registry, stop_requested
        ):
            return
        await server.start(listener)
        host, port = listener.getsockname()[:2]
        _logger.info("serving on http://%s:%d", host, port)
        await stop_requested.wait()
        # First: loads that wait for one would keep their connections until the time is up.
        await registry.stop_making_environments()
        await server.close(_DRAIN_S)
    finally:
        await registry.close()
        _logger.info("stopped")


async def _load_at_start(folder: Path, registry: Registry, stop_requested: asyncio.Event) -> bool:
    """Load the only model; False when the server shall end before that is done."""
    # As java.net.URL writes a folder.
    path = await asyncio.to_thread(lambda: folder.resolve().as_uri().removeprefix("file://"))
    url = f"file:{path}/"
    load = asyncio.create_task(registry.load(name_of(url), url, at_start=True))
    wait = asyncio.create_task(stop_requested.wait())
    await asyncio.wait((load, wait), return_when=asyncio.FIRST_COMPLETED)
    wait.cancel()
    if not load.done():
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        return False
    try:
        load.result()
    except ApiError as error:
        what = f"the model could not be loaded: {error.what}"
        remedy = "what it printed is above; `mme check` finds the usual mistakes"
        raise ModelLoadError(what, where=str(folder), remedy=remedy) from error
    return True


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(call)
