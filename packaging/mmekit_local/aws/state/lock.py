"""The file ``lock`` of a state folder: who uses it, and how far its log had come.

What it says is written before and after each change and never waited for, so it holds through a
kill, and may be old after a loss of power. What is old can be told: it says of which log it is.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.errors import EndpointError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Lock", "LogPosition"]

_BYTES = 64


@dataclass(frozen=True)
class LogPosition:
    """How far a log has come.

    Attributes
    ----------
    log
        Its name.
    answered
        The number of the last entry whose change was made.
    begun
        The number of the last entry that was begun: the one after `answered` while it is made.
    """

    log: str
    answered: int
    begun: int


class Lock:
    """A folder's lock, held until it is closed or the process ends.

    Attributes
    ----------
    found : Progress or None
        What whoever had it last said.

    Raises
    ------
    OSError
        It cannot be written.
    EndpointError
        Somebody else has it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            what = "Another `mme up` uses this state folder."
            remedy = "Stop it, or choose another folder with --state."
            raise EndpointError(what, where=str(path.parent), remedy=remedy) from error
        self.found = _position(os.pread(self._file, _BYTES, 0))

    def write(self, progress: LogPosition) -> None:
        """Say how far the log has come.

        Raises
        ------
        OSError
            There is no room, which may be the first time.
        """
        text = f"{progress.log} {progress.answered} {progress.begun}"
        os.pwrite(self._file, text.ljust(_BYTES - 1).encode() + b"\n", 0)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._file)


def _position(content: bytes) -> LogPosition | None:
    parts = content.decode("latin-1").split()
    try:
        log, answered, begun = parts
        return LogPosition(log, int(answered), int(begun))
    except ValueError:  # a new folder, or one of a version that said nothing
        return None
