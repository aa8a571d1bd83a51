"""A model's own copy of a layer, replaced by hard links to the store's, when nobody waits for it.

As a program, ``linking.py STORED OWN``, it does that; it needs nothing but os.
"""

from __future__ import annotations

import contextlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .provided import ProvidedLayers

_LINKED_S = 1
"""The time of change of a folder whose files are links: nothing else is from 1970."""

# Detached: the worker does not wait for it, and it may outlive the worker.
_IN_BACKGROUND = '"$0" "$@" </dev/null >/dev/null 2>&1 &'


def mark_linked(own: str) -> None:
    """Note that a folder's files are links to the store's already."""
    with contextlib.suppress(OSError):
        os.utime(own, (_LINKED_S, _LINKED_S))


def link_later(model_dir: str, provided: ProvidedLayers) -> None:
    """Have the model's copies of its layers replaced, as far as there are any."""
    for stored in (provided.runtime, provided.libraries, provided.body):
        if stored is None:
            continue
        own = os.path.join(model_dir, "layers", os.path.basename(stored))
        if _is_a_copy(stored, own):
            program = [sys.executable, "-S", "-E", os.path.abspath(__file__), stored, own]
            arguments = ["sh", "-c", _IN_BACKGROUND, *program]
            with contextlib.suppress(OSError):
                shell = os.posix_spawn("/bin/sh", arguments, os.environ)
                os.waitpid(shell, 0)


def _is_a_copy(stored: str, own: str) -> bool:
    try:
        status = os.lstat(own)
        on_one_disk = os.lstat(stored).st_dev == status.st_dev
    except OSError:
        return False
    return on_one_disk and status.st_mtime != _LINKED_S and os.access(own, os.W_OK)


def replace(stored: str, own: str) -> None:
    """Give the model's names to the store's files; the bytes of its own are free then."""
    import fcntl

    folder = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    # All workers of a model that start at once want it.
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for parent, folders, files in os.walk(stored):
        folders[:] = [one for one in folders if one != "__pycache__"]
        below = os.path.join(own, os.path.relpath(parent, stored))
        for name in files:
            target = os.path.join(below, name)
            try:
                os.link(os.path.join(parent, name), target + ".mmekit-link")
                os.replace(target + ".mmekit-link", target)
            except FileExistsError:
                os.unlink(target + ".mmekit-link")
            except FileNotFoundError:
                pass
    mark_linked(own)


if __name__ == "__main__":
    os.setsid()
    os.nice(19)
    replace(*sys.argv[1:])
