"""The models that a server has loaded, and how one is loaded and unloaded.

Sources: ManagementRequestHandler, ModelManager, ModelInfo and PyModel of DJL Serving 0.36.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

import mmekit_runtime
from mmekit.archive.package import RUNTIME_FOLDER
from mmekit_local.server import errors
from mmekit_local.server.environments import Environments
from mmekit_local.server.fork_servers import ForkServers
from mmekit_local.server.limits import ServerLimits
from mmekit_local.server.load_plan import plan_load
from mmekit_local.server.memory import DEFAULT_RESERVED_MB, MIB, MemoryAdmission, ServerMemory
from mmekit_local.server.model_layers import provided
from mmekit_local.server.pool import PoolSize, WorkerPool
from mmekit_local.server.slots import SPARE_DESCRIPTORS, WorkerLauncher
from mmekit_local.server.worker import InitialisationError, WorkerSpec
from mmekit_local.server.worker_connection import NoDescriptors, WorkerFailure
from mmekit_runtime.slots import descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.properties import Properties
    from mmekit_local.server.load_plan import ModelLoadPlan
    from mmekit_runtime.layers import ProvidedLayers

_logger = logging.getLogger("mmekit.server")

_INTERPRETER_BYTES = 64 * MIB
_WORKER_LOST = "java.io.IOException: "


@dataclass(frozen=True)
class ServedModel:
    """A loaded model.

    Attributes
    ----------
    admitted_bytes
        For which it was found to fit when it was loaded.
    """

    name: str
    url: str
    properties: Properties
    pool: WorkerPool
    admitted_bytes: int
    at_start: bool = False

    @property
    def status(self) -> str:
        """``READY`` or ``FAILED``, as GET /models lists it."""
        return "FAILED" if self.pool.failed else "READY"


class Registry:
    """The models of one server.

    Parameters
    ----------
    engine
        The folder of DJL's Python engine.
    sockets
        A folder with a short name for the workers' sockets.
    memory
        Decides whether one more model fits.
    limits
        How many models, and workers of each, there may be; None takes the defaults.
    installs
        Whether a model whose requirements.txt asks for more than is here gets an environment of
        its own; otherwise it is refused.
    """

    def __init__(
        self,
        engine: Path,
        sockets: Path,
        memory: ServerMemory,
        limits: ServerLimits | None = None,
        *,
        installs: bool = True,
    ) -> None:
        self._engine = engine
        self._sockets = sockets
        self._memory = memory
        self._limits = limits or ServerLimits()
        self._models: dict[str, ServedModel] = {}
        self._loading: dict[str, str] = {}
        self._installs = installs
        self._environments = Environments()
        self._fork_servers = ForkServers(sockets)
        self._admission = MemoryAdmission(
            memory, self._fork_servers, self._model_pids, self._is_busy
        )
        self._loads = itertools.count()

    def __iter__(self) -> Iterator[ServedModel]:
        """Yield the loaded models by name."""
        return iter(sorted(self._models.values(), key=lambda model: model.name))

    def __len__(self) -> int:
        """Return the number of loaded models."""
        return len(self._models)

    @property
    def memory(self) -> ServerMemory:
        """What decides whether one more model fits."""
        return self._memory

    @property
    def loading(self) -> dict[str, str]:
        """The names of the models that are being loaded, and their URLs."""
        return dict(sorted(self._loading.items()))

    @property
    def only_model(self) -> str | None:
        """The name of the model that was loaded at start, None when there is none."""
        return next((model.name for model in self._models.values() if model.at_start), None)

    def get(self, name: str) -> ServedModel | None:
        """Return a loaded model, None when there is none of that name."""
        return self._models.get(name)

    async def load(self, name: str, url: str, *, at_start: bool = False) -> ServedModel:
        """Load a model; return it once its minimum of workers is ready.

        Parameters
        ----------
        url
            The folder with the unpacked archive: a path or a file URL.
        at_start
            It is the model of a container that has only one.

        Raises
        ------
        Refusal
            409 when the name is taken or a setting is illegal, 404 when there is no such folder,
            507 when memory does not suffice, 500 when the model cannot be loaded.
        """
        if name in self._models or name in self._loading:
            raise errors.already_loaded(name)
        if len(self._models) + len(self._loading) >= self._limits.models:
            raise errors.too_many_models(self._limits.models)
        if not descriptors.are_left(SPARE_DESCRIPTORS):
            raise errors.no_descriptors()
        if "/" in name:
            _logger.warning("model %r cannot be reached: in a path its slash divides", name)
        # Nothing is awaited between the checks and here: of two loads of a name one is refused.
        self._loading[name] = url
        try:
            model = await self._load(name, url, at_start=at_start)
            self._models[name] = model
        finally:
            del self._loading[name]
        return model

    async def unload(self, name: str) -> None:
        """Unload a model; its memory is free when this returns.

        Raises
        ------
        Refusal
            404 when it is not loaded.
        """
        # First, so that requests from here on get 404 and not a pool that is being closed.
        model = self._models.pop(name, None)
        if model is None:
            raise errors.no_such_model(name)
        await model.pool.close()
        _logger.info("Model %s unregistered.", name)

    async def stop_making_environments(self) -> None:
        """End the environments that are being made, and so the loads that wait for them."""
        await self._environments.close()

    async def close(self) -> None:
        """Unload every model."""
        models, self._models = list(self._models.values()), {}
        await self.stop_making_environments()
        await asyncio.gather(*(model.pool.close() for model in models))
        await self._admission.close()
        # After the models: their slots end by way of them.
        await self._fork_servers.close()

    def note_request(self) -> None:
        """Take note that a model is about to be asked."""
        self._admission.note_request()

    def _is_busy(self) -> bool:
        return any(model.pool.is_busy for model in self._models.values())

    def _model_pids(self) -> set[int]:
        """Return the ids of all processes that answer."""
        workers = (worker for model in self._models.values() for worker in model.pool.workers)
        return {worker.pid for worker in workers if worker.pid}

    async def _load(self, name: str, url: str, *, at_start: bool) -> ServedModel:
        began = time.monotonic()
        # In a thread: a disk may take its time, and a model may have many files.
        most = self._limits.workers
        plan = await asyncio.to_thread(plan_load, url, most, installs=self._installs)
        layers = await provided(plan)
        try:
            pool = await self._start(name, plan, layers)
        except BaseException:
            if layers is not None:
                layers.close()
            raise
        elapsed = (time.monotonic() - began) * 1000
        _logger.info("Model %s loaded in %.0f ms.", name, elapsed)
        return ServedModel(name, url, plan.properties, pool, plan.required, at_start)

    async def _start(
        self, name: str, plan: ModelLoadPlan, layers: ProvidedLayers | None
    ) -> WorkerPool:
        """Return a pool of which the minimum of workers is ready; it lets go of the layers."""
        properties, required = plan.properties, plan.required
        python = plan.python
        if plan.environment is not None:
            python = await self._environments.python_of(plan.environment)
        given = properties.reserved_memory_mb
        reserved = (DEFAULT_RESERVED_MB if given is None else given) * MIB
        async with self._admission.admit(required, reserved) as fits:
            if not fits:
                raise errors.not_enough_memory()
            launcher = self._launcher(name, plan, python, layers)
            most = _workers_that_play(
                self._limits.concurrency, required, slots=launcher.gives_slots
            )
            size = _pool_size(properties, most)
            pool = WorkerPool(name, size, launcher, properties.handler or "handle")
            try:
                await pool.start()
            except InitialisationError as error:
                if error.answer.status == 507:  # noqa: PLR2004
                    raise errors.out_of_memory() from error
                message = f"Failed to initialize model: {error}"
                raise errors.load_failed(message) from error
            except NoDescriptors as error:
                raise errors.no_descriptors() from error
            except WorkerFailure as error:
                raise errors.load_failed(str(error).removeprefix(_WORKER_LOST)) from error
        return pool

    def _launcher(
        self, name: str, plan: ModelLoadPlan, python: str, layers: ProvidedLayers | None
    ) -> WorkerLauncher:
        properties = plan.properties
        init_properties = {
            "handler": properties.handler or "handle",
            **properties.init_parameters,
            **plan.init_parameters,
        }
        spec = WorkerSpec(
            # It stands before each line that the model prints.
            model_name=(properties.model_name or name)[:15],
            folder=plan.folder,
            engine=self._engine,
            sockets=self._sockets,
            init_properties=init_properties,
            environment=properties.env,
            python=python,
            entry_point=plan.entry_point,
            libraries=self._libraries(plan.folder, layers),
            load_timeout_s=float(properties.model_loading_timeout_s),
            predict_timeout_s=float(properties.predict_timeout_s),
            identity=f"{next(self._loads)} {name}",
            log_lines_per_s=self._limits.log_lines_per_s,
            layers=layers,
        )
        return WorkerLauncher(spec, self._fork_servers)

    def _libraries(self, folder: Path, layers: ProvidedLayers | None) -> Path | None:
        """Return where the runtime is for a model that brings none, and nothing else of ours."""
        if (folder / RUNTIME_FOLDER).exists() or (layers and layers.runtime):
            return None
        libraries = self._sockets / "runtime"
        libraries.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (libraries / RUNTIME_FOLDER).symlink_to(Path(mmekit_runtime.__file__).parent)
        return libraries


def _pool_size(properties: Properties, least_maximum: int = 1) -> PoolSize:
    minimum = properties.min_workers if properties.min_workers is not None else 1
    maximum = max(properties.max_workers or _default_max_workers(), least_maximum)
    return PoolSize(
        min_workers=min(minimum, maximum),
        max_workers=maximum,
        queue_size=properties.job_queue_size,
        batch_size=max(1, properties.batch_size),
        max_batch_delay_s=properties.max_batch_delay_ms / 1000,
        max_idle_s=float(properties.max_idle_time_s),
        retry_threshold=properties.retry_threshold or 0,
        keeps_growing=least_maximum > 1,
    )


def _default_max_workers() -> int:
    # ModelInfo.getMaxWorkers: cores / OMP_NUM_THREADS, which bin/serving sets to 1.
    cores = os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return max(1, cores // min(cores, int(threads))) if threads.isdigit() and threads != "0" else 2


def _workers_that_play(concurrency: int, required: int, *, slots: bool) -> int:
    """Return how many workers a model may have, each of which plays a container.

    A worker slot costs next to nothing. A process of the plain engine holds interpreter and model,
    for which on SageMaker each container has memory of its own: here half of what the machine has
    left must do.

    Parameters
    ----------
    concurrency
        How many containers there would be at most.
    required
        Bytes that a model takes.
    slots
        Whether its workers are slots.
    """
    if slots or concurrency == 1:
        return concurrency
    available = psutil.virtual_memory().available // 2
    return min(concurrency, max(1, available // (required + _INTERPRETER_BYTES)))
