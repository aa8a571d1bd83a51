"""The models of one instance: loaded on first use, evicted in need."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from mmekit_local.sagemaker.aws_client import locate
from mmekit_local.sagemaker.errors import AwsError, model_error, validation_error
from mmekit_local.sagemaker.instances.container_connection import (
    ContainerAbsentError,
    ContainerSilentError,
    ContainerTimeoutError,
)
from mmekit_local.sagemaker.instances.model_disk import name_of
from mmekit_local.sagemaker.instances.model_loading import LoadedModel, ModelLoader
from mmekit_local.sagemaker.snapshot import ModelSnapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit_local.sagemaker.aws_client import ObjectAddress
    from mmekit_local.sagemaker.instances.container_client import ContainerClient
    from mmekit_local.sagemaker.instances.instance_template import InstanceTemplate
    from mmekit_local.sagemaker.instances.model_disk import ModelDisk, StoredModel

__all__ = ["ModelCache", "TooManyWaitError"]

logger = logging.getLogger("mmekit.endpoint")

_DONE, _CONFLICT = 200, 409
_OUT_OF_MEMORY = 507
_NO_SPACE = os.strerror(errno.ENOSPC)
_IN_MEMORY, _ON_DISK = "in memory", "on disk"
_FORGETTING_SECONDS = 0.1
_BROKEN_AGAIN_SECONDS = 1.0
_LOADS_AT_ONCE = 8
"""Each takes a core for a while, and DJL Serving does not count the memory of loads under way."""
_PATIENCE_SECONDS = 0.25
_RETURN_SECONDS = 3.0
"""For so long a model that was unloaded may be giving its memory back: DJL Serving answers before
the model's worker has ended."""
_STARVED_SECONDS = 1.0
"""How long a load waits for an idle model before it makes one idle."""


class TooManyWaitError(Exception):
    """So many requests wait for a model that one more would not help."""


class ModelCache:
    """What one instance of a multi-model endpoint has in memory, by target model.

    However many requests wait for a model, it is downloaded once and loaded once. What was
    unloaded stays on disk, unless the model's cache setting says otherwise.

    Parameters
    ----------
    template
        ModelDataUrl, and whether models are cached at all; limits, metrics, event_log.
    label
        The instance's name in the log.
    disk
        Where their files are.
    client
        The instance's container.
    """

    def __init__(
        self, template: InstanceTemplate, label: str, disk: ModelDisk, client: ContainerClient
    ) -> None:
        self._endpoint = template.endpoint
        self._label = label
        self._data_url = template.model.data_url
        self._caches = template.model.caches_models
        self._disk = disk
        self._client = client
        self._loader = ModelLoader(client, template.endpoint, template.limits.load_seconds)
        self._limits = template.limits
        self._metrics = template.metrics
        self._event_log = template.event_log
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()  # least recently used first
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self._waiting: dict[str, int] = {}
        self._used_names: set[str] = set()  # of models whose files must stay
        self._permits = asyncio.Semaphore(_LOADS_AT_ONCE)
        self._unloading: dict[str, asyncio.Task[None]] = {}
        self._evicted_at = -math.inf
        self._change = asyncio.Event()
        self._unloaded_broken: dict[str, float] = {}
        self.is_full = False
        """Whether the latest load had to make room."""

    def __contains__(self, target: str) -> bool:
        """Say whether a model is loaded."""
        return target in self._loaded

    def __len__(self) -> int:
        """Return the number of models in memory, those that are being loaded among them."""
        return len(self._loaded) + len(self._loading)

    def __iter__(self) -> Iterator[LoadedModel]:
        """Iterate over the loaded models, the least recently used first."""
        return iter(tuple(self._loaded.values()))

    @property
    def oldest_use(self) -> float:
        """When the least recently used model was used, on the monotonic clock."""
        oldest = next(iter(self._loaded.values()), None)
        return time.monotonic() if oldest is None else oldest.used_at

    def is_loading(self, target: str) -> bool:
        """Say whether a model is being loaded."""
        return target in self._loading

    def in_flight(self, target: str) -> int:
        """Return how many requests a model is answering."""
        model = self._loaded.get(target)
        return 0 if model is None else model.in_flight

    def get(self, target: str) -> LoadedModel | None:
        """Return a model that is in memory, which counts as using it."""
        model = self._loaded.get(target)
        if model is not None:
            self._loaded.move_to_end(target)
            model.used_at = time.monotonic()
        return model

    async def ensure(self, target: str, seconds: float) -> LoadedModel:
        """Return a model, loading it first when need be.

        Raises
        ------
        TooManyWaitError
            Too many requests wait for it already.
        asyncio.TimeoutError
            It is still loading after so many seconds; the load goes on.
        ContainerAbsentError
            There is no container any more; nothing was sent.
        AwsError
            It cannot be downloaded, unpacked or loaded.
        """
        model = self.get(target)
        if model is not None:
            return model
        waiting = self._waiting.get(target, 0)
        if waiting >= self._limits.waiting_requests:
            raise TooManyWaitError
        self._waiting[target] = waiting + 1
        loading = self._loading.get(target)
        if loading is None:
            loading = asyncio.ensure_future(self._load(target))
            self._loading[target] = loading
            # Added before anybody waits, so it runs first: whoever wakes finds this load gone, and
            # one that must ask again begins another.
            loading.add_done_callback(lambda done: self._finish(target, done))
        try:
            # Shielded: a client that goes away must not end a load that others wait for.
            return await asyncio.wait_for(asyncio.shield(loading), seconds)
        except asyncio.CancelledError:
            if loading.cancelled():  # the instance was closed, and this request never began
                raise ContainerAbsentError("the instance has ended") from None
            raise
        finally:
            self._waiting[target] -= 1
            if not self._waiting[target]:
                del self._waiting[target]

    def released(self, model: LoadedModel) -> None:
        """Take note that a model has answered its last request for now."""
        model.used_at = time.monotonic()
        if not self._change.is_set():
            self._change.set()
        if not self._caches and self._loaded.get(model.target) is model:
            self._begin_unloading(model, deletes=True)

    def forget(self, model: LoadedModel) -> None:
        """Take note that the container no longer has a model."""
        # By identity: a later load may have put its own model under that target.
        if self._loaded.get(model.target) is model:
            del self._loaded[model.target]
            self._used_names.discard(model.stored.name)

    def unload_broken(self, model: LoadedModel, reason: str) -> bool:
        """Unload a model that is broken, so that its next use loads it; False when it just was."""
        if self._loaded.get(model.target) is not model:
            return True  # somebody else's request has seen to it
        now = time.monotonic()
        if (
            now - self._unloaded_broken.get(model.target, -_BROKEN_AGAIN_SECONDS)
            < _BROKEN_AGAIN_SECONDS
        ):
            # The last load did not mend it. One more for each request would keep a core busy.
            return False
        self._unloaded_broken[model.target] = now
        self._event_log.record(
            "error", self._label, f"{reason} It is unloaded and loaded again.", target=model.target
        )
        self._begin_unloading(model, deletes=False)
        return True

    async def unload_failed(self) -> None:
        """Ask the container which models have failed, and unload them."""
        with contextlib.suppress(ContainerSilentError, ContainerTimeoutError):
            failed = set(await self._client.failed_models())
            for model in self:
                if model.stored.name in failed:
                    self.unload_broken(model, "The server marked the model as failed.")

    async def relieve_memory(self) -> None:
        """Unload the least recently used idle model: models have grown beyond the memory.

        One that is parked takes nothing.
        """
        if sum(not model.is_parked for model in self) > 1:
            with contextlib.suppress(AwsError, ContainerAbsentError):
                await self._evict(f"unloaded to make room {_IN_MEMORY}", idle=True, awake=True)

    def describe_anew(self) -> None:
        """Have the container asked about all models soon: processes of it have ended."""
        for model in self:
            model.described_after_s = 0.0

    async def describe_some(self, count: int, seconds: float) -> None:
        """Ask the container about the models that it told of the longest ago.

        Nothing changes with one that is parked before it is asked.
        """
        now = time.monotonic()
        awake = [model for model in self if not model.is_parked and model.is_to_be_described(now)]
        for model in sorted(awake, key=lambda model: model.described_at)[:count]:
            # Before the question: a request that comes meanwhile wakes the model, and `is_parked`
            # shall see that its use is the later one.
            model.described_at = time.monotonic()
            model.described_after_s = model.described_at - model.used_at
            with contextlib.suppress(ContainerSilentError, ContainerTimeoutError):
                model.take(await self._client.describe(model.stored.name, seconds))

    def snapshot(self) -> tuple[ModelSnapshot, ...]:
        """Say what is loaded, being loaded, and on disk."""
        loaded = [model.snapshot() for model in self._loaded.values()]
        loading = [ModelSnapshot(one, "loading", 0, None, 0.0, 0.0, 0, 0) for one in self._loading]
        resting = [one for one in self._disk.stored if one.name not in self._used_names]
        prefix = locate(self._data_url).key if resting else ""
        idle = [
            ModelSnapshot(one.address.key[len(prefix) :], "on disk", one.size, None, 0.0, 0.0, 0, 0)
            for one in resting
        ]
        return (*loaded, *loading, *idle)

    async def close(self) -> None:
        """Give up the work under way, and wait until nothing works in the folder any more."""
        tasks = [*self._loading.values(), *self._unloading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finish(self, target: str, loading: asyncio.Task[LoadedModel]) -> None:
        del self._loading[target]
        self._change.set()
        # Retrieves the exception as well, which nobody else may do when every caller has left.
        if not loading.cancelled() and (error := loading.exception()) is not None:
            logger.info("[%s] %s: %s", self._label, target, error)

    async def _load(self, target: str) -> LoadedModel:
        address = self._address(target)
        name = name_of(address)
        # Before the first wait: what an earlier load left on disk must not be deleted meanwhile.
        self._used_names.add(name)
        try:
            # Containers answer a load with 409 while they still have the model.
            if (unloading := self._unloading.get(name)) is not None:
                await asyncio.wait([unloading])
            # A permit only from here on: models on their way out would keep other loads waiting.
            async with self._permits:
                began = time.perf_counter()
                stored = await self._fetch(address)
                downloaded = time.perf_counter()
                await self._load_from(stored)
        except BaseException:
            self._used_names.discard(name)
            raise
        loaded = time.perf_counter()
        now = time.monotonic()
        model = LoadedModel(target, stored, self._client.invocation(name, target), now, now)
        self._loaded[target] = model
        self._metrics.loading.add((loaded - downloaded) * 1e6)
        self._metrics.targets.loaded(target)
        text = (
            f"fetched in {(downloaded - began) * 1e3:.0f} ms, "
            f"loaded in {(loaded - downloaded) * 1e3:.0f} ms"
        )
        milliseconds = (loaded - began) * 1e3
        self._event_log.record(
            "cold load", self._label, text, target=target, milliseconds=milliseconds
        )
        logger.info("[%s] %s: %s", self._label, target, text)
        if self._disk.is_over_budget:
            await self._relieve_disk()
        return model

    async def _fetch(self, address: ObjectAddress) -> StoredModel:
        began = time.monotonic()
        patience = began + self._limits.load_seconds

        async def unload() -> bool:
            return await self._evict_or_wait(_ON_DISK, began, patience)

        return await self._disk.fetch(address, self._used_names.__contains__, unload)

    def _address(self, target: str) -> ObjectAddress:
        try:
            return locate(self._data_url, target)
        except ValueError as error:
            raise validation_error(f"Failed to download model data: {error}.") from error

    async def _load_from(self, stored: StoredModel) -> None:
        began = time.monotonic()
        patience = began + self._limits.load_seconds
        full = refused = False
        while True:
            reply = await self._loader.load(stored, max(patience - time.monotonic(), 1.0))
            # Multi Model Server still has the name of the load that it refused a moment ago.
            if refused and reply.status == _CONFLICT and time.monotonic() < patience:
                await self._loader.unload(stored)
                await asyncio.sleep(_FORGETTING_SECONDS)
                continue
            if reply.status == _DONE or await self._loader.has_already(reply, stored):
                self.is_full = full
                return
            # Both: the text alone may be a model's own, about another disk.
            no_disk = _NO_SPACE in reply.text and self._disk.is_full
            if reply.status != _OUT_OF_MEMORY and not no_disk:
                raise model_error(self._endpoint, reply.status, reply.text)
            # The machine's disk is one for all instances: no other would be the better place.
            full, refused = full or not no_disk, True
            await self._loader.unload(stored)
            if no_disk and await self._disk.delete_unused(self._used_names.__contains__):
                continue
            if not await self._evict_or_wait(_ON_DISK if no_disk else _IN_MEMORY, began, patience):
                raise model_error(self._endpoint, reply.status, reply.text)

    async def _evict_or_wait(self, where: str, began: float, patience: float) -> bool:
        """Evict a model for one that does not fit, or wait a little; False when that is of no use.

        Parameters
        ----------
        where
            Of what there is no room.
        began, patience
            Since when, and until when, the other one waits.
        """
        if await self._evict(f"unloaded to make room {where}", idle=True):
            return True
        in_flight = any(model.in_flight for model in self._loaded.values())
        busy = in_flight or self._loader.loads_under_way or self._unloading
        left = patience - time.monotonic()
        if left > 0 and not busy and time.monotonic() < self._evicted_at + _RETURN_SECONDS:
            await asyncio.sleep(_PATIENCE_SECONDS)
            return True
        if not busy or left <= 0:
            return False
        # Everything is in use: the first to finish makes room.
        if in_flight and time.monotonic() > began + _STARVED_SECONDS:
            await self._evict("unloaded after its requests, as another model got no room")
        else:
            await self._until_change(left)
        return True

    async def _evict(
        self, text: str, *, idle: bool = False, awake: bool = False
    ) -> LoadedModel | None:
        """Unload the least recently used model, of the idle or awake ones; None when there is none.

        A busy one gets no more requests; those that come wait for its next load.
        """
        victims = (
            model
            for model in self._loaded.values()
            if not (idle and model.in_flight) and not (awake and model.is_parked)
        )
        victim = next(victims, None)
        if victim is not None:
            unloading = self._begin_unloading(victim, deletes=False, drains=True)
            # Waited for and not awaited: what goes wrong in it is logged there, and fails no load.
            await asyncio.wait([unloading])
            self._evicted_at = time.monotonic()
            self._event_log.record("eviction", self._label, text, target=victim.target)
            logger.info("[%s] %s: %s", self._label, victim.target, text)
        return victim

    async def _relieve_disk(self) -> None:
        """Delete files, and unload idle models for that, until the disk's budget holds."""
        # What was unloaded meanwhile to make room in memory, and layers that the container fetched.
        await self._disk.free_space(0, self._used_names.__contains__)
        while self._disk.is_over_budget and len(self._loaded) > 1:
            victim = await self._evict(f"unloaded to make room {_ON_DISK}", idle=True)
            if victim is None:
                return
            await self._disk.free_space(0, self._used_names.__contains__)

    def _begin_unloading(
        self, model: LoadedModel, *, deletes: bool, drains: bool = False
    ) -> asyncio.Task[None]:
        """Unload a model; from now on nobody sends it a request, and a new load of it waits."""
        self.forget(model)
        task = asyncio.ensure_future(self._unload(model, deletes=deletes, drains=drains))
        self._unloading[model.stored.name] = task
        task.add_done_callback(lambda done: self._finish_unloading(model.stored.name, done))
        return task

    async def _until_change(self, seconds: float) -> None:
        # Others may wait for the same change and take it, hence not for long.
        self._change.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._change.wait(), min(seconds, _PATIENCE_SECONDS))

    async def _unload(self, model: LoadedModel, *, deletes: bool, drains: bool) -> None:
        stored = model.stored
        while drains and model.in_flight:
            await self._until_change(self._limits.invoke_seconds)
        began = time.perf_counter()
        await self._loader.unload(stored)
        self._metrics.unloading.add((time.perf_counter() - began) * 1e6)
        # A load that came meanwhile waits for the end of this, and wants the files.
        if deletes and stored.name not in self._used_names:
            await self._disk.delete(stored)

    def _finish_unloading(self, name: str, done: asyncio.Task[None]) -> None:
        if self._unloading.get(name) is done:
            del self._unloading[name]
        self._change.set()
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.error("[%s] a model was not unloaded", self._label, exc_info=error)
