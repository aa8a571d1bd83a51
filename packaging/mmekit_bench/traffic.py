"""What traffic there is: how the load changes while it lasts, and which model is asked next."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmekit.errors import MmekitError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DISTRIBUTIONS", "Profile", "picks", "weights"]

DISTRIBUTIONS = ("one", "uniform", "hot", "top-N", "zipf")

_HOT_SHARE = 0.9
_CHUNK = 4096

_NUMBER = r"(\d+(?:\.\d+)?)"
_RAMP = re.compile(rf"{_NUMBER}:{_NUMBER}")
_SPIKE = re.compile(rf"{_NUMBER}x?@{_NUMBER}\+{_NUMBER}")


@dataclass(frozen=True)
class Profile:
    """A level over time: it goes evenly from one to another; a spike multiplies it for a while.

    The level is connections in a closed loop and requests a second in an open one.

    Attributes
    ----------
    begin, end
        The level at the start of the load and after `seconds`.
    seconds
        How long the load lasts; infinite when nothing but a number of requests ends it.
    spike
        How many times the level a spike is; 1 for none.
    spike_at, spike_for
        When it begins and how long it lasts, in seconds.
    """

    begin: float
    end: float
    seconds: float = math.inf
    spike: float = 1.0
    spike_at: float = 0.0
    spike_for: float = 0.0

    @classmethod
    def of(
        cls, level: float, seconds: float, ramp: str | None = None, spike: str | None = None
    ) -> Profile:
        """Read what the command line was told.

        Parameters
        ----------
        level
            The level without a ramp.
        ramp
            ``FROM:TO``, such as ``1:32``.
        spike
            ``TIMES@START+LENGTH``, such as ``10@5+3``: ten times the level from second 5 to 8.

        Raises
        ------
        MmekitError
            One of them cannot be read.
        """
        begin = end = level
        if ramp is not None:
            begin, end, *_ = _numbers(_RAMP, ramp, "--ramp", "FROM:TO, such as 1:32")
            if max(begin, end) <= 0:
                raise MmekitError(
                    "A ramp from nothing to nothing is no load.", where="--ramp", remedy="Raise it."
                )
        if spike is None:
            return cls(begin, end, seconds)
        form = "TIMES@START+LENGTH, such as 10@5+3"
        return cls(begin, end, seconds, *_numbers(_SPIKE, spike, "--spike", form))

    @property
    def highest(self) -> float:
        """The highest level that there will be."""
        # A spike is over at its end; with a ramp it is highest just before.
        moments = [0.0, self.spike_at, self.spike_at + self.spike_for * (1 - 1e-9)]
        levels = [self.level(moment) for moment in moments if moment < self.seconds]
        return max(*levels, self.end if math.isfinite(self.seconds) else self.begin)

    def level(self, moment: float) -> float:
        """Return the level at a moment, in seconds from the start; before it, the first."""
        level = self.begin
        if self.end != self.begin:
            level += (self.end - self.begin) * min(max(moment / self.seconds, 0.0), 1.0)
        if self.spike_at <= moment < self.spike_at + self.spike_for:
            level *= self.spike
        return level

    def arrivals(self, *, poisson: bool, seed: int, start: float) -> Iterator[float]:
        """Return the moments at which requests are to be sent, without end.

        Parameters
        ----------
        poisson
            Whether the gaps are random (those of many independent callers) or all alike.
        start
            The first moment, in seconds; a warm-up begins below zero.
        """
        random = np.random.default_rng(seed)
        moment = start
        while True:
            gap = float(random.exponential()) if poisson else 1.0
            moment = self._after(moment, gap)
            yield moment

    def _after(self, moment: float, gap: float) -> float:
        """Return when so many requests have become due since a moment.

        Between two edges the level changes evenly, so that its integral is known exactly.
        """
        for edge in sorted({0.0, self.spike_at, self.spike_at + self.spike_for, self.seconds}):
            if moment >= edge or edge == math.inf:
                continue
            level, slope = self.level(moment), self._slope(moment)
            step = _crossing(level, slope, gap)
            if moment + step <= edge:
                return moment + step
            step = edge - moment
            gap -= level * step + slope * step * step / 2
            moment = edge
        return moment + _crossing(self.level(moment), 0.0, gap)

    def _slope(self, moment: float) -> float:
        if self.end == self.begin or not 0 <= moment < self.seconds:
            return 0.0
        spiking = self.spike_at <= moment < self.spike_at + self.spike_for
        return (self.end - self.begin) / self.seconds * (self.spike if spiking else 1.0)


def _crossing(level: float, slope: float, gap: float) -> float:
    """Return when a level that changes evenly has summed up to a gap; infinity for never."""
    root = level * level + 2 * slope * gap
    if root < 0 or level + math.sqrt(root) == 0:
        return math.inf
    # The usual (root - level) / slope loses its digits where the slope is small, and fails at none.
    return 2 * gap / (level + math.sqrt(root))


def _numbers(pattern: re.Pattern[str], text: str, where: str, form: str) -> tuple[float, ...]:
    match = pattern.fullmatch(text)
    if match is None:
        raise MmekitError(f"{text!r} cannot be read.", where=where, remedy=f"Write {form}.")
    return tuple(float(group) for group in match.groups())


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
        # By the thousand: a call of numpy's took 100 µs, and a draw of such a chunk 0.2 µs.
        yield from random.choice(len(shares), _CHUNK, p=shares).tolist()
