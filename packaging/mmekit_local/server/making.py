"""Makes the environment of a recipe: a program, so that it can be ended with the server.

``python -m mmekit_local.server.making`` reads a recipe from standard input and prints what it does.
Its last line is the environment's Python, or why there is none.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.errors import MmekitError
from mmekit_local.environments import cache_folder, find_uv, locked, uv_variables
from mmekit_local.scratch import scratch_folder
from mmekit_local.server.environment_spec import HEAVY, EnvironmentSpec
from mmekit_local.server.requirements import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

_logger = logging.getLogger("mmekit.environments")

_UNINDEXED = "DJL_OFFLINE"
"""With ``true`` DJL Serving has pip ask no index, where there are wheels beside the file."""


def make(recipe: EnvironmentSpec) -> Path:
    """Return the Python of an environment, which is made when it is not there yet.

    It is made under another name and renamed when it is complete; who asks meanwhile waits, and
    what an interrupted one leaves is removed by the next.

    Raises
    ------
    ServerError
        There is no uv.
    OSError
        It cannot be stored.
    subprocess.CalledProcessError
        uv could not do it, and has said why.
    """
    cache = cache_folder()
    python, folder = recipe.interpreter, recipe.environment
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"{recipe.key}.lock", folder):
        if not python.exists():
            began = time.monotonic()
            _logger.info("making %s on Python %s: once", folder, recipe.version)
            with scratch_folder(".model-", cache) as scratch:
                made = scratch / "made"
                _fill(recipe, scratch, made)
                shutil.rmtree(folder, ignore_errors=True)  # one whose Python has been uninstalled
                made.rename(folder)
            _logger.info("made %s in %.1f s", folder, time.monotonic() - began)
    return python


def _fill(recipe: EnvironmentSpec, scratch: Path, made: Path) -> None:
    uv = find_uv()
    # Relocatable: the scripts in bin/ name no folder, so that it can be renamed.
    venv = [uv, "venv", "--quiet", "--relocatable", "--no-python-downloads", "--no-project"]
    _run([*venv, "--python", recipe.python, str(made)], scratch)
    site = next(made.glob("lib/python*/site-packages"))
    for name, version in recipe.linked:
        _link(name, version, site)
    if recipe.below:
        lines = [f"import site; site.addsitedir({path!r})" for path in recipe.below]
        (site / "_below.pth").write_text("\n".join([*lines, ""]))
    install = [uv, "pip", "install", "--python", str(made / "bin" / "python")]
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        install.append("--compile-bytecode")  # otherwise by whoever imports it first
    asked = [*install, *_asked(recipe, scratch)]
    _logger.info("what requirements.txt asks for: %s", ", ".join(map(shown, recipe.wanted.lines)))
    if recipe.spare and not _can_spare(asked, scratch):
        for name, version in recipe.spare:
            _link(name, version, site)
    if recipe.base:
        _logger.info("what the image has: %s", ", ".join(recipe.base))
        on_cpus = any(line.startswith("torch") for line in recipe.base)
        _run([*install, *(("--torch-backend", "cpu") if on_cpus else ()), *recipe.base], scratch)
    _run(asked, scratch)


def _asked(recipe: EnvironmentSpec, scratch: Path) -> list[str]:
    """Return what uv is told of a requirements.txt."""
    file = scratch / "requirements.txt"
    file.write_text("\n".join([*recipe.wanted.lines, ""]))
    told = [*recipe.wanted.options, "--requirement", str(file)]
    if recipe.wanted.constraints:
        constraints = scratch / "constraints.txt"
        constraints.write_text("\n".join([*recipe.wanted.constraints, ""]))
        told += ["--constraint", str(constraints)]
    if recipe.links is not None:
        told += ["--find-links", recipe.links]
        if os.environ.get(_UNINDEXED, "").lower() == "true":
            told.append("--no-index")
    return told


def _can_spare(asked: Sequence[str], folder: Path) -> bool:
    """Whether what is asked for brings nothing of the large things that the image has."""
    done = subprocess.run(
        [*asked, "--dry-run"],
        cwd=folder,
        env=uv_variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, flush=True)  # noqa: T201
        done.check_returncode()
    brought = {line.split("==")[0].strip(" +") for line in done.stdout.splitlines()}
    return brought.isdisjoint(HEAVY)


def _link(name: str, version: str, site: Path) -> None:
    """Give an environment a distribution of this one; what is shared takes no room."""
    distribution = importlib.metadata.distribution(name)
    if distribution.version != version:
        return  # it has been replaced meanwhile; uv will fetch it
    for entry in distribution.files or ():
        if ".." in entry.parts:
            continue  # a script of bin/, which names this environment's Python
        source = Path(str(distribution.locate_file(entry)))
        compiled = (
            source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        )
        for one in (source, compiled) if source.suffix == ".py" else (source,):
            target = site / one.relative_to(Path(str(distribution.locate_file(""))))
            if one.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(one, target)
                except OSError:  # on another disk
                    target.symlink_to(one)


def _run(command: Sequence[str], folder: Path) -> None:
    # In a folder of its own, as uv reads the settings of a project in which it is called.
    sys.stdout.flush()
    subprocess.run(
        command,
        check=True,
        cwd=folder,
        env=uv_variables(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )


def main() -> int:
    """Make the environment of a recipe; 1 when it cannot be made."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    recipe = EnvironmentSpec.from_json(sys.stdin.buffer.read())
    try:
        print(make(recipe), flush=True)  # noqa: T201
    except MmekitError as error:
        print(f"error: {error.what}: {error.remedy}", flush=True)  # noqa: T201
        return 1
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or ''}", flush=True)  # noqa: T201
        return 1
    except subprocess.CalledProcessError:
        return 1  # uv has said why
    return 0


if __name__ == "__main__":
    sys.exit(main())
