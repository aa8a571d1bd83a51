"""What a parked model costs, and how long its answer takes."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slot_runs import crowd, servers, subjects
from slot_runs.servers import ServerFailure, ServerKind, ask, family, running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slot_runs.servers import Server
    from slot_runs.subjects import Trained

_MODELS = 200
_ASKED = 100
_PAUSE_S = 0.1
_WAIT_S = 120.0
_POLL_S = 0.5
_SETTINGS = {"MMEKIT_PARK_AFTER_S": "2"}


@dataclass(frozen=True)
class Parked:
    """Parked models of one server.

    Attributes
    ----------
    models
        How many there were.
    private
        Bytes of private memory that each after the first takes: of its shells, and of everything
        that grew with it in the fork server, its templates and, where it is ours, the server.
    server_private
        The same of the server's own process.
    wake_ms
        Of the first answer of parked models, one after the other with a pause between.
    warm_ms
        Of the next answer of the same models.
    """

    server: ServerKind
    models: int
    private: int
    server_private: int
    wake_ms: tuple[float, ...]
    warm_ms: tuple[float, ...]

    @property
    def wake_p50_ms(self) -> float:
        """The median of the first answers."""
        return statistics.median(self.wake_ms)

    @property
    def wake_p95_ms(self) -> float:
        """Of twenty first answers, the slowest but one."""
        return statistics.quantiles(self.wake_ms, n=20)[-1]

    @property
    def warm_p50_ms(self) -> float:
        """The median of the next answers."""
        return statistics.median(self.warm_ms)


def measure(
    kind: ServerKind,
    work: Path,
    say: Callable[[str], None],
    *,
    trained: Trained,
    models: int = _MODELS,
) -> Parked:
    """Load models, let them park, and ask them.

    Raises
    ------
    ServerFailure
        Models did not park, or answered something else than before.
    """
    say("copying the model's folder")
    source = trained.unpacked("slots")
    folders = [subjects.copy(source, work / f"p{number}") for number in range(models)]
    subject = trained.subject
    with running(kind, _SETTINGS) as server:
        server.load(folders[0].name, folders[0])
        expected = server.invoke(folders[0].name, subject.load, subject.content_type)
        say("one model parks")
        _wait_until_parked(server, folders[:1])
        first = _private(server)
        for number, folder in enumerate(folders[1:], start=2):
            say(f"{number} of {models} models loaded")
            server.load(folder.name, folder)
        say("the others park")
        _wait_until_parked(server, folders)
        all_of_them = _private(server)
        each = [
            (after - before) // (models - 1)
            for before, after in zip(first, all_of_them, strict=True)
        ]
        say("asking parked models")
        wake_ms, warm_ms = _ask(server, trained, folders[-_ASKED:], expected)
    return Parked(kind, models, each[0], each[1], tuple(wake_ms), tuple(warm_ms))


def _private(server: Server) -> tuple[int, int]:
    """Return the private bytes of what is ours, and of the server's own process."""
    own = servers.footprint([server.pid]).private
    pids = [process.pid for process in family(server)]
    ours = servers.footprint(pids).private
    return (ours if server.kind == "embedded" else ours - own), own


def _wait_until_parked(server: Server, folders: Sequence[Path]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while crowd.awake(server, folders):
        if time.monotonic() > deadline:
            raise ServerFailure(f"{crowd.awake(server, folders)} models did not park")
        time.sleep(_POLL_S)


def _ask(
    server: Server, trained: Trained, folders: Sequence[Path], expected: bytes
) -> tuple[list[float], list[float]]:
    subject = trained.subject
    wake_ms, warm_ms = [], []
    connection = server.connect()
    for folder in folders:
        for times in (wake_ms, warm_ms):
            began = time.perf_counter()
            answer = ask(
                connection,
                "POST",
                f"/models/{folder.name}/invoke",
                subject.load,
                subject.content_type,
            )
            times.append((time.perf_counter() - began) * 1000)
            if answer != expected:
                raise ServerFailure(f"{folder.name} answered {answer!r}, not {expected!r}")
        time.sleep(_PAUSE_S)
    connection.close()
    return wake_ms, warm_ms
