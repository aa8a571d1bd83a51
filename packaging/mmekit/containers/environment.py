"""Python environments that are made on first use and kept."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from mmekit.errors import ServerError
from mmekit.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Requirements", "python_of"]

_logger = logging.getLogger("mmekit.containers")


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
        text = "\n".join([version, sys.platform, *sorted(self.lines)])
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
    cache = Path(platformdirs.user_cache_dir("mmekit"))
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
        with _locked(cache / f"{requirements.key}.lock", folder):
            if not python.exists():
                _make(requirements, folder, instead)
    except (OSError, subprocess.CalledProcessError) as error:
        what = "the environment of the server could not be made"
        if isinstance(error, OSError):
            what += f": {error.strerror or error}"
        raise ServerError(what, where=str(folder), remedy=remedy) from error
    return python


@contextmanager
def _locked(file: Path, folder: Path) -> Iterator[None]:
    """Hold a lock that ends with this process; the file is empty and stays."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.info("another process is making %s; waiting for it", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(requirements: Requirements, folder: Path, instead: str) -> None:
    uv = _uv()
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
        shutil.rmtree(folder, ignore_errors=True)  # one whose Python has been uninstalled
        made.rename(folder)
    _logger.info("made %s in %.0f s", folder, time.monotonic() - began)


def _run(command: Sequence[str]) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    # Nobody types here, and what uv says is for the log.
    subprocess.run(command, check=True, env=variables, stdin=subprocess.DEVNULL)


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if uv is None:
        what = "uv, which makes the server's environment, is not installed"
        raise ServerError(what, where=sys.executable, remedy="pip install uv")
    return uv
