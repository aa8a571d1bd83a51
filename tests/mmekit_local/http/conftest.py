"""A server in the loop of a test."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from mmekit_local.http import HttpLimits, HttpResponse, HttpServer, Responder
from mmekit_local.server.api import no_request


async def echo(request):
    return HttpResponse(200, "OK", [], request.body)


async def until(condition):
    while not condition():  # noqa: ASYNC110  the server under test has no such event
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def serving(answer=echo, **limits):
    """Run a server in this loop; yield it and a function that connects to it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = HttpServer(Responder(answer, no_request), HttpLimits(**limits))
    await server.start(listener)
    writers = []

    async def connect():
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writers.append(writer)
        return reader, writer

    try:
        yield server, connect
    finally:
        await server.close(drain_s=0)
        for writer in writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
