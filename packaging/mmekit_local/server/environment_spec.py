"""Which environment a model needs whose requirements.txt differs from the server's own.

In the container pip installs into what the image has. So an environment holds that first, as far as
models of this kind may want it, in the image's versions where they matter; then pip's work is done
on top. What the server's own environment has in the right version is linked, not fetched again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from mmekit.archive.files import SOURCE_BYTES
from mmekit.archive.manifest import Manifest, read_manifest
from mmekit.archive.package import RUNTIME_FOLDER
from mmekit.archive.pickles import PICKLE_SUFFIXES
from mmekit.archive.requirements import dependencies_of
from mmekit.archive.stock_images import STOCK_IMAGE, Image, find_image
from mmekit.errors import ManifestError, MissingExtraError, TextError
from mmekit.uv import find_uv, uv_variables
from mmekit_local.environments import cache_folder
from mmekit_local.server.requirements import (
    LINKS_FOLDER,
    Installed,
    Requirements,
    lacking,
    read_requirements,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mmekit_runtime.layers.listing import LayerEntry

_logger = logging.getLogger("mmekit.server")

_RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
_FORMAT = 1  # another one where environments are made otherwise
_LIGHT = (
    *("numpy", "scikit-learn", "joblib", "skops", "cloudpickle"),
    *("pillow", "requests", "pyyaml", "pydantic", "setuptools", "packaging"),
)
"""Of the stock image: in every environment."""

HEAVY: Mapping[str, re.Pattern[bytes]] = {
    "torch": re.compile(rb"^\s*(?:import|from)\s+torch\b", re.MULTILINE),
    "torchvision": re.compile(rb"^\s*(?:import|from)\s+torchvision\b", re.MULTILINE),
    "xgboost": re.compile(
        rb"^\s*(?:import|from)\s+xgboost\b|XgboostHandler|xgboost_handler", re.MULTILINE
    ),
}
"""Of the stock image: linked where they are here, fetched for models whose sources name them."""

_TIED = frozenset({"scikit-learn", "torch", "torchvision", "xgboost"})
"""A pickle is tied to their versions."""

_SOURCES = (".py", ".properties")
_HEAD_BYTES = 1 << 20
_ASKING_S = 60.0
_ASK = (
    "import importlib.metadata as m, json, site, sys, sysconfig;"
    "print(json.dumps({'version': '%d.%d' % sys.version_info[:2],"
    "'full': '%d.%d.%d' % sys.version_info[:3],"
    "'paths': [p for p in dict.fromkeys([sysconfig.get_path('purelib'),"
    "sysconfig.get_path('platlib'), *site.getsitepackages()])],"
    "'versions': {d.metadata['Name']: d.version for d in m.distributions()"
    " if d.metadata['Name']}}))"
)


@dataclass(frozen=True)
class EnvironmentSpec:
    """How an environment is made.

    Attributes
    ----------
    python
        The interpreter that it is for.
    version
        Its version, as ``major.minor``.
    below
        Folders of libraries that are found after the environment's own: those of an interpreter
        that ``option.pythonExecutable`` names.
    linked
        Distributions of the server's own environment, with their versions.
    spare
        Large ones, which are linked if requirements.txt turns out to need one of them.
    base
        What the image has, as lines for uv.
    wanted
        What requirements.txt asks for.
    links
        The folder with wheels beside it, None without one; `links_digest` is of what is in it.
    """

    python: str
    version: str
    wanted: Requirements
    below: tuple[str, ...] = ()
    linked: tuple[tuple[str, str], ...] = ()
    spare: tuple[tuple[str, str], ...] = ()
    base: tuple[str, ...] = ()
    links: str | None = None
    links_digest: str = ""

    @property
    def key(self) -> str:
        """What tells this environment from others, for use in a file's name."""
        # Where the wheels lie differs with each load: `links_digest` says which they are.
        counted = replace(self, links=None, wanted=_in_order(self.wanted))
        content = {**asdict(counted), "format": _FORMAT, "platform": sys.platform}
        text = json.dumps(content, sort_keys=True)
        return f"model-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def to_json(self) -> bytes:
        """Return a text that `from_json` reads."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> EnvironmentSpec:
        """Read what `to_json` wrote."""
        content: dict[str, Any] = json.loads(text)
        wanted = {name: tuple(lines) for name, lines in content["wanted"].items()}
        for name in ("below", "base"):
            content[name] = tuple(content[name])
        for name in ("linked", "spare"):
            content[name] = tuple((one, version) for one, version in content[name])
        return cls(**{**content, "wanted": Requirements(**wanted)})

    @property
    def environment(self) -> Path:
        """The folder of the environment, or where it will be."""
        return cache_folder() / self.key

    @property
    def interpreter(self) -> Path:
        """The Python of the environment."""
        return self.environment / "bin" / "python"


@dataclass(frozen=True)
class Interpreter:
    """A Python that ``option.pythonExecutable`` names."""

    path: str
    version: str
    installed: Installed
    paths: tuple[str, ...] = field(default=())


def environment_for(
    folder: Path, named: str | None, layers: Iterable[LayerEntry] = ()
) -> EnvironmentSpec | None:
    """Return how the environment of a model is made; None when it needs none of its own.

    Parameters
    ----------
    folder
        The model's.
    named
        The interpreter of ``option.pythonExecutable``, None for the server's own.
    layers
        The model's: compiled libraries among them are for one Python.

    Raises
    ------
    Refusal
        requirements.txt cannot be followed.
    """
    wanted = read_requirements(folder)
    compiled = next((layer.python for layer in layers if layer.python is not None), None)
    on_another = named is None and compiled not in (None, _RUNNING)
    if not wanted.lines and not on_another:
        return None
    links = folder / LINKS_FOLDER
    found = links if links.is_dir() else None
    digest = "" if found is None else _digest(found)
    where = None if found is None else str(found)
    if named is not None:
        other = _interpreter(named)
        if other is None or not lacking(wanted, other.installed):
            return None  # the start of a worker says what is wrong with one that does not run
        return EnvironmentSpec(
            other.path, other.version, wanted, other.paths, links=where, links_digest=digest
        )
    if not lacking(wanted, Installed()) and not on_another:
        return None
    manifest = _manifest(folder)
    image = find_image(manifest.image or "") if manifest is not None else None
    image = image or STOCK_IMAGE
    python, version = _python_of(compiled or image.python, image.name)
    seen = {} if manifest is None else _seen(manifest)
    heavy = [name for name in HEAVY if name in seen or _names(folder, name)]
    linked, spare = {}, {}
    if python == sys.executable:
        linked = _linked((*_LIGHT, *heavy), image, wanted)
        spare = _linked(HEAVY, image, wanted)
    return EnvironmentSpec(
        *(python, version, wanted),
        linked=tuple(sorted(linked.items())),
        spare=tuple(sorted(set(spare.items()) - set(linked.items()))),
        base=_base((*_LIGHT, *heavy), seen, image, wanted, linked),
        links=where,
        links_digest=digest,
    )


def _in_order(wanted: Requirements) -> Requirements:
    lines, constraints = sorted(set(wanted.lines)), sorted(set(wanted.constraints))
    return Requirements(tuple(lines), tuple(constraints), wanted.options)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.name.encode("utf-8", "surrogateescape") + b"\0")
            with path.open("rb") as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()


def _manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except (ManifestError, TextError, OSError):
        return None


def _interpreter(named: str) -> Interpreter | None:
    path = shutil.which(named)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, "-c", _ASK],
            # With -c, Python looks for modules in the working folder first.
            cwd="/",
            env=uv_variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_ASKING_S,
        )
        said = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    versions = {str(canonicalize_name(name)): str(one) for name, one in said["versions"].items()}
    markers = {"python_version": said["version"], "python_full_version": said["full"]}
    installed = Installed(versions, markers)
    return Interpreter(path, said["version"], installed, tuple(said["paths"]))


@cache  # looked for, and said, once
def _python_of(version: str, image: str) -> tuple[str, str]:
    """Return the interpreter for an image's environments, and its version."""
    if version == _RUNNING:
        return sys.executable, _RUNNING
    found = _find_python(version)
    if found is not None:
        return found, version
    _logger.warning(
        "there is no Python %s here, which %s has: models with libraries of their own run on "
        "Python %s. `uv python install %s` brings it",
        *(version, image, _RUNNING, version),
    )
    return sys.executable, _RUNNING


def _find_python(version: str) -> str | None:
    try:
        done = subprocess.run(
            # An environment that happens to be active is somebody else's, and may go.
            [*(find_uv(), "python", "find", "--system", "--no-python-downloads"), version],
            cwd="/",
            env=uv_variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_ASKING_S,
        )
    except (OSError, subprocess.SubprocessError, MissingExtraError):
        return None
    return done.stdout.strip() or None


@cache  # what is here is not looked for at every load; `environments` looks again
def _here(name: str) -> str | None:
    """Return the version of a distribution of this environment."""
    return Installed().version(name)


def _linked(names: Iterable[str], image: Image, wanted: Requirements) -> dict[str, str]:
    """Return what of the image this environment has, with what that needs."""
    found: dict[str, str] = {}
    for name in names:
        version = _here(name)
        if version is None or not image.has(name):
            continue
        # Builds of torch for CPUs have a local version behind the public one: 2.7.1+cpu.
        if name in _TIED and Version(version).public != image.version(name):
            continue
        found |= _with_needs(name, wanted)
    return found


def _with_needs(name: str, wanted: Requirements) -> dict[str, str]:
    """Return a distribution and all that it needs, less what is not wanted in that version."""
    found: dict[str, str] = {}
    waiting: list[str] = [canonicalize_name(name)]
    while waiting:
        one = waiting.pop()
        version = _here(one)
        if one in found or version is None or wanted.excludes(one, version):
            continue
        found[one] = version
        waiting += dependencies_of(one)
    return found


def _seen(manifest: Manifest) -> dict[str, str]:
    """Return what the model's code and its pickles were seen to ask for, with the versions."""
    libraries = manifest.measured.libraries
    return {name: libraries.get(name, "") for name in manifest.measured.required}


def _base(
    names: Iterable[str],
    seen: Mapping[str, str],
    image: Image,
    wanted: Requirements,
    linked: Mapping[str, str],
) -> tuple[str, ...]:
    """Return what is to be fetched of what the image has, as lines for uv.

    What requirements.txt names in another version than the image's comes with the rest.
    """
    asked = {canonicalize_name(one.name) for one in wanted.requirements if one is not None}
    lines = []
    for name in names:
        if name in linked or not (image.has(name) or name == "numpy"):  # the runtime needs it
            continue
        version = image.version(name) if name in _TIED else None
        if name not in asked:
            lines.append(name if version is None else f"{name}=={version}")
        elif version is not None and not wanted.excludes(name, version):
            lines.append(f"{name}=={version}")
    # An image of one's own has what packing has left out of requirements.txt.
    lines += [
        f"{name}=={version}"
        for name, version in sorted(seen.items())
        if version and name not in asked and name not in linked and not image.has(name)
    ]
    return tuple(lines)


def _names(folder: Path, name: str) -> bool:
    """Whether the model's sources import a library, or its pickles have objects of it."""
    for path in _files(folder):
        if path.suffix in _SOURCES and HEAVY[name].search(_head(path, SOURCE_BYTES)):
            return True
        if path.suffix in PICKLE_SUFFIXES and name.encode() in _head(path, _HEAD_BYTES):
            return True
    return False


def _files(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*"):
        if RUNTIME_FOLDER not in path.relative_to(folder).parts and path.is_file():
            yield path


def _head(path: Path, size: int) -> bytes:
    with suppress(OSError), path.open("rb") as stream:
        return stream.read(size)
    return b""
