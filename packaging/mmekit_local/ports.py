"""Ports: one that nobody listens on, and the one where the endpoint service is expected."""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from collections import deque
from urllib.parse import urlsplit

from mmekit.errors import SettingsError
from mmekit.settings import Settings

__all__ = ["free_port", "listening_address"]

_PORTS = range(20_000, 32_000)  # below the ports that Linux and macOS give to outgoing connections

_taken: deque[int] = deque(maxlen=1000)
"""Ports given out lately: a server takes seconds until it listens on its own."""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of an interface, loopback's unless told, that nobody listens on now.

    Two calls in one process give two ports, whether or not the first is listened on yet.

    Raises
    ------
    OSError
        This machine has no such interface, or no port is free.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    # At random, as another process may look at the same time and does not know `_taken`.
    for port in random.sample([port for port in _PORTS if port not in _taken], 100):
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind((address[0], port, *address[2:]))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                raise
        _taken.append(port)
        return port
    raise OSError(errno.EADDRINUSE, f"no port of {_PORTS.start} to {_PORTS.stop} is free", host)


def listening_address(host: str | None = None, port: int | None = None) -> tuple[str, int]:
    """Return where the endpoint service listens: as given, and else where MME_LOCAL_URL looks.

    Raises
    ------
    SettingsError
        The variable is asked, and names what is no plain HTTP or another machine.
    """
    if host is not None and port is not None:
        return host, port
    url = Settings(target="local").local_url
    parts = urlsplit(url)
    named = parts.hostname or ""
    if parts.scheme != "http" or parts.username or (host is None and not _is_loopback(named)):
        raise SettingsError(
            f"MME_LOCAL_URL is {url}, and `mme up` serves http on this machine alone.",
            where="MME_LOCAL_URL",
            remedy="Set it to an address such as http://127.0.0.1:8950, or say with --host and "
            "--port where to listen.",
        )
    default = 80 if parts.port is None else parts.port
    return named if host is None else host, default if port is None else port


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
