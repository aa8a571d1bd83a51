"""Python environments that uv makes on first use and keeps in the user's cache folder.

uv because it installs in a second what is in its cache, makes an environment for another Python
than the one that runs, says why a set cannot be had, and comes from PyPI as a single program.

Not ``uv run --with``, which makes such an environment by itself: it resolves the versions anew at
each start, so that two containers of one image may differ; it cannot start without a network once
what it knows of the index is some minutes old; and it removes the environment when it ends.
"""

from __future__ import annotations

import configparser
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from mmekit.errors import ServerError
from mmekit_local.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["cache_folder", "find_uv", "made_once", "pip_indexes", "run_uv", "uv_variables"]

_logger = logging.getLogger("mmekit.environments")

# What the machine's own pip is told, and what uv calls it.
_AS_UV_CALLS_IT = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
}
_OF_UV = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
_LISTS = ("extra-index-url", "find-links", "trusted-host")
# Nobody's identity is lent to code that is built while it is installed, nor to what it is got from.
_KEPT_BACK = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "CONDA_PREFIX", "SSH_AUTH_SOCK")


def cache_folder() -> Path:
    """Return the folder in which environments are kept."""
    return Path(platformdirs.user_cache_dir("mmekit"))


def find_uv() -> str:
    """Return the program uv, which is installed with mmekit.

    Raises
    ------
    ServerError
        Somebody has removed it.
    """
    beside = Path(sys.executable).parent / "uv"
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    with suppress(ImportError, FileNotFoundError):
        if uv is None:
            from uv import find_uv_bin

            uv = str(find_uv_bin())
    if uv is None:
        what = "uv, which makes environments, is not installed"
        raise ServerError(what, where=sys.executable, remedy="pip install 'mmekit[local]'")
    return uv


def uv_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for uv: the machine's own, with what its pip is told.

    Building a distribution runs its code, so that AWS's variables are left out; and git, where it
    is needed, asks nobody and uses nobody's name.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _KEPT_BACK and not name.startswith("AWS_")
    }
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": os.devnull, "NO_COLOR": "1"}
    return {**pip_indexes(environ), **kept, **quiet}


def pip_indexes(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what pip's variables and files say of indexes, as variables of uv.

    Nothing where uv has been told of its own; what is set in its name goes first in any case.
    """
    said = {**_of_files(environ), **_of_variables(environ)}
    if any(environ.get(name) for name in _OF_UV):
        said = {name: value for name, value in said.items() if not name.endswith("index-url")}
    return {
        _AS_UV_CALLS_IT[name]: " ".join(value.split()) if name in _LISTS else value.strip()
        for name, value in said.items()
        if value.strip()
    }


def _of_variables(environ: Mapping[str, str]) -> dict[str, str]:
    named = {name: f"PIP_{name.upper().replace('-', '_')}" for name in _AS_UV_CALLS_IT}
    return {name: environ[one] for name, one in named.items() if environ.get(one)}


def _of_files(environ: Mapping[str, str]) -> dict[str, str]:
    """Read pip.conf where pip does: of the machine, of the user, of this environment."""
    home = Path(environ.get("HOME", "/nonexistent"))
    files = [
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        Path(platformdirs.user_config_dir("pip")) / "pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    if environ.get("PIP_CONFIG_FILE"):
        files.append(Path(environ["PIP_CONFIG_FILE"]))
    parser = configparser.RawConfigParser()
    found: dict[str, str] = {}
    with suppress(configparser.Error, OSError, UnicodeDecodeError):
        parser.read(files, encoding="utf-8")
        for section in ("global", "install"):
            if parser.has_section(section):
                known = (pair for pair in parser.items(section) if pair[0] in _AS_UV_CALLS_IT)
                found.update(known)
    return found


def run_uv(words: Sequence[str], folder: Path | None = None) -> None:
    """Run uv, which says on standard output how far it is.

    Parameters
    ----------
    words
        What it is told.
    folder
        Where it runs; it reads the settings of a project that is there. None is the working folder.

    Raises
    ------
    subprocess.CalledProcessError
        It could not do it, and has said why.
    ServerError
        There is no uv.
    """
    command = [find_uv(), *words]
    sys.stdout.flush()
    # Nobody types here. Both of its outputs are one: a log has them in their order.
    subprocess.run(
        command,
        check=True,
        cwd=folder,
        env=uv_variables(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )


def made_once(key: str, described: str, fill: Callable[[Path, Path], None]) -> Path:
    """Return the Python of an environment, which is made when it is not there yet.

    It is made under another name and renamed when it is complete; who asks meanwhile waits, and
    what an interrupted one leaves is removed by the next.

    Parameters
    ----------
    key
        Tells the environment from others; its folder's name, which begins with its kind and ``-``.
    described
        What the log says of it.
    fill
        Makes it: gets a folder that goes away and, within, the one to make it in. It has to be
        relocatable, so that it can be renamed.

    Raises
    ------
    OSError
        It cannot be stored.
    """
    cache = cache_folder()
    folder = cache / key
    python = folder / "bin" / "python"
    if python.exists():
        return python
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{key}.lock", folder):
        if not python.exists():
            began = time.monotonic()
            _logger.info("making %s %s: once", folder, described)
            with scratch_folder(f".{key.partition('-')[0]}-", cache) as scratch:
                made = scratch / "made"
                fill(scratch, made)
                shutil.rmtree(folder, ignore_errors=True)  # one whose Python has been uninstalled
                made.rename(folder)
            _logger.info("made %s in %.1f s", folder, time.monotonic() - began)
    return python


@contextmanager
def _locked(file: Path, folder: Path) -> Iterator[None]:
    """Hold a lock that ends with this process; the file is empty and stays.

    Parameters
    ----------
    file
        The lock.
    folder
        What is made under it, for the line that says that another process is at it.
    """
    # Never removed: one could hold a file that is gone while another locks its successor.
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
