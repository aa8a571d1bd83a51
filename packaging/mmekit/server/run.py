"""Starting and ending a server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from mmekit.engine import engine_folder
from mmekit.errors import ServerError
from mmekit.server.front import Front
from mmekit.server.memory import Memory
from mmekit.server.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

_logger = logging.getLogger("mmekit.server")

_BACKLOG = 2048
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
    exit_with_stdin
        End when standard input does: a parent that dies takes the server with it.
    """

    port: int = 8080
    host: str = "127.0.0.1"
    memory: int | None = None
    exit_with_stdin: bool = False


def run(options: ServerOptions) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way and end.

    Raises
    ------
    ServerError
        The address cannot be used.
    EngineError
        DJL's Python engine is not to be had.
    """
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    engine = engine_folder()
    _raise_descriptor_limit()
    listener = _listen(options.host, options.port)
    # The name is short because a socket's path may have 104 to 108 characters.
    sockets = Path(tempfile.mkdtemp(prefix="mme-"))
    try:
        registry = Registry(engine, sockets, Memory(options.memory))
        _run(_serve(options, listener, registry))
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _raise_descriptor_limit() -> None:
    """Allow as many descriptors as this user may have: every model takes a handful."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS has an upper limit below "unlimited".
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop  # not on Windows
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def _listen(host: str, port: int) -> socket.socket:
    if host not in ("127.0.0.1", "localhost", "::1"):
        _logger.warning(
            "listening on %s: whoever reaches this address can load and run models; "
            "there is no authentication",
            host,
        )
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


class _Server(uvicorn.Server):
    """Leaves signals to `_serve`: uvicorn would raise them again before the models are unloaded."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def _serve(options: ServerOptions, listener: socket.socket, registry: Registry) -> None:
    config = uvicorn.Config(
        Front(registry),
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.handle_exit, number, None)
    if options.exit_with_stdin:
        _exit_with_stdin(loop, server)
    host, port = listener.getsockname()[:2]
    _logger.info("serving on http://%s:%d", host, port)
    try:
        await server.serve(sockets=[listener])
    finally:
        await registry.close()
        _logger.info("stopped")


def _exit_with_stdin(loop: asyncio.AbstractEventLoop, server: uvicorn.Server) -> None:
    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(server.handle_exit, signal.SIGTERM, None)

    threading.Thread(target=watch, daemon=True, name="stdin").start()
