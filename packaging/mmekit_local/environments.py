"""Python environments that uv makes on first use and keeps in the user's cache folder.

Not ``uv run --with``, which makes such an environment by itself: it resolves the versions anew at
each start, so that two containers of one image may differ; it cannot start without a network once
what it knows of the index is some minutes old; and it removes the environment when it ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from mmekit_local.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["cache_folder", "made_once"]

_logger = logging.getLogger("mmekit.environments")


def cache_folder() -> Path:
    """Return the folder in which environments are kept."""
    return Path(platformdirs.user_cache_dir("mmekit"))


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
