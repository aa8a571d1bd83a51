"""Python environments that are made on first use and kept."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.errors import ServerError
from mmekit_local.environments import cache_folder, find_uv, locked, uv_variables
from mmekit_local.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Requirements", "python_of"]

_logger = logging.getLogger("mmekit.containers")

_FORMAT = "2"  # another one where environments are made otherwise: with pip, since 2


@dataclass(frozen=True)
class Requirements:
    """What an environment shall hold.

    Attributes
    ----------
    name
        How its folder's name begins.
    lines
        As in a requirements.txt.
    python
        The version of Python, such as ``3.11``; None takes the one that runs this.
    """

    name: str
    lines: tuple[str, ...]
    python: str | None = None

    @property
    def key(self) -> str:
        """What tells this environment from others, for use in a file's name."""
        version = self.python or ".".join(map(str, sys.version_info[:2]))
        text = "\n".join([_FORMAT, version, sys.platform, *sorted(self.lines)])
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def python_of(requirements: Requirements, *, instead: str) -> Path:
    """Return the Python of an environment, which is made when it is not there yet.

    It is made under another name and renamed when it is complete; who asks meanwhile waits, and
    what an interrupted one leaves is removed by the next. ``uv`` says how far it is.

    Parameters
    ----------
    requirements
        What it shall hold.
    instead
        The variable that can name a Python to use instead, for the remedy of errors.

    Raises
    ------
    ServerError
        It cannot be made: there is no uv, no such Python, no network or no room.
    """
    cache = cache_folder()
    folder = cache / requirements.key
    python = folder / "bin" / "python"
    if python.exists():
        return python
    remedy = (
        f"connect to the network, make room and try again, or name in {instead} a Python that has "
        + ", ".join(requirements.lines)
    )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f"{requirements.key}.lock", folder):
            if not python.exists():
                _make(requirements, folder, instead)
    except (OSError, subprocess.CalledProcessError) as error:
        what = "the environment of the server could not be made"
        if isinstance(error, OSError):
            what += f": {error.strerror or error}"
        raise ServerError(what, where=str(folder), remedy=remedy) from error
    return python


def _make(requirements: Requirements, folder: Path, instead: str) -> None:
    uv = find_uv()
    began = time.monotonic()
    _logger.info("making %s with %s: once", folder, ", ".join(requirements.lines))
    with scratch_folder(f".{requirements.name}-", folder.parent) as scratch:
        made = scratch / "made"
        wanted = requirements.python or sys.executable
        # Relocatable: the scripts in bin/ name no folder, so that it can be renamed.
        try:
            _run([uv, "venv", "--quiet", "--relocatable", "--python", wanted, str(made)])
        except subprocess.CalledProcessError as error:
            if requirements.python is None:
                raise
            what = f"there is no Python {wanted} on this machine, and uv could not bring one"
            remedy = (
                f"install Python {wanted}, or connect to the network for uv to download it, "
                f"or name in {instead} a Python that has {', '.join(requirements.lines)}"
            )
            raise ServerError(what, where=str(folder), remedy=remedy) from error
        python = str(made / "bin" / "python")
        # Compiled, as pip does it when it makes an image.
        compiled = [uv, "pip", "install", "--compile-bytecode", "--python", python]
        _run([*compiled, *requirements.lines])
        _bring_pip(uv, python)
        shutil.rmtree(folder, ignore_errors=True)  # one whose Python has been uninstalled
        made.rename(folder)
    _logger.info("made %s in %.0f s", folder, time.monotonic() - began)


def _bring_pip(uv: str, python: str) -> None:
    """Install pip, which every image has: servers and handlers run it.

    The one that came with Python needs no network; some distributions of Python have none.
    """
    install = [uv, "pip", "install", "--quiet", "--python", python]
    where = "import ensurepip, pathlib; print(pathlib.Path(ensurepip.__file__).parent / '_bundled')"
    asked = [python, "-c", where]
    found = subprocess.run(asked, env=uv_variables(), capture_output=True, text=True, check=False)
    with contextlib.suppress(subprocess.CalledProcessError):
        if found.returncode == 0:
            _run([*install, "--no-index", "--find-links", found.stdout.strip(), "pip"])
            return
    _run([*install, "pip"])


def _run(command: Sequence[str]) -> None:
    # Nobody types here, and what uv says is for the log.
    subprocess.run(command, check=True, env=uv_variables(), stdin=subprocess.DEVNULL)
