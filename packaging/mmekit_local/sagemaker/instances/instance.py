"""An instance of a variant: a container, and the models that it has."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.errors import MmekitError
from mmekit_local.sagemaker.aws_client import locate
from mmekit_local.sagemaker.errors import (
    AwsError,
    invocation_timed_out,
    model_error,
    model_not_ready,
)
from mmekit_local.sagemaker.instances.container_client import ContainerClient
from mmekit_local.sagemaker.instances.container_connection import (
    ContainerAbsentError,
    ContainerReply,
    ContainerSilentError,
    ContainerTimeoutError,
)
from mmekit_local.sagemaker.instances.health import (
    InstanceStartError,
    diagnose,
    is_suspicious,
    until_healthy,
    until_unhealthy,
)
from mmekit_local.sagemaker.instances.model_cache import ModelCache, TooManyWaitError
from mmekit_local.sagemaker.instances.model_disk import ModelDisk, name_of
from mmekit_local.sagemaker.instances.model_loading import LoadedModel
from mmekit_local.sagemaker.snapshot import InstanceSnapshot
from mmekit_runtime.layers.holding import STORE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mmekit_local.sagemaker.api import Headers
    from mmekit_local.sagemaker.instances.container_connection import StreamedReply
    from mmekit_local.sagemaker.instances.instance_template import InstanceTemplate
    from mmekit_local.sagemaker.instances.launcher import Container
    from mmekit_local.sagemaker.instances.usage import Usage

__all__ = ["Instance", "InstanceLostError", "TimedReply"]

logger = logging.getLogger("mmekit.endpoint")

_DEATH_SECONDS = 0.2

_TIDY_SECONDS = 5.0
_DESCRIBED_AT_ONCE = 4
_DESCRIBE_SECONDS = 1.0
_SHORT_PART, _MOST_SHORT = 40, 128 << 20
"""Of the memory, and the most bytes: what the embedded server's models leave when they wake, which
is less than what containers keep free when they load."""


class InstanceLostError(Exception):
    """The container is gone, and the request did not begin: another instance may serve it."""


@dataclass(frozen=True)
class TimedReply:
    """A container's answer, and how long it took over it."""

    reply: ContainerReply
    model_microseconds: float


class Instance:
    """One container of a variant.

    Parameters
    ----------
    template
        What it is made of.
    number
        Which of the variant's instances it is.
    folder
        A folder of its own.
    """

    def __init__(self, template: InstanceTemplate, number: int, folder: Path) -> None:
        self.number = number
        self.label = f"{template.endpoint.name}/{template.variant}/{number}"
        self.in_flight = 0
        self.state = "starting"
        self._template = template
        self._folder = folder
        self._container: Container | None = None
        self._disk: ModelDisk | None = None
        self._single: LoadedModel | None = None
        self._usage: Usage | None = None
        self._usage_count = 0
        self._requests = 0
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._drain_aborted = asyncio.Event()

    # What a router asks.

    def has(self, target: str) -> bool:
        """Say whether the target model is loaded here."""
        return self._single is not None or target in self._models

    def is_loading(self, target: str) -> bool:
        """Say whether the target model is about to be loaded here."""
        return self._single is None and self._models.is_loading(target)

    def in_flight_of(self, target: str) -> int:
        """Return how many requests a target model is answering here."""
        return self.in_flight if self._single is not None else self._models.in_flight(target)

    @property
    def placement_cost(self) -> tuple[float, ...]:
        """What to compare when a new model needs a place: the least is the best place.

        While there is memory, the instance with most of it. When all instances must make room,
        the one whose least recently used model was used the longest ago, so that the instances
        together evict as one cache would.
        """
        if self._single is not None:
            return (0.0, 0.0, 0.0, float(self.in_flight))
        count = len(self._models)
        if self._models.is_full:
            return (1.0, self._models.oldest_use, float(count), float(self.in_flight))
        taken = 0.0
        if self._usage is not None:
            # What was loaded since the measurement is taken to be like what was there.
            each = self._usage.memory_bytes / max(self._usage_count, 1)
            taken = self._usage.memory_bytes + (count - self._usage_count) * each
        return (0.0, taken, float(count), float(self.in_flight))

    # Life.

    @property
    def activity(self) -> tuple[object, ...]:
        """What is another as soon as somebody asks or changes something here."""
        models = 0 if self._container is None or self._single is not None else len(self._models)
        return (self, self.state, self._requests, models)

    @property
    def pid(self) -> int | None:
        """The container's process."""
        return None if self._container is None else self._container.pid

    async def start(self) -> None:
        """Start the container and wait until it is healthy.

        A single-model endpoint has its model loaded by then.

        Raises
        ------
        InstanceStartError
            It is not healthy in time, it ended, or it cannot load the model.
        """
        template = self._template
        began = time.perf_counter()
        try:
            disk = ModelDisk(
                self._folder / "models",
                template.read_object,
                template.limits.disk_bytes,
                template.metrics,
                layers_apart=STORE_VARIABLE not in {*os.environ, *dict(template.model.environment)},
            )
        except OSError as error:
            raise InstanceStartError(f"Its folder cannot be made: {error}") from error
        self._disk = disk
        only = None
        if not template.model.multi_model:
            try:
                only = await disk.fetch(locate(template.model.data_url), lambda _: True)
            except (AwsError, ValueError) as error:
                raise InstanceStartError(str(error)) from error
        # A stop during the download found no container to end: none must start after it.
        self._raise_if_stopping()
        placement = template.placement(
            self.label, self._folder, None if only is None else only.folder
        )
        try:
            container = await template.launcher.launch(placement)
        except (MmekitError, OSError) as error:
            raise InstanceStartError(f"The container cannot be started: {error}") from error
        # Kept before the look: a stop during the launch ended nothing, and whoever has called this
        # stops what it left.
        self._container = container
        self._client = ContainerClient(container.host, container.port)
        self._models = ModelCache(template, self.label, disk, self._client)
        self._raise_if_stopping()
        await until_healthy(
            container, self._client, template.limits.start_seconds, self._raise_if_stopping
        )
        if only is not None:
            now = time.monotonic()
            self._single = LoadedModel("", only, self._client.only_invocation(), now, now)
        self.state = "in service"
        milliseconds = (time.perf_counter() - began) * 1e3
        template.event_log.record("instance", self.label, "in service", milliseconds=milliseconds)

    async def until_lost(self) -> str:
        """Return why the instance must be replaced, as soon as it must."""
        assert self._container is not None  # noqa: S101 - it has started
        models = None if self._single is not None else self._models
        reason = await until_unhealthy(
            self._container, self._client, models, self._template.limits.health_seconds
        )
        self.state = "dead"
        return reason

    async def stop(self, *, drain: bool = False) -> None:
        """End the container and its work and remove its folder.

        Parameters
        ----------
        drain
            Let requests finish first.
        """
        self._stopping = True
        limits = self._template.limits
        if self.state == "in service":
            self.state = "draining"
        if self.in_flight and drain:
            seconds = limits.invoke_seconds
            if self._single is not None:  # which may be streaming
                seconds = max(seconds, limits.stream_seconds)
            await self._drain(seconds)
            drain = not self._drain_aborted.is_set()
        if self._container is not None:
            # Without draining nobody waits for an answer, only for the container's own tidying: it
            # shall not wait for a request either.
            if not drain:
                self._client.close()
            seconds = limits.stop_seconds if drain else min(limits.stop_seconds, _TIDY_SECONDS)
            await self._container.stop(seconds)
            # Only now: a server that drains answers on these connections until it ends.
            self._client.close()
            await self._models.close()
        self.state = "dead"
        if self._disk is not None:
            self._disk.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def stop_draining(self) -> None:
        """Let a stop that waits for requests go on without them."""
        self._drain_aborted.set()

    async def _drain(self, seconds: float) -> None:
        waits = [asyncio.ensure_future(one.wait()) for one in (self._idle, self._drain_aborted)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self.in_flight:
            logger.info("[%s] stops with %d requests in flight", self.label, self.in_flight)

    def _raise_if_stopping(self) -> None:
        if self._stopping:
            raise InstanceStartError("It was deleted before it was in service.")

    # Requests.

    async def invoke(
        self, target: str, headers: Headers, body: bytes, seconds: float | None = None
    ) -> TimedReply:
        """Send a request to a target model, which is loaded first when need be.

        Parameters
        ----------
        target, headers, body
            Of the request.
        seconds
            How long the only model may take; None for as long as InvokeEndpoint allows.

        Raises
        ------
        InstanceLostError
            The container is gone, and the request did not begin.
        AwsError
            What the client shall see.
        """
        # Before anything is waited for: whoever routes the next request, or drains, must see this.
        self.in_flight += 1
        self._requests += 1
        self._idle.clear()
        seconds = self._template.limits.invoke_seconds if seconds is None else seconds
        try:
            model = self._single
            if model is None:
                model = self._models.get(target)
                metrics = self._template.metrics
                metrics.cache_hit.add(0.0 if model is None else 1.0)
                metrics.targets.looked_up(target, found=model is not None)
                if model is None:
                    model, seconds = await self._wait_for(target)
            else:
                model.used_at = time.monotonic()
            invocation = await self._send(model, headers, body, seconds)
            # A single model cannot be loaded anew: its container is replaced, by its /ping.
            if is_suspicious(invocation.reply.status) and self._single is None:
                invocation = await self._retry_if_lost(model, headers, body, invocation)
            return invocation
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def streaming(self, headers: Headers, body: bytes) -> AsyncIterator[StreamedReply]:
        """Send a request to the only model, and have its answer as it comes for the block.

        Raises
        ------
        InstanceLostError
            The container is gone, and the request did not begin.
        AwsError
            What the client shall see.
        """
        model, limits = self._single, self._template.limits
        assert model is not None  # noqa: S101 - of several models none could be named
        self.in_flight += 1
        self._requests += 1
        self._idle.clear()
        model.used_at = time.monotonic()
        model.in_flight += 1
        model.invocations += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                asked = self._client.stream(
                    model.invocation, headers, body, limits.invoke_seconds, limits.stream_seconds
                )
                try:
                    reply = await stack.enter_async_context(asked)
                except (ContainerTimeoutError, ContainerSilentError) as error:
                    raise await self._unanswered(error) from error
                yield reply
        finally:
            model.in_flight -= 1
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def _unanswered(self, error: Exception) -> Exception:
        """Return what is said of a container that gave no answer."""
        if isinstance(error, ContainerTimeoutError):
            return invocation_timed_out(self._template.endpoint)
        if isinstance(error, ContainerAbsentError):
            return InstanceLostError(str(error))
        await self._notice_death()
        return model_error(self._template.endpoint, 500, f"The container gave no answer: {error}")

    async def warm(self, target: str) -> None:
        """Load a target model, for requests to come."""
        try:
            await self._models.ensure(target, self._template.limits.load_seconds)
        except (AwsError, ContainerAbsentError, asyncio.TimeoutError, TooManyWaitError) as error:
            # No client waits for this load, so nobody else would learn of it.
            status = error.status if isinstance(error, AwsError) else None
            self._template.event_log.record(
                "error", self.label, str(error), target=target, status=status
            )

    async def _wait_for(self, target: str) -> tuple[LoadedModel, float]:
        """Return the model once it is loaded, and the seconds left for the invocation."""
        template = self._template
        began = time.perf_counter()
        left = template.limits.invoke_seconds
        try:
            model = await self._models.ensure(target, left)
            # Where models make room for each other, it may be gone before this request's turn.
            while self._models.get(target) is not model:
                left = template.limits.invoke_seconds - (time.perf_counter() - began)
                model = await self._models.ensure(target, max(left, 0.0))
        except (asyncio.TimeoutError, TooManyWaitError) as error:
            raise model_not_ready(template.endpoint, template.variant) from error
        except ContainerAbsentError as error:
            raise InstanceLostError(str(error)) from error
        waited = time.perf_counter() - began
        template.metrics.loading_wait.add(waited * 1e6)
        # The load counts towards the 60 s of the call, but a model that is there gets its chance.
        return model, max(template.limits.invoke_seconds - waited, 1.0)

    async def _send(
        self, model: LoadedModel, headers: Headers, body: bytes, seconds: float
    ) -> TimedReply:
        # No await lies between the look-up and this: a model that was found cannot be evicted
        # before it counts as busy.
        model.in_flight += 1
        model.invocations += 1
        began = time.perf_counter()
        try:
            reply = await self._client.invoke(model.invocation, headers, body, seconds)
        except (ContainerTimeoutError, ContainerSilentError) as error:
            raise await self._unanswered(error) from error
        finally:
            model.in_flight -= 1
            if not model.in_flight and self._single is None:
                self._models.released(model)
        return TimedReply(reply, (time.perf_counter() - began) * 1e6)

    async def _notice_death(self) -> None:
        """Wait a moment for the container's end, so that whoever asks again is sent elsewhere.

        A killed process frees its memory before it closes its sockets: meanwhile it still takes
        connections, and requests on them would be lost as well.
        """
        assert self._container is not None  # noqa: S101 - it was asked
        ended = asyncio.ensure_future(self._container.ended())
        await asyncio.wait([ended], timeout=_DEATH_SECONDS)
        if ended.done():
            self.state = "dead"
        ended.cancel()

    async def _retry_if_lost(
        self, model: LoadedModel, headers: Headers, body: bytes, first: TimedReply
    ) -> TimedReply:
        """Load a model that the container lost or broke again, and ask once more if nothing ran."""
        found = await diagnose(self._client, model.stored.name, first.reply)
        if found.is_lost:
            self._models.forget(model)
        elif not found.is_broken or not self._models.unload_broken(
            model, f"The model is broken: {first.reply.status} {first.reply.text[:200]}"
        ):
            return first
        # What may have run is never sent twice: only the model knows whether that does harm.
        if found.ran:
            return first
        anew, seconds = await self._wait_for(model.target)
        return await self._send(anew, headers, body, seconds)

    # Figures.

    def folder_of(self, target: str) -> Path | None:
        """Return where a target model's files are; None when they are not here."""
        if self._single is not None:
            return self._single.stored.folder
        name = name_of(locate(self._template.model.data_url, target))
        stored = () if self._disk is None else self._disk.stored
        return next((one.folder for one in stored if one.name == name), None)

    async def take_usage(self, usage: Usage | None) -> None:
        """Take note of what the container's processes take, and act when memory is short."""
        if usage is not None and self._usage is not None:
            # One that parks ends its process.
            ended = self._usage.processes - usage.processes
            if ended and self._single is None and self._container is not None:
                self._models.describe_anew()
        self._usage = usage
        if self.state != "in service" or self._single is not None:
            return
        self._usage_count = len(self._models)
        limit = self._template.memory
        if usage is not None and limit is not None:
            left = limit - usage.memory_bytes
            if left < min(limit // _SHORT_PART, _MOST_SHORT):
                await self._models.relieve_memory()
        await self._models.describe_some(_DESCRIBED_AT_ONCE, _DESCRIBE_SECONDS)

    def snapshot(self) -> InstanceSnapshot:
        """Say how the instance is doing."""
        usage, disk = self._usage, self._disk
        only = () if self._single is None else (self._single.snapshot(),)
        return InstanceSnapshot(
            label=self.label,
            state=self.state,
            pid=self.pid,
            memory_limit=self._template.memory,
            memory_bytes=None if usage is None else usage.memory_bytes,
            disk_limit=None if disk is None else disk.budget,
            disk_bytes=0 if disk is None else disk.used,
            cpu_percent=0.0 if usage is None else usage.cpu_percent,
            in_flight=self.in_flight,
            models=only or (() if self._container is None else self._models.snapshot()),
        )
