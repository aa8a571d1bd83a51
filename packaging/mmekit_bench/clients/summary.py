"""What became of a crowd of clients, in figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit_bench.clients.crowd import Execution

__all__ = ["PERCENTILES", "Summary", "summary_of"]

PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True)
class Summary:
    """The figures of one crowd.

    Attributes
    ----------
    clients
        How many there were; fewer executions than that were interrupted.
    answered, throttled, failed
        How many got an answer, ThrottlingException or TooManyRequestsException, another error.
    seconds
        The elapsed times of those that were answered, at `PERCENTILES`; empty without any.
    retries
        Of those of whom it is known, all together; None when it is known of none.
    most_retries
        The most of one of them.
    first_failure
        What one of the failed got.
    """

    clients: int
    answered: int
    throttled: int
    failed: int
    seconds: tuple[float, ...]
    retries: int | None
    most_retries: int | None
    first_failure: str | None

    @property
    def executions(self) -> int:
        """How many came back."""
        return self.answered + self.throttled + self.failed


def summary_of(clients: int, executions: Iterable[Execution]) -> Summary:
    """Count what became of so many clients.

    Examples
    --------
    >>> summary_of(2, []).executions
    0
    """
    import numpy as np

    executions = list(executions)
    outcomes = Counter(one.reply.outcome for one in executions)
    times = [one.elapsed for one in executions if one.reply.outcome == "answered"]
    retries = [one.reply.retries for one in executions if one.reply.retries is not None]
    failures = [one.reply.body for one in executions if one.reply.outcome == "failed"]
    return Summary(
        clients=clients,
        answered=outcomes["answered"],
        throttled=outcomes["throttled"],
        failed=outcomes["failed"],
        seconds=tuple(map(float, np.percentile(times, PERCENTILES))) if times else (),
        retries=sum(retries) if retries else None,
        most_retries=max(retries) if retries else None,
        first_failure=failures[0] if failures else None,
    )
