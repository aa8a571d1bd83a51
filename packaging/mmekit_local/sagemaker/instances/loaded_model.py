"""A model that a container has in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.snapshot import ModelSnapshot, ParkingSnapshot

if TYPE_CHECKING:
    from mmekit_local.sagemaker.instances.container_client import ContainerModel
    from mmekit_local.sagemaker.instances.model_disk import StoredModel

__all__ = ["LoadedModel"]


@dataclass(eq=False)
class LoadedModel:
    """A model that the container has in memory.

    Attributes
    ----------
    target
        The target model; "" for the only model of a single-model endpoint.
    stored
        Its files.
    invocation
        The unchanging beginning of its requests to the container.
    loaded_at, used_at, described_at
        When it was loaded, last asked or last had answered, and when the container was last asked
        about it: monotonic clock.
    in_flight
        Requests that it is answering; only an idle model is evicted.
    """

    target: str
    stored: StoredModel
    invocation: bytes
    loaded_at: float
    used_at: float
    described_at: float = 0.0
    in_flight: int = 0
    invocations: int = 0
    memory_bytes: int | None = None
    parking: ParkingSnapshot | None = None

    @property
    def is_parked(self) -> bool:
        """Whether it has no process, as far as is known: a request since would have woken it."""
        told = self.parking is not None and self.parking.since is not None
        return told and not self.in_flight and self.used_at < self.described_at

    def take(self, told: ContainerModel | None) -> None:
        """Take note of what the container tells."""
        self.memory_bytes = None if told is None else told.memory_bytes
        self.parking = None if told is None else told.parking

    def snapshot(self) -> ModelSnapshot:
        """Say how the model is doing."""
        now = time.monotonic()
        return ModelSnapshot(
            target=self.target,
            state="loaded",
            disk_bytes=self.stored.size,
            memory_bytes=self.memory_bytes,
            age_s=now - self.loaded_at,
            idle_s=0.0 if self.in_flight else now - self.used_at,
            in_flight=self.in_flight,
            invocations=self.invocations,
            parking=self._parking_now(),
        )

    def _parking_now(self) -> ParkingSnapshot | None:
        if self.parking is None or self.is_parked:
            return self.parking
        return ParkingSnapshot(None, self.parking.wakes)
