"""Temporary folders that do not outlive their owner for long, not even one that was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ScratchFolder", "is_owned", "scratch_folder", "sweep"]

_MARKER = ".owner"


class ScratchFolder:
    """A new temporary folder, marked by a lock that ends with this process.

    Parameters
    ----------
    prefix
        How its name begins.
    within
        The folder to put it in; None takes the machine's folder for temporary files (TMPDIR).

    Attributes
    ----------
    path : Path
        Where it is. It holds one file, ``.owner``, which is not yours.

    Raises
    ------
    OSError
        It cannot be made: no room, no permission.
    """

    def __init__(self, prefix: str, within: Path | None = None) -> None:
        parent = within or Path(tempfile.gettempdir())
        name = f"{prefix}{uuid.uuid4().hex[:8]}"
        # It gets its name when it is locked: whoever sweeps meanwhile must not take it for a dead
        # one's.
        unnamed = parent / f".{name}"
        unnamed.mkdir(mode=0o700)
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(shutil.rmtree, unnamed, ignore_errors=True)
            self._marker = os.open(unnamed / _MARKER, os.O_RDWR | os.O_CREAT, 0o600)
            cleanup.callback(os.close, self._marker)
            fcntl.flock(self._marker, fcntl.LOCK_EX)
            self.path = unnamed.rename(parent / name)
            cleanup.pop_all()

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._marker)


@contextlib.contextmanager
def scratch_folder(prefix: str, within: Path | None = None) -> Iterator[Path]:
    """Sweep, then make a temporary folder that is removed at the end of the block.

    Examples
    --------
    >>> with scratch_folder("mmekit-example-") as folder:
    ...     folder.is_dir()
    True
    >>> folder.exists()
    False
    """
    sweep(prefix, within)
    folder = ScratchFolder(prefix, within)
    try:
        yield folder.path
    finally:
        folder.remove()


def is_owned(folder: Path) -> bool:
    """Say whether the process that made a scratch folder lives and has not removed it."""
    try:
        marker = os.open(folder / _MARKER, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(marker)
    return False


def sweep(prefix: str, within: Path | None = None) -> list[Path]:
    """Remove the scratch folders of one prefix whose owner has ended without removing them.

    A folder that somebody's living process made, or that was not made here at all, stays.

    Returns
    -------
    list of Path
        What was removed.
    """
    swept = []
    with os.scandir(within or tempfile.gettempdir()) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(prefix)]
    for folder in found:
        try:
            # In /tmp anybody may make such a folder: a link in it would have another file locked.
            marker = os.open(folder / _MARKER, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # none of ours, or somebody else's
            continue
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
        finally:
            os.close(marker)
    return swept
