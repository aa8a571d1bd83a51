"""A closed loop on one URL, by wrk or by our own generator: what benchmarks are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmekit_bench.destination import Destination
from mmekit_bench.load import put_load
from mmekit_bench.payload import Payload
from mmekit_bench.plan import Plan
from mmekit_bench.wrk import is_installed, put_load_with_wrk

if TYPE_CHECKING:
    from mmekit_bench.result import Load

__all__ = ["Target", "Tool", "measure"]

Tool = Literal["wrk", "python"]


@dataclass(frozen=True)
class Target:
    """What to send, and where to.

    Attributes
    ----------
    url
        ``http://host:port/path``.
    """

    url: str
    body: bytes
    content_type: str = "application/json"


def measure(target: Target, connections: int, seconds: int, tool: Tool | None = None) -> Load:
    """Put load on a server: so many requests are under way at any time.

    Parameters
    ----------
    tool
        ``python`` is the generator of `mme bench`. None takes wrk when it is installed.

    Raises
    ------
    EndpointError
        Nobody answers.
    MmekitError
        The tool failed.
    """
    plan = Plan(
        Destination.of_url(target.url),
        Payload(target.body, target.content_type),
        (target.url,),
        connections=connections,
        duration=float(seconds),
    )
    if tool == "wrk" or (tool is None and is_installed()):
        return put_load_with_wrk(plan, seconds)
    return put_load(plan).load
