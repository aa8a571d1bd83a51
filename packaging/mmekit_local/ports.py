"""Ports that nobody listens on."""

from __future__ import annotations

import errno
import random
import socket
from collections import deque

__all__ = ["free_port"]

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
