"""A model in a container's memory, and how the container is asked to load and drop one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.errors import model_error
from mmekit_local.sagemaker.instances.container_connection import (
    ContainerAbsentError,
    ContainerSilentError,
    ContainerTimeoutError,
)
from mmekit_local.sagemaker.snapshot import ModelSnapshot, ParkingSnapshot

if TYPE_CHECKING:
    from mmekit_local.sagemaker.instances.container_client import ContainerClient, ContainerModel
    from mmekit_local.sagemaker.instances.container_connection import ContainerReply
    from mmekit_local.sagemaker.instances.model_disk import StoredModel
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = ["LoadedModel", "ModelLoader"]

_CONFLICT = 409
_DESCRIBE_SECONDS = 5.0


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
    described_after_s
        So long after the latest use before it the container was asked.
    in_flight
        Requests that it is answering; only an idle model is evicted.
    """

    target: str
    stored: StoredModel
    invocation: bytes
    loaded_at: float
    used_at: float
    described_at: float = 0.0
    described_after_s: float = 0.0
    in_flight: int = 0
    invocations: int = 0
    memory_bytes: int | None = None
    parking: ParkingSnapshot | None = None

    @property
    def is_parked(self) -> bool:
        """Whether it has no process, as far as is known: a request since would have woken it."""
        told = self.parking is not None and self.parking.since is not None
        return told and not self.in_flight and self.used_at < self.described_at

    def is_to_be_described(self, now: float) -> bool:
        """Say whether it may have changed: a model changes less the longer nobody asks it."""
        if self.in_flight or self.used_at >= self.described_at:
            return True
        return now - self.used_at >= min(2 * self.described_after_s, self.described_after_s + 60)

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


class ModelLoader:
    """Has one container load and drop models.

    Parameters
    ----------
    client
        The container.
    endpoint
        Whose models these are, for errors.
    load_seconds
        How long a load, or an unload, may take.

    Attributes
    ----------
    loads_under_way
        How many loads the container has not answered yet.
    """

    def __init__(self, client: ContainerClient, endpoint: EndpointId, load_seconds: float) -> None:
        self._client = client
        self._endpoint = endpoint
        self._load_seconds = load_seconds
        self.loads_under_way = 0

    async def load(self, stored: StoredModel, seconds: float) -> ContainerReply:
        """Ask for a model to be loaded.

        Raises
        ------
        ContainerAbsentError
            There is no container any more; nothing was sent.
        AwsError
            The container did not answer, or not in time.
        """
        self.loads_under_way += 1
        try:
            return await self._client.load(stored.name, str(stored.folder), seconds)
        except ContainerTimeoutError as error:
            reason = f"The model was not loaded within {self._load_seconds:.0f} seconds."
            raise model_error(self._endpoint, 0, reason) from error
        except ContainerAbsentError:
            # It is silent, too, but it got nothing: another instance may have the request.
            raise
        except ContainerSilentError as error:
            raise model_error(
                self._endpoint, 500, f"The container gave no answer: {error}"
            ) from error
        finally:
            self.loads_under_way -= 1

    async def unload(self, stored: StoredModel) -> None:
        """Have a model dropped; a container that is not there has nothing loaded either.

        Also one that got no memory: Multi Model Server 1.1.11 keeps its name, without a worker, at
        least for a moment.
        """
        with contextlib.suppress(ContainerSilentError, ContainerTimeoutError):
            await self._client.unload(stored.name, self._load_seconds)

    async def has_already(self, reply: ContainerReply, stored: StoredModel) -> bool:
        """Tell a model that is loaded from a setting that the server refuses: both are 409."""
        if reply.status != _CONFLICT:
            return False
        try:
            return await self._client.describe(stored.name, _DESCRIBE_SECONDS) is not None
        except (ContainerSilentError, ContainerTimeoutError):
            return False
