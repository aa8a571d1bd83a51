"""The models of one instance: downloaded, unpacked, loaded on first use, evicted in need."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmekit.endpoint.container_client import ContainerSilentError, ContainerTimeoutError
from mmekit.endpoint.errors import model_error, validation_error
from mmekit.endpoint.model_source import ObjectAddress, locate
from mmekit.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit.endpoint.container_client import ContainerClient, ContainerReply
    from mmekit.endpoint.metrics import VariantMetrics
    from mmekit.endpoint.model_source import ReadObject
    from mmekit.endpoint.options import Limits
    from mmekit.endpoint.specification import EndpointId

__all__ = ["LoadedModel", "ModelCache"]

logger = logging.getLogger("mmekit.endpoint")

_LOADED = (200, 409)  # 409: the container has it already
_OUT_OF_MEMORY = 507
_GONE = (200, 404)


@dataclass
class LoadedModel:
    """A model that the container has in memory.

    ``invocation`` is the unchanging beginning of its requests to the container, ``in_flight``
    the number of them that it is answering: only an idle model is evicted.
    """

    target: str
    name: str
    invocation: bytes
    in_flight: int = field(default=0)


class ModelCache:
    """What one instance has on disk and in memory, by target model.

    However many requests wait for a model, it is downloaded once and loaded once; the model of a
    single-model endpoint has the target ``""``. What was unloaded stays on disk, and a key that
    is overwritten in S3 goes on serving the old bytes, as on SageMaker.

    Parameters
    ----------
    endpoint
        Whose models these are, for errors.
    label
        The instance's name in the log.
    data_url
        ModelDataUrl.
    folder
        Where models are unpacked.
    client
        The instance's container.
    read_object
        Reads from S3; it may block and is called in a thread.
    limits
        How long a load may take.
    metrics
        Where times are recorded.
    """

    def __init__(
        self,
        *,
        endpoint: EndpointId,
        label: str,
        data_url: str,
        folder: Path,
        client: ContainerClient,
        read_object: ReadObject,
        limits: Limits,
        metrics: VariantMetrics,
    ) -> None:
        self._endpoint = endpoint
        self._label = label
        self._data_url = data_url
        self._folder = folder
        self._client = client
        self._read_object = read_object
        self._limits = limits
        self._metrics = metrics
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()  # least recently used first
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}

    def __contains__(self, target: str) -> bool:
        """Say whether a model is loaded, or about to be."""
        return target in self._loaded or target in self._loading

    def __len__(self) -> int:
        """Return the number of models in memory."""
        return len(self._loaded)

    def get(self, target: str) -> LoadedModel | None:
        """Return a model that is in memory, which counts as using it."""
        model = self._loaded.get(target)
        if model is not None:
            self._loaded.move_to_end(target)
        return model

    async def ensure(self, target: str, seconds: float) -> LoadedModel:
        """Return a model, loading it first when need be.

        Raises
        ------
        asyncio.TimeoutError
            It is still loading after so many seconds; the load goes on.
        AwsError
            It cannot be downloaded, unpacked or loaded.
        """
        model = self.get(target)
        if model is not None:
            return model
        loading = self._loading.get(target)
        if loading is None:
            loading = asyncio.ensure_future(self._load(target))
            self._loading[target] = loading
            loading.add_done_callback(lambda done: self._finish(target, done))
        return await asyncio.wait_for(asyncio.shield(loading), seconds)

    def forget(self, model: LoadedModel) -> None:
        """Take note that the container no longer has a model."""
        if self._loaded.get(model.target) is model:
            del self._loaded[model.target]

    async def close(self) -> None:
        """Give up the loads under way, and wait until nothing works in the folder any more."""
        loading = list(self._loading.values())
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)

    def _finish(self, target: str, loading: asyncio.Task[LoadedModel]) -> None:
        del self._loading[target]
        # Retrieves the exception as well, which nobody else may do when every caller has left.
        if not loading.cancelled() and (error := loading.exception()) is not None:
            logger.info("[%s] %s: %s", self._label, target or "the model", error)

    async def _load(self, target: str) -> LoadedModel:
        address = self._address(target)
        name = hashlib.sha256(str(address).encode()).hexdigest()[:32]
        place = self._folder / name / "model"
        began = time.perf_counter()
        if not place.is_dir():
            await self._download(address, place)
        downloaded = time.perf_counter()
        await self._load_from(name, str(place))
        loaded = time.perf_counter()
        self._metrics.loading.add((loaded - downloaded) * 1e6)
        model = LoadedModel(target, name, self._client.invocation(name, target))
        self._loaded[target] = model
        self._metrics.loaded_models.add(float(len(self._loaded)))
        logger.info(
            "[%s] %s: fetched in %.0f ms, loaded in %.0f ms",
            self._label,
            target or address,
            (downloaded - began) * 1e3,
            (loaded - downloaded) * 1e3,
        )
        return model

    def _address(self, target: str) -> ObjectAddress:
        try:
            return locate(self._data_url, target)
        except ValueError as error:
            raise validation_error(f"Failed to download model data: {error}.") from error

    async def _download(self, address: ObjectAddress, place: Path) -> None:
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        # One thread call at a time, each shielded: a thread cannot be cancelled, and `close`
        # promises that nothing works in the folder once it is over.
        content = await loop.run_in_executor(None, self._read_object, address.bucket, address.key)
        if content is None:
            raise validation_error(
                f"Failed to download model data(bucket: {address.bucket}, key: {address.key}). "
                "Please ensure that there is an object located at the URL and that the role "
                "passed to CreateModel has permissions to download the model."
            )
        self._metrics.downloading.add((time.perf_counter() - began) * 1e6)
        unpacking = loop.run_in_executor(None, _unpack, content, place)
        try:
            await asyncio.shield(unpacking)
        except asyncio.CancelledError:
            await asyncio.wait([unpacking])
            raise
        except (ArchiveError, OSError) as error:
            reason = error.what if isinstance(error, ArchiveError) else str(error)
            raise validation_error(
                f"Failed to extract model data archive from URL {str(address)!r}. Please ensure "
                f"that the object located at the URL is a valid tar.gz archive. {reason}"
            ) from error

    async def _load_from(self, name: str, folder: str) -> None:
        while True:
            reply = await self._ask_to_load(name, folder)
            if reply.status in _LOADED:
                return
            if reply.status != _OUT_OF_MEMORY or not await self._evict():
                raise model_error(self._endpoint, reply.status, reply.text)

    async def _ask_to_load(self, name: str, folder: str) -> ContainerReply:
        try:
            return await self._client.load(name, folder, self._limits.load_seconds)
        except ContainerTimeoutError as error:
            seconds = self._limits.load_seconds
            reason = f"The model was not loaded within {seconds:.0f} seconds."
            raise model_error(self._endpoint, 0, reason) from error
        except ContainerSilentError as error:
            raise model_error(
                self._endpoint, 0, f"The container gave no answer: {error}"
            ) from error

    async def _evict(self) -> bool:
        """Unload the least recently used model that is idle; False when there is none."""
        victim = next((model for model in self._loaded.values() if not model.in_flight), None)
        if victim is None:
            return False
        # Before asking: from now on nobody may send it a request.
        self.forget(victim)
        began = time.perf_counter()
        try:
            reply = await self._client.unload(victim.name, self._limits.load_seconds)
        except (ContainerSilentError, ContainerTimeoutError) as error:
            raise model_error(
                self._endpoint, 0, f"The container gave no answer: {error}"
            ) from error
        self._metrics.unloading.add((time.perf_counter() - began) * 1e6)
        self._metrics.loaded_models.add(float(len(self._loaded)))
        logger.info("[%s] %s: unloaded to make room", self._label, victim.target)
        return reply.status in _GONE


def _unpack(content: bytes, place: Path) -> None:
    """Unpack an archive; `place` then holds all of it or does not exist."""
    from mmekit.archive import unpack

    place.parent.mkdir(parents=True, exist_ok=True)
    archive = place.parent / "archive.tar.gz"
    try:
        archive.write_bytes(content)
        unpack(archive, place)
    finally:
        archive.unlink(missing_ok=True)
