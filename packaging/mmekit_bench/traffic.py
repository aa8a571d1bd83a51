"""Which target model is asked for next: how traffic spreads over the models of an endpoint."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import numpy as np

from mmekit.errors import MmekitError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DISTRIBUTIONS", "picks", "weights"]

DISTRIBUTIONS = ("one", "uniform", "hot", "top-N", "zipf")

_HOT_SHARE = 0.9
_CHUNK = 4096


def weights(distribution: str, targets: int) -> tuple[float, ...]:
    """Return each target's share of the requests, the first target's first.

    Parameters
    ----------
    distribution
        ``one``: the first target alone. ``uniform``: all alike. ``hot``: nine of ten requests go to
        the first, the tenth to any other. ``top-N``, such as ``top-5``: the first N, alike.
        ``zipf``: the share of the n-th is proportional to 1/n.
    targets
        How many there are.

    Raises
    ------
    MmekitError
        There is no such distribution.

    Examples
    --------
    >>> weights("hot", 4)[0]
    0.9
    >>> weights("top-2", 4)
    (0.5, 0.5, 0.0, 0.0)
    """
    top = re.fullmatch(r"top-([1-9]\d*)", distribution)
    if distribution == "one":
        shares = [1.0] + [0.0] * (targets - 1)
    elif distribution == "uniform" or (distribution == "hot" and targets == 1):
        shares = [1.0] * targets
    elif distribution == "hot":
        shares = [_HOT_SHARE] + [(1 - _HOT_SHARE) / (targets - 1)] * (targets - 1)
    elif distribution == "zipf":
        shares = [1 / rank for rank in range(1, targets + 1)]
    elif top:
        shares = [float(rank < int(top[1])) for rank in range(targets)]
    else:
        raise MmekitError(
            f"There is no distribution {distribution!r}.",
            where="--distribution",
            remedy=f"Choose one of {', '.join(DISTRIBUTIONS)}, with a number for N.",
        )
    total = sum(shares)
    return tuple(share / total for share in shares)


def picks(shares: tuple[float, ...], seed: int) -> Iterator[int]:
    """Return targets' numbers without end, the same ones for the same seed."""
    if len(shares) == 1 or shares[0] == 1:
        return itertools.repeat(0)
    return _drawn(shares, np.random.default_rng(seed))


def _drawn(shares: tuple[float, ...], random: np.random.Generator) -> Iterator[int]:
    while True:
        yield from random.choice(len(shares), _CHUNK, p=shares).tolist()
