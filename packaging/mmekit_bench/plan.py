"""What a load is to be: everything that the generator is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mmekit.errors import MmekitError
from mmekit_bench.destination import Destination  # noqa: TC001 - pydantic reads it
from mmekit_bench.payload import Payload  # noqa: TC001 - pydantic reads it
from mmekit_bench.profile import Profile
from mmekit_bench.traffic import weights

__all__ = ["Client", "Plan"]

MOST_RATE = 100_000
MOST_CONNECTIONS = 10_000
Client = Literal["raw", "boto3"]


@dataclass(frozen=True)
class Plan:
    """A load, from the first request to the last.

    Attributes
    ----------
    destination, payload
        Where requests go and what they carry.
    targets
        Target models; the most wanted first.
    distribution
        How requests spread over them, as `mmekit_bench.traffic.weights` has it.
    connections
        How many requests are under way at most: in a closed loop always as many.
    rate
        Requests a second of an open loop; None for a closed one.
    poisson
        Whether an open loop's requests come at random moments.
    outstanding
        How many requests an open loop lets wait or be under way; what arrives beyond is dropped.
    duration
        Seconds that are measured; None when `requests` ends it.
    requests
        How many are measured at most.
    warm_up
        Seconds of the same load before.
    ramp, spike
        As `mmekit_bench.profile.Profile.of` reads them.
    client
        ``raw`` HTTP, or ``boto3`` in threads.
    timeout
        Seconds that an answer may take.
    seed
        Of everything that is drawn.
    """

    destination: Destination
    payload: Payload
    targets: tuple[str, ...]
    distribution: str = "uniform"
    connections: int = 1
    rate: float | None = None
    poisson: bool = False
    outstanding: int = 1000
    duration: float | None = 10.0
    requests: int | None = None
    warm_up: float = 0.0
    ramp: str | None = None
    spike: str | None = None
    client: Client = "raw"
    timeout: float = 60.0
    seed: int = 0

    def check(self) -> None:
        """See that the load is one that a generator can put on.

        Raises
        ------
        MmekitError
            It is too much for one client, or cannot be read.
        """
        _ = self.shares
        highest = self.profile.highest
        if self.rate is not None and not 0 < highest <= MOST_RATE:
            raise MmekitError(
                f"{highest:g} requests a second are more than one client can send.",
                where="--rate",
                remedy=f"Ask for {MOST_RATE:,} at most, with --ramp and --spike.",
            )
        connections = self.connections if self.rate is not None else highest
        if not connections <= MOST_CONNECTIONS:
            raise MmekitError(
                f"{connections:g} connections are more than one client has ports for.",
                where="--connections",
                remedy=f"Ask for {MOST_CONNECTIONS:,} at most, with --ramp and --spike.",
            )

    @property
    def is_open(self) -> bool:
        """Whether requests arrive whether or not the last were answered."""
        return self.rate is not None

    @property
    def profile(self) -> Profile:
        """The level of the load over time: requests a second, or connections."""
        level = float(self.connections) if self.rate is None else self.rate
        seconds = math.inf if self.duration is None else self.duration
        return Profile.of(level, seconds, self.ramp, self.spike)

    @property
    def shares(self) -> tuple[float, ...]:
        """Each target's share of the requests."""
        return weights(self.distribution, len(self.targets))
