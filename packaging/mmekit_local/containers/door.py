"""The door by which containers of Docker's reach the rehearsal, which listens on loopback alone."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mmekit_local.sagemaker import Placement

__all__ = ["HOST_OPTION", "Door"]

logger = logging.getLogger("mmekit.endpoint")

HOST_OPTION = ("--add-host", "host.docker.internal:host-gateway")
"""For ``docker run``: how a container calls this machine, which Docker Desktop knows by itself."""

_HOST = "host.docker.internal"
_NETWORK = "{{range .IPAM.Config}}{{.Gateway}} {{.Subnet}}\n{{end}}"
_VARIABLE = "AWS_ENDPOINT_URL"
_ANSWER_S = 20
_PIECE = 1 << 16


class Door:
    """Hands connections on that come from Docker's own network, and from nowhere else.

    On Linux, containers reach this machine by their bridge's address, where the rehearsal does not
    listen; this listens there. Docker Desktop brings them to loopback by itself, and this machine
    has no such address.
    """

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()
        self._port: int | None = None

    async def placed_behind(self, placement: Placement) -> Placement:
        """Return a placement whose account is reached by the address that counts in a container."""
        account = dict(placement.account)
        url = account.get(_VARIABLE)
        if url is None:
            return placement
        target = urlsplit(url)
        async with self._opening:
            if self._port is None:
                self._port = await self._open(target.hostname or "", target.port or 80)
        account[_VARIABLE] = f"http://{_HOST}:{self._port}"
        return replace(placement, account=tuple(account.items()))

    def close(self) -> None:
        """Let nobody in any more; what is under way goes on. The end of the process does it too."""
        if self._server is not None:
            self._server.close()

    async def _open(self, host: str, port: int) -> int:
        """Return the port on which containers reach what listens on a port of this machine."""
        found = await asyncio.to_thread(_bridge)
        if found is None:
            return port
        gateway, subnet = found

        async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = ipaddress.ip_address(writer.get_extra_info("peername")[0])
            if peer not in subnet:
                writer.close()
                return
            await _join(reader, writer, host, port)

        try:
            self._server = await asyncio.start_server(hand_on, gateway, 0)
        except OSError:  # the bridge is not this machine's: Docker Desktop
            return port
        own: int = self._server.sockets[0].getsockname()[1]
        logger.info("containers reach this service by %s:%d", gateway, own)
        return own


def _bridge() -> tuple[str, ipaddress.IPv4Network] | None:
    """Return the address of this machine on Docker's network, and that network."""
    command = ["docker", "network", "inspect", "bridge", "--format", _NETWORK]
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_ANSWER_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError):
            gateway, subnet = line.split()
            return str(ipaddress.IPv4Address(gateway)), ipaddress.IPv4Network(subnet)
    return None


async def _join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
) -> None:
    with contextlib.closing(writer):
        try:
            answers, asked = await asyncio.open_connection(host, port)
        except OSError:
            return
        with contextlib.closing(asked):
            await asyncio.gather(_pump(reader, asked), _pump(answers, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # either side may have gone
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
