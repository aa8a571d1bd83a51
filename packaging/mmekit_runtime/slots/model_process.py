"""Being a model process: what was forked from a template process takes a worker's place."""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import sys
from _socket import socket as new_socket
from pathlib import Path
from typing import Any, TextIO

from mmekit_runtime.slots import copy_on_write
from mmekit_runtime.slots.channel import Channel
from mmekit_runtime.slots.rehearsal import answer_once
from mmekit_runtime.slots.request_loop import RequestLoop
from mmekit_runtime.slots.scoreboard import Scoreboard

# The engine logs to the root logger, and so does what stands in for it.
_logger = logging.getLogger()


def run(channel_fd: int, *, is_spare: bool = False) -> None:
    """Be a model process, once the fork server says of which model.

    One that was forked ahead has time until then to make the pages its own that models write to.
    """
    # Asked now: once the template process has ended, the parent is another.
    template = os.getppid()
    channel = Channel(new_socket(fileno=channel_fd))
    channel.sock.setblocking(True)  # noqa: FBT003
    if is_spare:
        answer_once()
    first = _first_message(channel)
    if first is None:
        return
    start, (scoreboard_fd, stdout, stderr) = first
    scoreboard = Scoreboard(scoreboard_fd)
    os.close(scoreboard_fd)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    sys.stdout, sys.stderr = _reopened(sys.stdout), _reopened(sys.stderr)
    _become_worker(start)
    try:
        RequestLoop(channel, scoreboard, start).run()
    except Exception:
        _logger.exception("Python engine process died")
    finally:
        _logger.info("%d - Python process finished", os.getpid())
        # Nobody is left to end the group: its template process, which does so, has ended.
        if os.getppid() != template:
            # Which would end what the model has started.
            os.killpg(0, signal.SIGKILL)


def _first_message(channel: Channel) -> tuple[dict[str, Any], list[int]] | None:
    while (received := channel.receive()) is not None:
        for message, fds in received:
            if "written" not in message:
                return message, fds
            copy_on_write.copy(message["written"])
    return None


def _become_worker(start: dict[str, Any]) -> None:
    """Become what the worker's own process would have been."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(start["environ"])
    os.environ.update(start["site_environ"])
    os.chdir(start["cwd"])
    sys.argv = list(start["argv"])
    sys.orig_argv = [sys.executable, *start["argv"]]
    engine = str(Path(start["argv"][0]).parent)
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    own = {*start["dropped_paths"], *inherited, engine}
    # As Python orders them for a script: its folder, PYTHONPATH, and the rest behind.
    sys.path[:] = [engine, *inherited, *(path for path in sys.path if path not in own)]
    # Of the first model's TMPDIR, where the template process has asked for it.
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        vars(tempfile)["tempdir"] = None
    # The state is the template process's, and the same in all that it forks.
    random.seed()
    # numpy imports it when it is first asked for, and seeds it then.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        # Not torch.seed(), which notes for the GPU where it was called from, and reads the sources
        # for that.
        torch.default_generator.seed()


class _WorkerStream(io.FileIO):
    """A standard stream whose reader may go away: a model's worker ends, and its model prints on.

    What is printed until the stream is that of another worker is lost, and no request fails.
    """

    def write(self, data: Any) -> int:
        """Write, or pretend to."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _reopened(stream: TextIO) -> TextIO:
    # Line by line, as a worker's output is read while the model works.
    raw = io.BufferedWriter(_WorkerStream(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)
