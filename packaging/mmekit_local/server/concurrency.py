"""A container that plays several: what a serverless endpoint has in the place of instances."""

from __future__ import annotations

import psutil

from mmekit_local.server.memory import MIB

__all__ = ["workers_that_play"]

_INTERPRETER_BYTES = 64 * MIB


def workers_that_play(concurrency: int, required: int, *, slots: bool) -> int:
    """Return how many workers a model may have, each of which plays a container.

    A worker slot costs next to nothing. A process of the plain engine holds interpreter and model,
    for which on SageMaker each container has memory of its own: here half of what the machine has
    left must do.

    Parameters
    ----------
    concurrency
        How many containers there would be at most.
    required
        Bytes that a model takes.
    slots
        Whether its workers are slots.
    """
    if slots or concurrency == 1:
        return concurrency
    room = psutil.virtual_memory().available // 2
    return min(concurrency, max(1, room // (required + _INTERPRETER_BYTES)))
