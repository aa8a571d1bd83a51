"""What a model's folder says, and what of it stands in the way of a load.

Sources: ModelInfo, PyModel and ManagementRequestHandler of DJL Serving 0.36.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mmekit.archive.contents import model_folder, read_contents
from mmekit.archive.conventions import ENTRY_POINT, HANDLERS, convention_of
from mmekit.archive.files import read_text
from mmekit.archive.properties import (
    FILE_NAME,
    Properties,
    find_problems,
    parse_entries,
    properties_of,
)
from mmekit.archive.runtime import HOOK_FILE
from mmekit.errors import PackageError, PropertiesError, TextError
from mmekit_local.server import errors
from mmekit_local.server.environment_spec import EnvironmentSpec, environment_for
from mmekit_local.server.forms import integer
from mmekit_local.server.limits import MAX_WORKERS
from mmekit_local.server.memory import MIB
from mmekit_local.server.requirements import missing_requirements
from mmekit_runtime.layers.listing import FOLDER as LAYERS_FOLDER
from mmekit_runtime.layers.listing import LayerError, read_layers
from mmekit_runtime.model_files import RAW, RECOMMENDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit_runtime.layers.listing import LayerEntry

_HANDLE = re.compile(rb"^(?:def +handle *\(|handle *=)", re.MULTILINE)
_FILE_SIZE_FACTOR = 1.2
"""What DJL Serving requires for each byte of a model's files when nothing is said."""


@dataclass(frozen=True)
class ModelLoadPlan:
    """What a model's folder says.

    Attributes
    ----------
    required
        The bytes that it takes.
    python
        What runs it, where it needs no environment of its own.
    environment
        How that is made, None where it needs none.
    entry_point
        What the engine runs.
    init_parameters
        What the handler finds in its first request besides the properties.
    layers
        Which the model names.
    """

    folder: Path
    properties: Properties
    required: int
    python: str
    environment: EnvironmentSpec | None
    entry_point: str
    init_parameters: Mapping[str, str]
    layers: tuple[LayerEntry, ...]


def plan_load(url: str, most_workers: int, *, installs: bool) -> ModelLoadPlan:
    """Return what a model's folder says; raise what refuses it."""
    folder = _model_folder(url)
    properties = _properties(folder)
    handler = _handler_of_djl(folder, properties)
    _check(folder, properties, most_workers, has_handler=handler is not None)
    named = _named_python(properties)
    layers = _layers(folder)
    environment = None
    if installs:
        environment = environment_for(folder, named, layers)
    elif missing := missing_requirements(folder):
        message = (
            f"requirements.txt asks for what this environment lacks: {', '.join(missing)}; "
            "with --no-install the embedded server installs nothing: install it here, and build "
            "it into the image that serves the model"
        )
        raise errors.load_failed(message, "ModelException")
    required = _required_bytes(folder, properties, layers)
    entry_point = properties.entry_point or "model.py"
    init_parameters = {}
    if handler is not None:
        entry_point, init_parameters = ENTRY_POINT, {"convention": handler, RAW: "true"}
    return ModelLoadPlan(
        folder=folder,
        properties=properties,
        required=required,
        python=named or sys.executable,
        environment=environment,
        entry_point=entry_point,
        init_parameters=init_parameters,
        layers=layers,
    )


def _handler_of_djl(folder: Path, properties: Properties) -> str | None:
    """Return the handler of DJL 0.36 that serves a model without one of its own, None for others.

    Named as its entry point, or taken by DJL for a model.joblib and its like (PyModel.load); the
    engine of 0.34 has none of them.
    """
    entry = properties.entry_point
    taken = entry is None and any((folder / name).is_file() for name in RECOMMENDING)
    if entry not in HANDLERS and not taken:
        return None
    try:
        if taken and _HANDLE.search(read_text(folder / "model.py")):
            return None  # most have one, and need not be taken apart for it
    except FileNotFoundError:
        pass
    except (OSError, TextError) as error:
        raise errors.load_failed(str(error).splitlines()[0], "ModelException") from error
    try:
        found = convention_of(read_contents(folder), properties)
    except (PackageError, OSError) as error:  # a TextError is one
        raise errors.load_failed(str(error).splitlines()[0], "ModelException") from error
    return found.made_for if found is not None and found.is_of_handler else None


def _named_python(properties: Properties) -> str | None:
    """Return the interpreter that a model names, None for the server's own.

    A name without a folder is looked for as in an image, where python3 is the one that has the
    libraries: beside the server's own first.
    """
    named = properties.python_executable
    if not named or os.sep in named:
        return named or None
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join([own, os.environ.get("PATH", os.defpath)])
    found = shutil.which(named, path=path)
    if found is None:
        return named
    return None if Path(found).parent == Path(own) else found


def _model_folder(url: str) -> Path:
    message = f"Invalid model url: {url}"
    try:
        parts = urlsplit(url)
        folder = Path(unquote(parts.path) if parts.scheme == "file" else url)
        if parts.scheme not in ("", "file") or not folder.is_absolute() or not folder.is_dir():
            raise errors.ApiError(404, "ModelNotFoundException", message)
        return model_folder(folder).resolve()
    except (OSError, ValueError) as error:
        # A broken address, a name that is too long, a folder that is not ours.
        message = f"{message}: {error}"
        raise errors.ApiError(404, "ModelNotFoundException", message) from error


def _properties(folder: Path) -> Properties:
    try:
        # Properties.load(InputStream) reads ISO 8859-1, whatever the editor wrote.
        text = read_text(folder / FILE_NAME).decode("latin-1")
    except FileNotFoundError:
        return Properties()
    except OSError as error:
        raise errors.load_failed(str(error), "IOException") from error
    except TextError as error:
        raise errors.load_failed(error.what, "ModelException") from error
    try:
        entries = parse_entries(text)
    except PropertiesError as error:
        raise errors.misconfigured("Malformed \\uxxxx encoding.") from error
    for problem in find_problems(entries):
        # retry_threshold is read when a worker has failed, and not before.
        if problem.fatal and problem.entry.key != "retry_threshold":
            message = f'For input string: "{problem.entry.value}"'
            raise errors.misconfigured(message, "NumberFormatException")
    return properties_of(entries)


def _check(folder: Path, properties: Properties, most_workers: int, *, has_handler: bool) -> None:
    """Refuse what DJL Serving refuses before it starts a worker."""
    entry_point = properties.entry_point
    has_model = (folder / "model.py").is_file() or entry_point is not None or has_handler
    if entry_point is not None and entry_point.lower().startswith("http"):
        message = "option.entryPoint is an address, and nothing is downloaded from it here: put "
        raise errors.load_failed(f"{message}the file into the archive", "ModelException")
    engine = properties.engine
    if engine is None and not has_model:
        message = f"Failed to detect engine of the model: {folder}"
        raise errors.ApiError(404, "ModelNotFoundException", message)
    # Case counts in DJL Serving, too. SageMaker takes its 409 for "already loaded".
    if engine not in (None, "Python"):
        raise errors.misconfigured(f"Deep learning engine not found: {engine}")
    if not has_model:
        message = f".py file not found in: {folder}"
        raise errors.load_failed(message, "FileNotFoundException")
    degree = properties.options.get("tensor_parallel_degree", "0")
    if degree != "max" and not _is_integer(degree):
        message = f'For input string: "{degree}"'
        raise errors.misconfigured(message, "NumberFormatException")
    devices = properties.load_on_devices or "*"
    if any(one.startswith("gpu") or one.isdigit() for one in devices.split(";")):
        raise errors.load_failed("No GPU device detected.", "IllegalStateException")
    if properties.job_queue_size < 1:
        raise errors.misconfigured(f"job_queue_size is {properties.job_queue_size}")
    minimum, maximum = properties.min_workers or 0, properties.max_workers or 0
    if minimum < 0:
        raise errors.load_failed(f"minWorkers is {minimum}", "IndexOutOfBoundsException")
    if max(minimum, maximum) > most_workers:
        message = (
            f"{max(minimum, maximum)} workers are more than the {most_workers} of a model "
            f"({MAX_WORKERS})"
        )
        raise errors.load_failed(message, "ModelException")


def _is_integer(text: str) -> bool:
    try:
        integer(text)
    except ValueError:
        return False
    return True


def _layers(folder: Path) -> tuple[LayerEntry, ...]:
    if not (folder / HOOK_FILE).is_file():
        return ()  # not of our packing: the file may be a model's own
    try:
        return read_layers(str(folder))
    except LayerError as error:
        raise errors.load_failed(str(error), "ModelException") from error


def _required_bytes(folder: Path, properties: Properties, layers: tuple[LayerEntry, ...]) -> int:
    """Return what a model takes by itself: its layers are there for others as well."""
    required = properties.required_memory_mb
    # 0 is DJL Serving's default: nothing was said.
    if required is not None and required > 0:
        return required * MIB
    apart = {folder / LAYERS_FOLDER / layer.sha256 for layer in layers}
    own = (path for path in folder.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in own if apart.isdisjoint(path.parents))
    return int(size * _FILE_SIZE_FACTOR)
