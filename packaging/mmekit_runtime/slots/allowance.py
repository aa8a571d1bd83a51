"""What a server leaves its models of a memory limit of its own, which no kernel knows."""

from __future__ import annotations

import time
from collections import deque


class Allowance:
    """What was left when the server last measured, and what has changed since.

    Attributes
    ----------
    limit
        Bytes that the server and all its processes may take; None where it has no such limit.
    sharers
        How many fork servers take of it.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self.sharers = 1
        self._left = 0
        self._changes: deque[tuple[float, int]] = deque()
        self._changed = 0

    def tell(self, limit: int, left: int, at: float, sharers: int) -> None:
        """Take what the server has measured.

        Parameters
        ----------
        at
            When it began to, by the monotonic clock: what has changed since counts besides.
        """
        self.limit, self._left, self.sharers = limit, left, max(1, sharers)
        while self._changes and self._changes[0][0] < at:
            self._changed -= self._changes.popleft()[1]

    def taken(self, size: int) -> None:
        """Count bytes that a process has taken; negative ones have been given back."""
        if self.limit is not None and size:
            self._changes.append((time.monotonic(), size))
            self._changed += size

    def left(self) -> int | None:
        """Return the bytes that are left; None without a limit."""
        return None if self.limit is None else self._left - self._changed
