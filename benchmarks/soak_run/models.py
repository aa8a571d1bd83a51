"""The models of a soak: small ones, half of them with worker slots."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mmekit_runtime

if TYPE_CHECKING:
    from slot_runs.servers import Server

CODE = """
import os
import time
from mmekit_runtime import Handler

class Sums(Handler):
    features = 2

    def load(self, folder):
        return 1

    def predict(self, model, rows, parameters):
        if (rows == -1).any():
            raise ValueError("a poisoned row")
        if (rows == -2).any():
            os._exit(3)
        if (rows == -3).any():
            time.sleep(0.5)
        if (rows == -4).any():
            print(*["a line of many"] * 100_000, sep=chr(10))
        return rows.sum(axis=1)

handle = Sums()
"""
SLOTTED = ("slots-1", "slots-2", "slots-3", "slots-4")
PLAIN = ("plain-1", "plain-2")
PASSING = "passing"
"""Is loaded and unloaded all the while; the clients leave it alone."""


@dataclass(frozen=True)
class Loaded:
    """A model that the server has loaded.

    Attributes
    ----------
    workers
        As many requests may be hit at once by the death of its process.
    """

    name: str
    folder: Path
    workers: int
    has_slots: bool


def load_all(server: Server, work: Path) -> tuple[Loaded, ...]:
    """Make and load all models but the one that comes and goes.

    DJL Serving gives up a model of the plain engine with its first fault: it gets none. It gives up
    one with worker slots with the first that ends, as a slot does whose process is killed in the
    middle of a long request or answer: they may end there as often as they like.
    """
    settings = "" if server.kind == "embedded" else "retry_threshold=1000\n"
    plain = PLAIN if server.kind == "embedded" else ()
    found = [_make(name, work, workers=4, has_slots=True, settings=settings) for name in SLOTTED]
    found += [_make(name, work, workers=2, has_slots=False) for name in plain]
    for one in found:
        server.load(one.name, one.folder)
    _make(PASSING, work, workers=2, has_slots=True)
    return tuple(found)


def request() -> tuple[bytes, bytes]:
    """Return the body of a request that every model answers, and its answer."""
    rows = [[number, 1] for number in range(3)]
    answer = {"predictions": [float(number + 1) for number in range(3)]}
    return json.dumps({"instances": rows}).encode(), json.dumps(answer).encode()


def of_rows(value: int) -> bytes:
    """Return the body of a request with one row of a value."""
    return json.dumps({"instances": [[value, value]]}).encode()


def _make(name: str, work: Path, *, workers: int, has_slots: bool, settings: str = "") -> Loaded:
    folder = work / name
    folder.mkdir()
    (folder / "model.py").write_text(CODE)
    (folder / "serving.properties").write_text(
        f"engine=Python\nminWorkers={workers}\nmaxWorkers={workers}\nrequired_memory_mb=50\n"
        + settings
    )
    runtime = Path(mmekit_runtime.__file__).parent
    if has_slots:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(runtime, folder / runtime.name, ignore=ignored)
        shutil.copyfile(runtime / "site_hook.py", folder / "sitecustomize.py")
    return Loaded(name, folder, workers, has_slots)
