"""The program uv, which finds, fetches and installs distributions.

uv because it resolves for another Python and platform than those that run, installs in a second
what is in its cache, makes an environment for another Python, says why a set cannot be had, and
comes from PyPI as a single program.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from mmekit.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ask_uv", "find_uv", "pip_indexes", "run_uv", "shown", "uv_variables"]

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

# A password may have a slash or an @ in it, which no address should; a port is none.
_LOGIN = re.compile(r"(?<=://)[^\s/@]*(?::(?!\d+/)[^\s@]*)?@(?:[^\s/@]*@)*")
# Signed addresses have their secret here, under any name. What stands around them is no part of it.
_QUERY = re.compile(r"(://[^\s?]+\?)\S+?(?=[`'\"\])>,.;:]*(?:\s|\Z))")


def find_uv(extra: str = "local") -> str:
    """Return the program uv.

    Parameters
    ----------
    extra
        The extra of mmekit that is meant to have brought it.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    beside = Path(sys.executable).parent / "uv"
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    with suppress(ImportError, FileNotFoundError):
        if uv is None:
            from uv import find_uv_bin

            uv = str(find_uv_bin())
    if uv is None:
        raise MissingExtraError(
            "uv, which finds and installs distributions, is not installed",
            where=sys.executable,
            remedy=f"pip install 'mmekit[{extra}]'",
            extra=extra,
        )
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
    MissingExtraError
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


def ask_uv(words: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run uv for a layer, and return what it has said, whether it could do it or not.

    Its standard error is for messages, and has no secrets of addresses: uv itself leaves out some
    of them.

    Parameters
    ----------
    words, folder
        As `run_uv` has them.

    Raises
    ------
    MissingExtraError
        There is no uv.
    """
    done = subprocess.run(
        [find_uv("layers"), *words],
        check=False,
        cwd=folder,
        env=uv_variables(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    done.stderr = shown(done.stderr)
    return done


def shown(text: str) -> str:
    """Return a text without the logins and the queries of the addresses in it.

    >>> shown("wanted @ https://me:secret@host:8080/wanted.whl?signature=1f0c")
    'wanted @ https://***@host:8080/wanted.whl?***'
    """
    return _QUERY.sub(r"\1***", _LOGIN.sub("***@", text))
