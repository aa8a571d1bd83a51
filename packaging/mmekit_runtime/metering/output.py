"""The standard output of the server that started this process: the container's log.

DJL Serving reads what its workers print, and puts a time and a name before each line; CloudWatch
takes metrics from an event that is JSON from its first byte to its last. So lines are written to
where the server itself prints.
"""

from __future__ import annotations

import errno
import logging
import os
import stat

_logger = logging.getLogger()

_BUSY = (errno.EAGAIN, errno.EINTR)


class ServerOutput:
    """Where a server prints.

    Parameters
    ----------
    pid
        The server's.
    """

    def __init__(self, pid: int) -> None:
        self._place: int | None = None
        self._has_said = False
        try:
            # Of this very process: its number may be another's, once it has ended.
            self._place = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self._say(str(error))

    def write(self, line: bytes) -> bool:
        """Write a line in one step; whether there was room for it."""
        try:
            fd = self._open()
        except OSError as error:
            self._say(str(error))
            fd = os.dup(1)
        try:
            return os.write(fd, line) > 0
        except OSError as error:
            # A reader that has gone needs no line any more.
            return error.errno not in _BUSY
        finally:
            os.close(fd)

    def _open(self) -> int:
        if self._place is None:
            raise FileNotFoundError("the server is not known")
        # Opened for each line: kept open, it would keep the pipe's reader waiting for its end.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
        # Without O_APPEND, the server writes on over whatever others have put behind its own lines.
        if not _is_shared(self._place):
            raise PermissionError("the server writes into a file alone")
        return os.open("fd/1", flags, dir_fd=self._place)

    def _say(self, reason: str) -> None:
        if not self._has_said:
            self._has_said = True
            _logger.warning(
                "mmekit: metrics go to the output of this process, where the server puts a prefix "
                "before them and CloudWatch does not see them: the server's own output cannot be "
                "written to (%s)",
                reason,
            )


def _is_shared(place: int) -> bool:
    """Whether a process's standard output is no file, or one to whose end all write."""
    if not stat.S_ISREG(os.stat("fd/1", dir_fd=place).st_mode):
        return True
    fd = os.open("fdinfo/1", os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
    try:
        lines = os.read(fd, 4096).decode().splitlines()
    finally:
        os.close(fd)
    flags = next((line.split()[1] for line in lines if line.startswith("flags:")), "0")
    return bool(int(flags, 8) & os.O_APPEND)
