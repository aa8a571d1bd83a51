"""Limits of one server that DJL Serving has not, or has as a setting.

One setting of a model, or one client, must not take the server from the others. Each is above what
SageMaker allows itself (200 concurrent requests of a serverless endpoint, 1,000 an instance for
auto scaling), and can be set in the server's environment, in `mme up` also in a model's
``Environment``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.errors import SettingsError
from mmekit_local.http import HttpLimits
from mmekit_local.printed import LINES_PER_S, lines_per_second
from mmekit_runtime.slots.descriptors import descriptor_limit
from mmekit_runtime.wire import MAX_PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_WORKERS = "MMEKIT_MAX_WORKERS"
MAX_MODELS = "MMEKIT_MAX_MODELS"
MAX_CONNECTIONS = "MMEKIT_MAX_CONNECTIONS"
MAX_REQUEST_BYTES = "SERVING_MAX_REQUEST_SIZE"
"""DJL Serving's own name for it."""
REQUEST_TIMEOUT_S = "MMEKIT_REQUEST_TIMEOUT_S"
CONCURRENCY = "MMEKIT_CONCURRENCY"

# Ten digits at most, as int() takes its time over thousands of them.
_NUMBER = re.compile(r"0*([1-9][0-9]{0,9})")
_MOST = 2**31 - 1  # an int of Java, which SERVING_MAX_REQUEST_SIZE is


@dataclass(frozen=True)
class ServerLimits:
    """What a server lets in.

    Attributes
    ----------
    workers
        Of one model.
    models
        Loaded at once.
    connections
        Kept at once; never more than half of the descriptors, as each model takes a handful.
    request_bytes
        Of the body of a request.
    request_s
        Seconds from the first byte of a request to its last, and for which a client may read
        nothing of its answer.
    concurrency
        Containers that this one plays, as on a serverless endpoint: a model may have as many
        workers, whatever it says itself.
    log_lines_per_s
        Of what one process prints; 0 for all there are.
    """

    workers: int = 1024
    models: int = 10_000
    connections: int = 10_000
    request_bytes: int = 64 << 20
    request_s: int = 60
    concurrency: int = 1
    log_lines_per_s: int = LINES_PER_S

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> ServerLimits:
        """Return the limits that the environment sets, and the defaults of the others.

        Raises
        ------
        SettingsError
            A value is not a whole number from 1; that of the log may be 0.

        Examples
        --------
        >>> ServerLimits.of({"MMEKIT_MAX_WORKERS": "200"}).workers
        200
        """

        def read(variable: str, default: int, most: int = _MOST) -> int:
            text = environ.get(variable, "").strip()
            return default if not text else _number(variable, text, most)

        return cls(
            workers=read(MAX_WORKERS, cls.workers),
            models=read(MAX_MODELS, cls.models),
            connections=read(MAX_CONNECTIONS, cls.connections),
            # A body goes to its worker as one part of a message.
            request_bytes=read(MAX_REQUEST_BYTES, cls.request_bytes, MAX_PART_BYTES),
            request_s=read(REQUEST_TIMEOUT_S, cls.request_s),
            concurrency=read(CONCURRENCY, cls.concurrency),
            log_lines_per_s=lines_per_second(environ),
        )

    def http(self) -> HttpLimits:
        """Return those that are about HTTP."""
        descriptors = descriptor_limit()
        most = self.connections if descriptors is None else descriptors // 2
        return HttpLimits(
            body_bytes=self.request_bytes,
            request_s=float(self.request_s),
            stall_s=float(self.request_s),
            connections=min(self.connections, most),
        )


def _number(variable: str, text: str, most: int) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None or int(match[1]) > most:
        raise SettingsError(
            f"{variable} is {text[:40]!r}, but may only be a whole number from 1 to {most}",
            where=variable,
            remedy=f"unset it, or set it to such a number: {variable}=1000",
        )
    return int(match[1])
