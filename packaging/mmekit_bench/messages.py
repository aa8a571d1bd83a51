"""What the load generator writes to whoever started it: a line of JSON each."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import TypeAdapter

from mmekit_bench.recording import Recording, Second  # noqa: TC001 - pydantic reads them

__all__ = ["Failure", "Message", "Progress", "messages"]


@dataclass(frozen=True)
class Progress:
    """Where a load has got to.

    Attributes
    ----------
    elapsed
        Seconds since measuring began; below zero in the warm-up.
    under_way
        Requests that wait or are being answered.
    errors
        So far, by kind.
    latest
        The last second that is over, if there is one.
    """

    elapsed: float
    under_way: int
    errors: dict[str, int] = field(default_factory=dict)
    latest: Second | None = None


@dataclass(frozen=True)
class Failure:
    """Why there could be no load."""

    what: str
    where: str | None
    remedy: str | None


@dataclass(frozen=True)
class Message:
    """A line: one of the three."""

    progress: Progress | None = None
    recording: Recording | None = None
    failure: Failure | None = None


messages: TypeAdapter[Message] = TypeAdapter(Message)
