"""An instance of a variant: a container, and the models that it has."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.endpoint.container_client import (
    ContainerClient,
    ContainerReply,
    ContainerSilentError,
    ContainerTimeoutError,
)
from mmekit.endpoint.errors import AwsError, invocation_timed_out, model_error, model_not_ready
from mmekit.endpoint.launcher import Placement
from mmekit.endpoint.model_cache import LoadedModel, ModelCache

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit.endpoint.http import Headers
    from mmekit.endpoint.launcher import Container, ContainerLauncher
    from mmekit.endpoint.metrics import VariantMetrics
    from mmekit.endpoint.model_source import ReadObject
    from mmekit.endpoint.options import Limits
    from mmekit.endpoint.specification import EndpointId, ModelSpecification

__all__ = ["Instance", "InstanceStartError", "Invocation"]

logger = logging.getLogger("mmekit.endpoint")

_PING_SECONDS = 2.0
_PING_INTERVAL = 0.02
_TIDY_SECONDS = 5.0
_ABSENT = 404


class InstanceStartError(Exception):
    """A container did not come up; the text becomes part of the endpoint's FailureReason."""


@dataclass(frozen=True)
class Invocation:
    """A container's answer, and how long it took over it."""

    reply: ContainerReply
    model_microseconds: float


class Instance:
    """One container of a variant.

    Parameters
    ----------
    endpoint
        The endpoint, for errors.
    variant
        The variant's name.
    number
        Which of the variant's instances it is.
    model
        What it serves.
    folder
        A folder of its own.
    launcher
        Starts its container.
    read_object
        Reads from S3.
    limits
        Time limits.
    metrics
        Where the variant's metrics are gathered.
    """

    def __init__(  # noqa: PLR0913 - all of them are parts, none is a choice
        self,
        *,
        endpoint: EndpointId,
        variant: str,
        number: int,
        model: ModelSpecification,
        folder: Path,
        launcher: ContainerLauncher,
        read_object: ReadObject,
        limits: Limits,
        metrics: VariantMetrics,
    ) -> None:
        self.label = f"{endpoint.name}/{variant}/{number}"
        self.in_flight = 0
        self._endpoint = endpoint
        self._variant = variant
        self._model = model
        self._folder = folder
        self._launcher = launcher
        self._read_object = read_object
        self._limits = limits
        self._metrics = metrics
        self._container: Container | None = None
        self._client: ContainerClient | None = None
        self._models: ModelCache | None = None
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    def has(self, target: str) -> bool:
        """Say whether the target model is loaded here, or about to be."""
        return self._models is not None and target in self._models

    @property
    def loaded_models(self) -> int:
        """The number of models in memory."""
        return 0 if self._models is None else len(self._models)

    async def start(self) -> None:
        """Start the container and wait until it is healthy.

        A single-model endpoint has its model loaded by then.

        Raises
        ------
        InstanceStartError
            It is not healthy in time, it ended, or it cannot load the model.
        """
        placement = Placement(self.label, self._folder, self._model.environment)
        try:
            container = await self._launcher.launch(placement)
        except OSError as error:
            raise InstanceStartError(f"The container cannot be started: {error}") from error
        self._container = container
        if self._stopping:
            raise InstanceStartError("It was deleted before it was in service.")
        self._client = ContainerClient(container.host, container.port)
        self._models = ModelCache(
            endpoint=self._endpoint,
            label=self.label,
            data_url=self._model.data_url,
            folder=self._folder / "models",
            client=self._client,
            read_object=self._read_object,
            limits=self._limits,
            metrics=self._metrics,
        )
        await self._until_healthy(container, self._client)
        if not self._model.multi_model:
            await self._load_only_model(self._models)

    async def invoke(self, target: str, headers: Headers, body: bytes) -> Invocation:
        """Send a request to a target model, which is loaded first when need be.

        Raises
        ------
        AwsError
            What the client shall see.
        """
        self.in_flight += 1
        self._idle.clear()
        try:
            return await self._invoke(target, headers, body)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def stop(self, *, drain: bool = False) -> None:
        """End the container and its work; with `drain`, let requests finish first."""
        self._stopping = True
        if self.in_flight and drain:
            try:
                await asyncio.wait_for(self._idle.wait(), self._limits.invoke_seconds)
            except asyncio.TimeoutError:
                logger.info("[%s] stops with %d requests in flight", self.label, self.in_flight)
        if self._container is not None:
            seconds = self._limits.stop_seconds
            # Without draining nobody waits for an answer, only for the container's own tidying.
            await self._container.stop(seconds if drain else min(seconds, _TIDY_SECONDS))
        if self._client is not None:
            self._client.close()
        if self._models is not None:
            await self._models.close()

    async def _until_healthy(self, container: Container, client: ContainerClient) -> None:
        patience = time.monotonic() + self._limits.start_seconds
        while not await client.is_healthy(_PING_SECONDS):
            if self._stopping:
                raise InstanceStartError("It was deleted before it was in service.")
            if (obituary := container.obituary) is not None:
                raise InstanceStartError(obituary)
            if time.monotonic() > patience:
                raise InstanceStartError(
                    f"/ping did not answer 200 within {self._limits.start_seconds:.0f} seconds."
                )
            await asyncio.sleep(_PING_INTERVAL)

    async def _load_only_model(self, models: ModelCache) -> None:
        try:
            await models.ensure("", self._limits.start_seconds)
        except asyncio.TimeoutError as error:
            raise InstanceStartError("The model took too long to load.") from error
        except AwsError as error:
            raise InstanceStartError(error.message) from error

    async def _invoke(self, target: str, headers: Headers, body: bytes) -> Invocation:
        assert self._models is not None  # noqa: S101 - requests come only once it has started
        assert self._client is not None  # noqa: S101 - likewise
        model = self._models.get(target)
        self._metrics.cache_hit.add(0.0 if model is None else 1.0)
        if model is None:
            model, seconds = await self._wait_for(target, self._models)
        else:
            seconds = self._limits.invoke_seconds
        invocation = await self._ask(model, headers, body, seconds, self._client)
        if invocation.reply.status == _ABSENT and not await self._still_has(model, self._client):
            # The container lost it (it was restarted, say): nothing ran, so try once more.
            self._models.forget(model)
            model, seconds = await self._wait_for(target, self._models)
            invocation = await self._ask(model, headers, body, seconds, self._client)
        return invocation

    async def _wait_for(self, target: str, models: ModelCache) -> tuple[LoadedModel, float]:
        """Return the model once it is loaded, and the seconds left for the invocation."""
        began = time.perf_counter()
        try:
            model = await models.ensure(target, self._limits.invoke_seconds)
        except asyncio.TimeoutError as error:
            raise model_not_ready(self._endpoint, self._variant) from error
        waited = time.perf_counter() - began
        self._metrics.loading_wait.add(waited * 1e6)
        return model, max(self._limits.invoke_seconds - waited, 1.0)

    async def _ask(
        self,
        model: LoadedModel,
        headers: Headers,
        body: bytes,
        seconds: float,
        client: ContainerClient,
    ) -> Invocation:
        model.in_flight += 1
        began = time.perf_counter()
        try:
            reply = await client.invoke(model.invocation, headers, body, seconds)
        except ContainerTimeoutError as error:
            raise invocation_timed_out(self._endpoint) from error
        except ContainerSilentError as error:
            raise model_error(
                self._endpoint, 500, f"The container gave no answer: {error}"
            ) from error
        finally:
            model.in_flight -= 1
        return Invocation(reply, (time.perf_counter() - began) * 1e6)

    async def _still_has(self, model: LoadedModel, client: ContainerClient) -> bool:
        """Tell a container that has no such model from a model that answers 404."""
        try:
            return await client.knows(model.name, _PING_SECONDS)
        except (ContainerSilentError, ContainerTimeoutError):
            return True
