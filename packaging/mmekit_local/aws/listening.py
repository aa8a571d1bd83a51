"""The service's port: taken before anything is started, and what to say when it cannot be."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

from mmekit.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit_local.sagemaker.options import EndpointOptions

__all__ = ["cannot_listen", "listening"]


@contextlib.contextmanager
def listening(options: EndpointOptions) -> Iterator[socket.socket]:
    """Bind first: a port in use must be known before anything else is started.

    Raises
    ------
    EndpointError
        It is in use, or not this user's to have.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # Connections of a service that has just been stopped are in TIME_WAIT, and hold the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((options.host, options.port))
        except OSError as error:
            raise cannot_listen(error, options) from error
        listener.settimeout(0.0)
        yield listener


def cannot_listen(error: OSError, options: EndpointOptions) -> EndpointError:
    """Return the error for an address or a port that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        remedy = "Stop what listens there (another `mme up`?) or choose another --port."
    elif error.errno == errno.EACCES:
        remedy = "Choose a --port above 1023: the others are the administrator's."
    else:  # there is no such name, or no interface of this machine has the address
        remedy = "Choose an address of this machine with --host: 127.0.0.1, or 0.0.0.0 for all."
    return EndpointError(
        f"The endpoint service cannot listen: {error.strerror or error}.",
        where=f"{options.host}:{options.port}",
        remedy=remedy,
    )
