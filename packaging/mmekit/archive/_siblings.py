"""Models of one package, each loaded and asked in a fork of a process that has their libraries.

A part of `_observer`, which imports it by its place: standard library and the runtime only.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 1 << 16


@dataclass
class _Child:
    """A model that is being loaded."""

    number: int
    pid: int
    reader: int
    deadline: float
    text: bytearray = field(default_factory=bytearray)
    is_late: bool = False


def load_each(job: dict[str, Any], see: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Fork a process for each of ``job["models"]``, and write a line of JSON for each.

    The first model, which the others are compared with, is alone; of the others there are
    ``job["at_once"]`` at a time.

    Parameters
    ----------
    job
        ``models``, each with its ``folder``; ``report``, the descriptor that lines are written to;
        ``at_once``; ``timeout_s``, for each model.
    see
        Loads one of the models and asks it, in the forked process; what it returns is in the line,
        beside the ``number`` of the model. A failure is in ``failure``.
    """
    waiting = list(enumerate(job["models"]))[::-1]
    running: dict[int, _Child] = {}
    at_once = 1
    with selectors.DefaultSelector() as selector, os.fdopen(job["report"], "w") as report:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, model = waiting.pop()
                child = _forked(number, model, see, job["timeout_s"])
                running[child.reader] = child
                selector.register(child.reader, selectors.EVENT_READ)
            for key, _ in selector.select(timeout=1.0):
                child = running[key.fd]
                chunk = os.read(key.fd, _CHUNK)
                child.text += chunk
                if not chunk:
                    selector.unregister(key.fd)
                    report.write(json.dumps(_ended(running.pop(key.fd))) + "\n")
                    report.flush()
                    at_once = max(1, int(job["at_once"]))
            for child in running.values():
                if time.monotonic() > child.deadline and not child.is_late:
                    child.is_late = True
                    os.kill(child.pid, signal.SIGKILL)


def _forked(
    number: int,
    model: dict[str, Any],
    see: Callable[[dict[str, Any]], dict[str, Any]],
    timeout_s: float,
) -> _Child:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            found = see(model)
        except BaseException as error:  # noqa: BLE001 - a model may even call sys.exit
            found = {"failure": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(OSError), open(writer, "w") as stream:  # noqa: PTH123
            json.dump(found, stream)
        os._exit(0)
    os.close(writer)
    return _Child(number, pid, reader, time.monotonic() + timeout_s)


def _ended(child: _Child) -> dict[str, Any]:
    os.close(child.reader)
    code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    if child.text:
        with contextlib.suppress(ValueError):
            return {**json.loads(bytes(child.text)), "number": child.number}
    failure = "it took too long" if child.is_late else f"it ended with {code}"
    return {"number": child.number, "failure": failure}


class Witness:
    """What happens in this process from now on that tells one model from another."""

    def __init__(self) -> None:
        self._before = set(sys.modules)
        self._classes: set[str] = set()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        # Both of Python's unpicklers say so, and joblib's is made of one of them.
        if event == "pickle.find_class":
            self._classes.add(f"{arguments[0]}:{arguments[1]}")

    @property
    def classes(self) -> list[str]:
        """What pickles have asked for, sorted."""
        return sorted(self._classes)

    @property
    def modules(self) -> list[str]:
        """The modules that were imported."""
        return [name for name in sys.modules if name not in self._before]
