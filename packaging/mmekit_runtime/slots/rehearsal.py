"""What a template process does once, so that the model processes that it forks need not.

What runs for the first time imports, compiles, fills caches and has CPython rewrite bytecode. Done
before a fork, it is done once, and its pages stay shared.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmekit_runtime.handler import Handler
from mmekit_runtime.slots.channel import Channel
from mmekit_runtime.slots.request_loop import RequestLoop
from mmekit_runtime.slots.scoreboard import Scoreboard, ScoreboardFile
from mmekit_runtime.slots.service import reply_bytes, request_of
from mmekit_runtime.slots.shared_body import forget_modules
from mmekit_runtime.wire import decode_request, encode_request

_REQUESTS = 64
# Through a module's spec, as model.py may be named otherwise wherever this runs.
_MODEL = f"import {__name__} as rehearsal\n\nhandle = rehearsal.Echo()\n"
_PROPERTIES = {"Content-Type": "application/json", "Accept": "*/*", "handler": "handle"}
_BODY = b'{"instances": [[1.0, 2.0]]}'


class Echo(Handler):
    """Answers the first column."""

    def load(self, folder: Path) -> None:
        """Look at the folder, and need nothing of it."""
        (folder / "absent").exists()

    def predict(self, model: None, rows: Any, parameters: Any) -> Any:  # noqa: ARG002
        """Return the first column."""
        return rows[:, 0]


def answer_once() -> None:
    """Answer a request without a model: what that writes to is copied while nobody waits."""
    handler = Echo()
    handler.prepare(Path())
    found = decode_request(encode_request(_PROPERTIES, (("data", _BODY),)))
    assert found is not None  # noqa: S101
    for reply in handler.answer([request_of(found[0]), request_of(found[0])]):
        reply_bytes(reply)


def rehearse(times: int = _REQUESTS) -> None:
    """Be a model process in this very process: load a model, and answer requests for it."""
    root = logging.getLogger()
    handlers, level, stdout = list(root.handlers), root.level, sys.stdout
    sys.stdout = io.StringIO()
    try:
        with TemporaryDirectory(prefix="mmekit-rehearsal-") as folder:
            (Path(folder) / "model.py").write_text(_MODEL)
            place = os.path.realpath(folder)
            _answer(place, times)
            # Of the model alone: what it has imported besides is what others need as well.
            forget_modules(place)
    finally:
        sys.stdout = stdout
        root.handlers[:] = handlers
        root.setLevel(level)


def _answer(folder: str, number: int) -> None:
    channel, theirs = socket.socketpair()
    requests, connection = socket.socketpair()
    scoreboard_file = ScoreboardFile()
    scoreboard = Scoreboard(scoreboard_file.fd)
    control = os.open(os.devnull, os.O_RDWR)
    arguments = ["djl_python_engine.py", "--model-dir", folder, "--entry-point", "model.py"]
    times = {"imports": (), "template_ms": 0.0, "fork_ms": 0.0}
    start = {"argv": arguments, "quiet": False, "init": None, "shared": None, "times": times}
    loop = RequestLoop(Channel(theirs), scoreboard, start)
    with channel, requests:
        slot = {"slot": 0}
        fds = [connection.detach(), control, os.dup(1), os.dup(2)]
        told = Channel(channel)
        told.send(slot, fds)
        told.finish()
        requests.sendall(encode_request({"handler": "handle"}))
        for _ in range(number):
            requests.sendall(encode_request(_PROPERTIES, (("data", _BODY),)))
        requests.shutdown(socket.SHUT_WR)
        # What was sent has gone on as duplicates.
        for fd in fds:
            os.close(fd)
        loop.rehearse()
        theirs.close()
    os.close(scoreboard_file.fd)
