"""The models that a server has loaded, and how one is loaded and unloaded.

Sources: ManagementRequestHandler, ModelManager, ModelInfo and PyModel of DJL Serving 0.36.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement

from mmekit.archive.properties import (
    FILE_NAME,
    Properties,
    find_problems,
    parse_entries,
    properties_of,
)
from mmekit.archive.texts import read_text, see_lines
from mmekit.errors import PropertiesError, TextError
from mmekit.server import refusal
from mmekit.server.concurrency import workers_that_play
from mmekit.server.fork_servers import ForkServers
from mmekit.server.forms import integer
from mmekit.server.launcher import SPARE_DESCRIPTORS, WorkerLauncher
from mmekit.server.limits import MAX_WORKERS, ServerLimits
from mmekit.server.link import NoDescriptors, WorkerFailure
from mmekit.server.memory import DEFAULT_RESERVED_MB, MIB, Memory
from mmekit.server.pool import Pool, PoolSize
from mmekit.server.room import Room
from mmekit.server.worker import InitialisationError, WorkerSpec
from mmekit_runtime.slots import descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator

_logger = logging.getLogger("mmekit.server")

_FILE_SIZE_FACTOR = 1.2
"""What DJL Serving requires for each byte of a model's files when nothing is said."""

_WORKER_LOST = "java.io.IOException: "


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes
    ----------
    admitted_bytes
        For which it was found to fit when it was loaded.
    """

    name: str
    url: str
    properties: Properties
    pool: Pool
    loaded_at: float
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
    """

    def __init__(
        self, engine: Path, sockets: Path, memory: Memory, limits: ServerLimits | None = None
    ) -> None:
        self._engine = engine
        self._sockets = sockets
        self._memory = memory
        self._limits = limits or ServerLimits()
        self._models: dict[str, Model] = {}
        self._loading: dict[str, str] = {}
        self._fork_servers = ForkServers(sockets)
        self._room = Room(memory, self._fork_servers, self._answering)
        self._loads = itertools.count()

    def __iter__(self) -> Iterator[Model]:
        """Yield the loaded models by name."""
        return iter(sorted(self._models.values(), key=lambda model: model.name))

    def __len__(self) -> int:
        """Return the number of loaded models."""
        return len(self._models)

    @property
    def memory(self) -> Memory:
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

    def get(self, name: str) -> Model | None:
        """Return a loaded model, None when there is none of that name."""
        return self._models.get(name)

    async def load(self, name: str, url: str, *, at_start: bool = False) -> Model:
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
            raise refusal.already_loaded(name)
        if len(self._models) + len(self._loading) >= self._limits.models:
            raise refusal.too_many_models(self._limits.models)
        if not descriptors.are_left(SPARE_DESCRIPTORS):
            raise refusal.no_descriptors()
        if "/" in name:
            _logger.warning("model %r cannot be reached: in a path its slash divides", name)
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
        model = self._models.pop(name, None)
        if model is None:
            raise refusal.no_such_model(name)
        await model.pool.close()
        _logger.info("Model %s unregistered.", name)

    async def close(self) -> None:
        """Unload every model."""
        models, self._models = list(self._models.values()), {}
        await asyncio.gather(*(model.pool.close() for model in models))
        await self._room.close()
        await self._fork_servers.close()

    def _answering(self) -> set[int]:
        """Return the ids of all processes that answer."""
        workers = (worker for model in self._models.values() for worker in model.pool.workers)
        return {worker.pid for worker in workers if worker.pid}

    async def _load(self, name: str, url: str, *, at_start: bool) -> Model:
        began = time.monotonic()
        # In a thread: a disk may take its time, and a model may have many files.
        most = self._limits.workers
        folder, properties, required = await asyncio.to_thread(_examined, url, most)
        given = properties.reserved_memory_mb
        reserved = (DEFAULT_RESERVED_MB if given is None else given) * MIB
        async with self._room.admit(required, reserved) as fits:
            if not fits:
                raise refusal.no_room()
            launcher = self._launcher(name, folder, properties)
            most = workers_that_play(self._limits.concurrency, required, slots=launcher.gives_slots)
            size = _pool_size(properties, most)
            pool = Pool(name, size, launcher, properties.handler or "handle")
            try:
                await pool.start()
            except InitialisationError as error:
                if error.answer.status == 507:  # noqa: PLR2004
                    raise refusal.out_of_memory() from error
                message = f"Failed to initialize model: {error}"
                raise refusal.load_failed(message) from error
            except NoDescriptors as error:
                raise refusal.no_descriptors() from error
            except WorkerFailure as error:
                raise refusal.load_failed(str(error).removeprefix(_WORKER_LOST)) from error
        elapsed = (time.monotonic() - began) * 1000
        _logger.info("Model %s loaded in %.0f ms.", name, elapsed)
        return Model(name, url, properties, pool, time.time(), required, at_start)

    def _launcher(self, name: str, folder: Path, properties: Properties) -> WorkerLauncher:
        init_properties = {
            "handler": properties.handler or "handle",
            **properties.init_parameters,
        }
        spec = WorkerSpec(
            model_name=(properties.model_name or name)[:15],
            folder=folder,
            engine=self._engine,
            sockets=self._sockets,
            init_properties=init_properties,
            environment=properties.env,
            python=properties.python_executable or sys.executable,
            entry_point=properties.entry_point or "model.py",
            load_timeout_s=float(properties.model_loading_timeout_s),
            predict_timeout_s=float(properties.predict_timeout_s),
            identity=f"{next(self._loads)} {name}",
        )
        return WorkerLauncher(spec, self._fork_servers)


def _examined(url: str, most_workers: int) -> tuple[Path, Properties, int]:
    """Return a model's folder, its settings and the bytes that it takes; raise what refuses it."""
    folder = _model_folder(url)
    properties = _properties(folder)
    _check(folder, properties, most_workers)
    missing = missing_requirements(folder)
    if missing:
        message = (
            f"requirements.txt asks for what this environment lacks: {', '.join(missing)}; "
            "the embedded server installs nothing: install it here, and build it into the "
            "image that serves the model"
        )
        raise refusal.load_failed(message, "ModelException")
    return folder, properties, _required_bytes(folder, properties)


def _model_folder(url: str) -> Path:
    message = f"Invalid model url: {url}"
    try:
        parts = urlsplit(url)
        folder = Path(unquote(parts.path) if parts.scheme == "file" else url)
        if parts.scheme not in ("", "file") or not folder.is_absolute() or not folder.is_dir():
            raise refusal.Refusal(404, "ModelNotFoundException", message)
        # A folder that holds nothing but a folder is unwrapped, once (Utils.getNestedModelDir).
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        if len(entries) == 1 and entries[0].is_dir():
            folder = entries[0]
        return folder.resolve()
    except (OSError, ValueError) as error:
        # A broken address, a name that is too long, a folder that is not ours.
        message = f"{message}: {error}"
        raise refusal.Refusal(404, "ModelNotFoundException", message) from error


def _properties(folder: Path) -> Properties:
    try:
        # Properties.load(InputStream) reads ISO 8859-1, whatever the editor wrote.
        text = read_text(folder / FILE_NAME).decode("latin-1")
    except FileNotFoundError:
        return Properties()
    except OSError as error:
        raise refusal.load_failed(str(error), "IOException") from error
    except TextError as error:
        raise refusal.load_failed(error.what, "ModelException") from error
    try:
        entries = parse_entries(text)
    except PropertiesError as error:
        raise refusal.misconfigured("Malformed \\uxxxx encoding.") from error
    for problem in find_problems(entries):
        # retry_threshold is read when a worker has failed, and not before.
        if problem.fatal and problem.entry.key != "retry_threshold":
            message = f'For input string: "{problem.entry.value}"'
            raise refusal.misconfigured(message, "NumberFormatException")
    return properties_of(entries)


def _check(folder: Path, properties: Properties, most_workers: int) -> None:
    """Refuse what DJL Serving refuses before it starts a worker."""
    entry_point = properties.entry_point
    has_model = (folder / "model.py").is_file() or entry_point is not None
    engine = properties.engine
    if engine is None and not has_model:
        message = f"Failed to detect engine of the model: {folder}"
        raise refusal.Refusal(404, "ModelNotFoundException", message)
    if engine not in (None, "Python"):
        raise refusal.misconfigured(f"Deep learning engine not found: {engine}")
    if not has_model:
        message = f".py file not found in: {folder}"
        raise refusal.load_failed(message, "FileNotFoundException")
    degree = properties.options.get("tensor_parallel_degree", "0")
    if degree != "max" and not _is_integer(degree):
        message = f'For input string: "{degree}"'
        raise refusal.misconfigured(message, "NumberFormatException")
    devices = properties.load_on_devices or "*"
    if any(one.startswith("gpu") or one.isdigit() for one in devices.split(";")):
        raise refusal.load_failed("No GPU device detected.", "IllegalStateException")
    if properties.job_queue_size < 1:
        raise refusal.misconfigured(f"job_queue_size is {properties.job_queue_size}")
    minimum, maximum = properties.min_workers or 0, properties.max_workers or 0
    if minimum < 0:
        raise refusal.load_failed(f"minWorkers is {minimum}", "IndexOutOfBoundsException")
    if max(minimum, maximum) > most_workers:
        message = (
            f"{max(minimum, maximum)} workers are more than the {most_workers} of a model "
            f"({MAX_WORKERS})"
        )
        raise refusal.load_failed(message, "ModelException")


def _is_integer(text: str) -> bool:
    try:
        integer(text)
    except ValueError:
        return False
    return True


def missing_requirements(folder: Path) -> list[str]:
    """Return the lines of a model's requirements.txt that this environment does not satisfy.

    DJL Serving runs pip at every load of such a model (PyEnv.installDependency). Options and URLs
    cannot be checked and are taken as satisfied.
    """
    file = folder / "requirements.txt"
    if not file.is_file():
        return []
    missing = []
    try:
        natural = read_text(file).decode(errors="replace").splitlines()
        stripped = (line.split(" #")[0].strip() for line in natural)
        lines = [line for line in stripped if line and not line.startswith(("#", "-"))]
        see_lines(file.name, len(lines), str(folder))
    except TextError as error:
        raise refusal.load_failed(error.what, "ModelException") from error
    for text in lines:
        try:
            requirement = Requirement(text)
        except (InvalidRequirement, RecursionError):
            continue
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(text)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            missing.append(f"{text} (here is {version})")
    return missing


def _required_bytes(folder: Path, properties: Properties) -> int:
    required = properties.required_memory_mb
    if required is not None and required > 0:
        return required * MIB
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return int(size * _FILE_SIZE_FACTOR)


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
