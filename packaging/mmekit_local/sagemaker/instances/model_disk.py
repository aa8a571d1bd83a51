"""The files of one instance's models: downloaded and unpacked once, deleted when space is short."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import logging
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mmekit.archive import Limits, unpack
from mmekit.errors import ArchiveError, BudgetError
from mmekit_local.sagemaker.errors import validation_error
from mmekit_local.sagemaker.instances.disk_layers import DiskLayers, LayerGoneError
from mmekit_runtime.layers.holding import STORE_FOLDER
from mmekit_runtime.layers.listing import LayerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from mmekit_local.sagemaker.aws_client import ObjectAddress, ReadObject
    from mmekit_local.sagemaker.errors import AwsError
    from mmekit_local.sagemaker.instances.disk_layers import ArchiveLayers
    from mmekit_local.sagemaker.observability.metrics import VariantMetrics

__all__ = ["ModelDisk", "StoredModel", "name_of"]

logger = logging.getLogger("mmekit.endpoint")

_P = ParamSpec("_P")
_T = TypeVar("_T")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHARE_OF_FREE = 0.9
_HARDLY_ANY = 1 << 20
_ATTEMPTS = 5
_NOTHING_LEFT = "Every model that is not in use has been deleted from it."


@dataclass(frozen=True)
class StoredModel:
    """An unpacked archive.

    Attributes
    ----------
    name
        What the container calls the model: made of its address, safe in a path.
    folder
        Where its files are.
    size
        Their bytes.
    layers
        Those that it holds besides: other models may have them, too.
    """

    name: str
    address: ObjectAddress
    folder: Path
    size: int
    layers: tuple[str, ...] = ()


def name_of(address: ObjectAddress) -> str:
    """Return what the container calls the model of an archive."""
    return hashlib.sha256(str(address).encode()).hexdigest()[:32]


class ModelDisk:
    """What an instance has on disk: models, and the layers that some of them have in common.

    A key that is overwritten in S3 goes on serving the bytes that are here, as on SageMaker.

    Parameters
    ----------
    folder
        Where models are unpacked, and layers are kept.
    read_object
        Reads from S3; it may block and is called in a thread.
    budget
        Bytes that they may take; None takes nine tenths of what is free.
    metrics
        Where the time of downloads is recorded.
    layers_apart
        Whether layers are taken out of their archives; otherwise they stay in the models' folders,
        as on SageMaker, and containers take them into the store that they were told.
    """

    def __init__(
        self,
        folder: Path,
        read_object: ReadObject,
        budget: int | None,
        metrics: VariantMetrics,
        *,
        layers_apart: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._budget = budget
        self._layers = DiskLayers(folder / STORE_FOLDER, apart=layers_apart)
        self._own = 0
        self._folder = folder
        self._read_object = read_object
        self._metrics = metrics
        self._stored: OrderedDict[str, StoredModel] = OrderedDict()  # least recently used first
        self._numbers = itertools.count(1)

    @property
    def used(self) -> int:
        """Bytes of all that is here: each model's own, and each layer's once."""
        return self._own + self._layers.used

    @property
    def budget(self) -> int:
        """Bytes that may be here; without a given number it follows what others leave free."""
        if self._budget is not None:
            return self._budget
        return self.used + int(self._free * _SHARE_OF_FREE)

    @property
    def stored(self) -> tuple[StoredModel, ...]:
        """Every model that is here, the least recently used first."""
        return tuple(self._stored.values())

    @property
    def is_over_budget(self) -> bool:
        """Whether there are more than may be here."""
        return self.used > self.budget

    @property
    def is_full(self) -> bool:
        """Whether the machine's disk has hardly any space left."""
        return self._free < _HARDLY_ANY

    async def fetch(
        self,
        address: ObjectAddress,
        is_used: Callable[[str], bool],
        unload: Callable[[], Awaitable[bool]] | None = None,
    ) -> StoredModel:
        """Return a model's files, downloading and unpacking them first when need be.

        Parameters
        ----------
        address
            Where the archive is.
        is_used
            Says whether the model of a name is in use, so that its files must stay; this one is.
        unload
            Unloads a model that nobody asks, whose files then need not stay, or waits a little
            for one; False when there is none.

        Raises
        ------
        AwsError
            There is no such object, it is not a sound archive, or there is no room for it.
        """
        name = name_of(address)
        if (stored := self._stored.get(name)) is not None:
            self._stored.move_to_end(name)
            return stored
        content = await self._download(address)
        await self.free_space(await self._expected(content), is_used)
        # The number, because what was deleted under this name may still be on its way off the disk.
        place = self._folder / f"{name}-{next(self._numbers)}" / "model"
        while True:
            try:
                size, layers = await self._unpack(address, content, place)
                break
            except _DiskFullError as error:
                # What the budget allows is more than what others have left of the disk.
                while not await self.delete_unused(is_used):
                    if unload is None or not await unload():
                        raise _no_space(address, _NOTHING_LEFT) from error
        stored = StoredModel(name, address, place, size, self._layers.hold(layers))
        self._stored[name] = stored
        self._own += size
        await self.free_space(0, is_used)
        return stored

    async def free_space(self, size: int, is_used: Callable[[str], bool]) -> None:
        """Delete what nobody uses, until `size` bytes fit.

        Layers of no model first, then the least recently used models, and the layers of these.
        """
        budget = self.budget
        await self._evict_layers(self.used + size - budget)
        for stored in self.stored:
            if self.used + size <= budget:
                return
            if not is_used(stored.name):
                logger.info("%s: its files are deleted to make room", stored.address)
                await self.delete(stored)
                await self._evict_layers(self.used + size - budget)

    async def delete_unused(self, is_used: Callable[[str], bool]) -> bool:
        """Delete every model that nobody uses; return whether there was one."""
        used = self.used
        # So many bytes fit only where nothing else is left: all that is unused goes.
        await self.free_space(self.budget, is_used)
        return self.used < used

    async def delete(self, stored: StoredModel) -> None:
        """Delete a model's files."""
        if self._stored.get(stored.name) is not stored:
            return
        # Before the thread begins: a fetch meanwhile must not hand out files that are going.
        del self._stored[stored.name]
        self._own -= stored.size
        self._layers.release(stored.layers)
        await _in_thread(_remove, stored.folder.parent)

    def close(self) -> None:
        """Let go of the layers; nothing is unpacked any more."""
        self._layers.close()

    async def _evict_layers(self, size: int) -> None:
        if size > 0:
            await _in_thread(self._layers.evict, size)

    async def _expected(self, content: bytes) -> int:
        """Return what an archive may take: known once it is unpacked, and estimated until then."""
        size = len(content)
        if self.used + size <= self.budget:
            return size  # as it is, and less if need be
        # It may be layers for the most part, which are here.
        with contextlib.suppress(ArchiveError):  # which unpacking says
            here = await _in_thread(self._layers.bytes_here, content, self._folder)
            size = max(size - here, 0)
        return size

    @property
    def _free(self) -> int:
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:  # the instance has ended, and its folder is gone
            return 0

    async def _download(self, address: ObjectAddress) -> bytes:
        began = time.perf_counter()
        content = await _in_thread(self._read_object, address.bucket, address.key)
        if content is None:
            raise validation_error(
                f"Failed to download model data(bucket: {address.bucket}, key: {address.key}). "
                "Please ensure that there is an object located at the URL and that the role "
                "passed to CreateModel has permissions to download the model."
            )
        self._metrics.downloading.add((time.perf_counter() - began) * 1e6)
        return content

    async def _unpack(
        self, address: ObjectAddress, content: bytes, place: Path
    ) -> tuple[int, ArchiveLayers]:
        room = self.used + self._free if self._budget is None else self._budget
        room = min(Limits.total_bytes, room)
        taken = self._layers.of_archive()
        try:
            return await _in_thread(_unpack, content, place, room, taken), taken
        except asyncio.CancelledError:
            taken.close()
            raise
        except (ArchiveError, LayerError, OSError) as error:
            reason = error.what if isinstance(error, ArchiveError) else str(error)
            # Beyond the room that there is, though within what any archive may hold.
            too_large = isinstance(error, BudgetError) and error.limit == "total_bytes"
            if too_large and room < Limits.total_bytes:
                whole = f"It unpacks to more than the {room} bytes that there are for all models."
                raise _no_space(address, whole) from error
            if _is_disk_full(error):
                raise _DiskFullError from error
            raise validation_error(
                f"Failed to extract model data archive from URL {str(address)!r}. Please ensure "
                f"that the object located at the URL is a valid tar.gz archive. {reason}"
            ) from error


def _no_space(address: ObjectAddress, why: str) -> AwsError:
    return validation_error(
        f"Failed to download model data(bucket: {address.bucket}, key: {address.key}). There is no "
        f"space left on the instance's disk. {why}"
    )


class _DiskFullError(Exception):
    """The machine's disk has no space left."""


async def _in_thread(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Run a function in a thread, and outlive a cancellation until it is done.

    A thread cannot be cancelled, and whoever closes an instance relies on nobody working in its
    folder any more.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **options))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # nobody is left to be told
        raise


def _unpack(content: bytes, place: Path, room: int, layers: ArchiveLayers) -> int:
    """Unpack an archive and return its size without its layers, which are held.

    `place` then holds all else of it, or nothing is left.
    """
    for left in reversed(range(_ATTEMPTS)):
        try:
            _unpack_once(content, place, room, layers)
            break
        except LayerGoneError as error:
            if not left:
                raise OSError("one of its layers is deleted again and again") from error
    return sum(path.lstat().st_size for path in place.rglob("*") if path.is_file())


def _unpack_once(content: bytes, place: Path, room: int, layers: ArchiveLayers) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.parent.chmod(0o755)  # as all in it: a container's user may be another than this one
    archive, limits = place.parent / "archive.tar.gz", Limits(total_bytes=room)
    try:
        # From memory: on its way over the disk an archive would be written, and read, once more.
        unpack(archive, place, limits, content=content, apart=layers)
        layers.take_rest(place)
    except BaseException:
        layers.close()
        _remove(place.parent)
        raise


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        # `unpack` raises an ArchiveError, whose cause is the system's own error.
        error = error.__cause__
    return False
