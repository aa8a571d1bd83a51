"""All parts of the endpoint service, put together and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from mmekit.endpoint.aws import Aws
from mmekit.endpoint.control_plane import ControlPlane
from mmekit.endpoint.data_plane import DataPlane
from mmekit.endpoint.front import Front
from mmekit.endpoint.hosting import Hosting
from mmekit.endpoint.metrics import Metrics

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from mmekit.endpoint.launcher import ContainerLauncher
    from mmekit.endpoint.options import EndpointOptions

__all__ = ["serve"]

logger = logging.getLogger("mmekit.endpoint")

_FLUSH_SECONDS = 10.0  # reading CloudWatch flushes as well; this keeps timestamps honest
_KEEP_ALIVE_SECONDS = 75  # longer than the pauses in a notebook's loop
_CLOSING_SECONDS = 2


class _Server(uvicorn.Server):
    """uvicorn, but the signals are handled here: containers must go before the process does."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    options: EndpointOptions, launcher: ContainerLauncher, listener: socket.socket
) -> None:
    """Serve on a bound socket until SIGINT or SIGTERM comes."""
    with tempfile.TemporaryDirectory(prefix="mmekit-endpoint-", ignore_cleanup_errors=True) as name:
        aws = Aws()
        metrics = Metrics(aws)
        hosting = Hosting(aws, launcher, options, Path(name), metrics)
        front = Front(
            DataPlane(hosting.serving, options.limits), ControlPlane(aws, hosting), aws, metrics
        )
        server = _Server(_uvicorn_config(front))
        _stop_at_signals(server)
        flushing = asyncio.ensure_future(_flush_now_and_then(metrics))
        _announce(listener)
        try:
            await server.serve(sockets=[listener])
        finally:
            logger.info("stopping")
            flushing.cancel()
            await hosting.close()
            aws.close()
            logger.info("stopped; nothing is left behind")


def _uvicorn_config(front: Front) -> uvicorn.Config:
    return uvicorn.Config(
        front,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_CLOSING_SECONDS,
        backlog=2048,
    )


def _stop_at_signals(server: uvicorn.Server) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # whoever runs it in a thread stops it otherwise

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)


async def _flush_now_and_then(metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(_FLUSH_SECONDS)
        metrics.flush()


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    lines = (
        f"SageMaker, S3 and the rest of AWS listen on {url}; Ctrl-C stops them and forgets all.",
        "For boto3 and the AWS CLI in another terminal:",
        f"  export AWS_ENDPOINT_URL={url}",
        "  export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local",
        "  export AWS_DEFAULT_REGION=us-east-1",
    )
    for line in lines:
        logger.info(line)
