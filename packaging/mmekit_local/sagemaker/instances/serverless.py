"""A serverless variant: no container until somebody asks, and none when nobody has for a while."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.errors import invocation_timed_out, model_error, throttled
from mmekit_local.sagemaker.instances.health import InstanceStartError
from mmekit_local.sagemaker.instances.variant import Variant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mmekit_local.sagemaker.api import Headers
    from mmekit_local.sagemaker.instances.container_connection import StreamedReply
    from mmekit_local.sagemaker.instances.instance import TimedReply
    from mmekit_local.sagemaker.instances.instance_template import InstanceTemplate
    from mmekit_local.sagemaker.specification import ServerlessSpecification, VariantSpecification

__all__ = ["ServerlessVariant"]


class ServerlessVariant(Variant):
    """A variant with MemorySizeInMB and MaxConcurrency in place of instances.

    SageMaker runs as many containers as there are requests; here one container plays all of them:
    the embedded server gives its model up to MaxConcurrency workers, as requests wait. A request
    beyond that is refused at once, also while the container is starting. Source: AWS's "Deploy
    models with Amazon SageMaker Serverless Inference".

    Parameters
    ----------
    specification
        What to run.
    serverless
        Its ServerlessConfig.
    template
        What its container is made of.
    folder
        Where that has its folder.
    """

    _replaces = False  # the next request starts a container anew

    def __init__(
        self,
        specification: VariantSpecification,
        serverless: ServerlessSpecification,
        template: InstanceTemplate,
        folder: Path,
    ) -> None:
        # Before the model's own, which count more. It keeps its processes as long as they live.
        plays = (
            ("MMEKIT_CONCURRENCY", str(serverless.max_concurrency)),
            ("MMEKIT_PARK_AFTER_S", "0"),
        )
        model = replace(template.model, environment=(*plays, *template.model.environment))
        template = replace(template, model=model)
        super().__init__(
            specification, template, folder, min(serverless.provisioned_concurrency, 1)
        )
        self.body_bytes = template.limits.serverless_body_bytes
        self._concurrency = serverless.max_concurrency
        self._provisioned = serverless.provisioned_concurrency > 0
        self._requests = 0
        self._cold_start: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def invoke(
        self, target: str, headers: Headers, body: bytes, seconds: float | None = None
    ) -> TimedReply:
        """Send a request to the container, which is started first when need be.

        Raises
        ------
        AwsError
            What the client shall see: ThrottlingException beyond MaxConcurrency.
        """
        async with self._admitted():
            return await super().invoke(target, headers, body, seconds)

    @contextlib.asynccontextmanager
    async def streaming(self, headers: Headers, body: bytes) -> AsyncIterator[StreamedReply]:
        """Send a request, and have its answer as it comes for the block; otherwise as `invoke`."""
        async with self._admitted(), super().streaming(headers, body) as reply:
            yield reply

    @contextlib.asynccontextmanager
    async def _admitted(self) -> AsyncIterator[None]:
        """Be one of the requests for the block, in which there is a container."""
        if self._requests >= self._concurrency:
            raise throttled()
        self._requests += 1
        self._idle.clear()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        try:
            if not self._refreshed():
                await self._until_warm()
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()
                self._await_expiry()

    async def stop(self, *, drain: bool = False) -> None:
        """Stop the container; with `drain`, let requests finish first."""
        # Nobody is admitted any more, and the last to leave sets no timer.
        self._concurrency = 0
        if drain:  # some may be waiting for the container to start
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._idle.wait(), self._template.limits.invoke_seconds)
        if self._expiry is not None:
            self._expiry.cancel()
        await super().stop(drain=drain)

    async def _until_warm(self) -> None:
        if self._cold_start is None:
            self._cold_start = self._begin(self._start_cold())
            self._cold_start.add_done_callback(self._has_started)
        endpoint = self._template.endpoint
        try:
            # Shielded: others wait for the same start, and later requests want what comes of it.
            await asyncio.wait_for(
                asyncio.shield(self._cold_start), self._template.limits.invoke_seconds
            )
        except asyncio.TimeoutError as error:
            raise invocation_timed_out(endpoint) from error
        except InstanceStartError as error:
            raise model_error(endpoint, 500, f"The container did not start. {error}") from error

    async def _start_cold(self) -> None:
        began = time.perf_counter()
        await self.resize(1)
        self.metrics.setup.add((time.perf_counter() - began) * 1e6)

    def _has_started(self, _: asyncio.Task[None]) -> None:
        # After a failure as well: the next request tries again.
        self._cold_start = None

    def _await_expiry(self) -> None:
        if self._concurrency and not self._provisioned:
            seconds = self._template.limits.serverless_idle_seconds
            self._expiry = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self._begin(self._scale_to_zero())

    async def _scale_to_zero(self) -> None:
        # A request that comes meanwhile finds no instance, and its start waits for the same lock;
        # one that came just before is drained.
        await self.resize(0)
        self._template.event_log.record("instance", self._label, "scaled to zero: nobody asks")

    @property
    def _label(self) -> str:
        return f"{self._template.endpoint.name}/{self.name}"
