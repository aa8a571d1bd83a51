"""A handler that waits for something else: requests must not wait for each other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit_bench import Load, Target, Tool, measure
from slot_runs import subjects
from slot_runs.servers import ServerKind, running
from slot_runs.subjects import MODES, Subject, Trained

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slot_runs.subjects import Mode

WAIT_MS = 20
CONNECTIONS = 16
_WARM_UP_S = 8
_CODE = f'''"""Waits for a feature store, and answers."""

import time

from djl_python import Output


def handle(inputs):
    if inputs.is_empty():
        return None
    time.sleep({WAIT_MS / 1000})
    return Output().add_as_json([1.0])
'''


@dataclass(frozen=True)
class Waiting:
    """The same load in both modes."""

    server: ServerKind
    plain: Load
    slots: Load

    @property
    def ratio(self) -> float:
        """Requests a second, slots / plain."""
        return self.slots.requests_per_second / self.plain.requests_per_second


def prepare(work: Path) -> Trained:
    """Write the model's package."""
    package, artifacts = work / "waiting", work / "waiting-artifacts"
    package.mkdir()
    artifacts.mkdir()
    body = json.dumps({"instances": [[1.0]]}).encode()
    (package / "model.py").write_text(_CODE)
    (artifacts / "store").write_text("the address of a feature store would be here\n")
    (package / "serving.properties").write_text("engine=Python\n")
    (package / "sample_request.json").write_bytes(body)
    subject = Subject(
        "waiting", "a handler that waits", package, artifacts, body, (), "application/json", {}
    )
    return Trained(subject, work)


def compare(
    kind: ServerKind,
    work: Path,
    say: Callable[[str], None],
    *,
    trained: Trained,
    seconds: int,
    tool: Tool | None,
) -> Waiting:
    """Put the same load on both modes, each on a server of its own with as many workers."""

    def load(mode: Mode) -> Load:
        folder = subjects.copy(trained.unpacked(mode, subjects.SLOTS), work / f"waiting-{mode}")
        subject = trained.subject
        with running(kind) as server:
            server.load(folder.name, folder)
            target = Target(server.url(folder.name), subject.load, subject.content_type)
            say(f"{mode}: warming up")
            measure(target, CONNECTIONS, _WARM_UP_S, tool)
            say(f"{mode}: {CONNECTIONS} connections")
            return measure(target, CONNECTIONS, seconds, tool)

    plain, slots = map(load, MODES)
    return Waiting(kind, plain, slots)
