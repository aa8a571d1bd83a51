"""Models that have no layer: what the code before layers packed against what this code packs."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from slot_runs import answers, servers, subjects
from slot_runs.servers import ServerKind, running

from layer_runs.former import NOW, Job
from mmekit.archive import unpack
from mmekit_bench import Target, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from slot_runs.answers import Comparison
    from slot_runs.subjects import Trained

    from layer_runs.former import Code
    from mmekit_bench import Tool

Age = Literal["before", "now"]
AGES: tuple[Age, ...] = ("before", "now")
NAMES = ("ridge", "forest", "catboost")
CONNECTIONS = 8
_APART_S = 0.1
_TURN_S = 1


@dataclass(frozen=True)
class Aged:
    """One archive on one server.

    Attributes
    ----------
    loads_ms
        Loads after the first, in turn with the other archive's.
    private
        Bytes of private memory of each model, the mean.
    p50_ms
        On one connection, turn by turn.
    per_second
        Requests a second on eight connections, turn by turn.
    archive_bytes
        Of the archive.
    """

    age: Age
    loads_ms: tuple[float, ...]
    private: int
    p50_ms: tuple[float, ...]
    per_second: tuple[float, ...]
    archive_bytes: int


@dataclass(frozen=True)
class Unchanged:
    """Both archives of one model, on one server at the same time."""

    server: ServerKind
    subject: str
    before: Aged
    now: Aged
    comparison: Comparison

    @property
    def cold(self) -> float:
        """Cold load, now / before: of the medians."""
        return statistics.median(self.now.loads_ms) / statistics.median(self.before.loads_ms)

    @property
    def private(self) -> float:
        """Private memory, now / before."""
        return self.now.private / self.before.private

    @property
    def p50(self) -> float:
        """Response time on one connection, now / before: the median of the turns' ratios."""
        return _middle_ratio(self.now.p50_ms, self.before.p50_ms)

    @property
    def throughput(self) -> float:
        """Requests a second, now / before: the median of the turns' ratios."""
        return _middle_ratio(self.now.per_second, self.before.per_second)


def _middle_ratio(now: Sequence[float], before: Sequence[float]) -> float:
    # Of a pair, as the machine is faster at some moments than at others.
    return statistics.median(a / b for a, b in zip(now, before, strict=True))


class Archives:
    """The archives of the models, of either age, unpacked."""

    def __init__(self, former: Code, work: Path) -> None:
        self._codes: dict[Age, Code] = {"before": former, "now": NOW}
        self._work = work
        self._made: dict[tuple[str, Age], tuple[Path, int]] = {}

    def folder(self, trained: Trained, age: Age) -> tuple[Path, int]:
        """Return where an archive is unpacked, and its bytes."""
        name = trained.subject.name
        key = (name, age)
        if key not in self._made:
            work = self._work / f"{name}-{age}"
            artifacts = subjects.copy(trained.subject.artifacts, work / "artifacts")
            archive = work / "model.tar.gz"
            # The package of today for both: what is compared is what packing makes of it.
            (size,) = self._codes[age].pack([Job(trained.subject.package, artifacts, archive)])
            unpack(archive, work / "unpacked")
            archive.unlink()
            (work / "unpacked" / "requirements.txt").unlink(missing_ok=True)
            self._made[key] = (work / "unpacked", size)
        return self._made[key]


def compare(
    kind: ServerKind,
    work: Path,
    say: Callable[[str], None],
    *,
    trained: Mapping[str, Trained],
    archives: Archives,
    loads: int,
    turns: int,
    tool: Tool | None,
) -> tuple[Unchanged, ...]:
    """Compare each model's archives on a server of its own."""
    found = []
    for name, one in trained.items():
        (work / name).mkdir()
        with running(kind) as server:
            found.append(_compare(server, work / name, say, one, archives, loads, turns, tool))
    return tuple(found)


def _compare(
    server: servers.Server,
    work: Path,
    say: Callable[[str], None],
    trained: Trained,
    archives: Archives,
    loads: int,
    turns: int,
    tool: Tool | None,
) -> Unchanged:
    subject = trained.subject
    times: dict[Age, list[float]] = defaultdict(list)
    folders: dict[Age, list[Path]] = defaultdict(list)
    for number, age in itertools.product(range(loads + 1), AGES):
        # Each goes first as often as the other: what one load leaves to be done, the next finds.
        age = age if number % 2 else AGES[1 - AGES.index(age)]  # noqa: PLW2901
        say(f"{subject.name}, load {number + 1} of {loads + 1}, {age}")
        folder = subjects.copy(archives.folder(trained, age)[0], work / f"{age}-{number}")
        time.sleep(_APART_S)
        times[age].append(server.load(folder.name, folder))
        server.invoke(folder.name, subject.load, subject.content_type)
        folders[age].append(folder)
    private = {
        age: sum(one.private for one in servers.of_models(server, folders[age])[1:]) // loads
        for age in AGES
    }
    for age, number in itertools.product(AGES, range(1, loads + 1)):
        server.unload(f"{age}-{number}")
    collected = {age: answers.collect(server, f"{age}-0", subject) for age in AGES}
    p50, per_second = _turns(server, subject, say, turns, tool)
    both = {
        age: Aged(
            age=age,
            loads_ms=tuple(times[age][1:]),
            private=private[age],
            p50_ms=tuple(p50[age]),
            per_second=tuple(per_second[age]),
            archive_bytes=archives.folder(trained, age)[1],
        )
        for age in AGES
    }
    comparison = answers.compare(collected["before"], collected["now"])
    return Unchanged(server.kind, subject.name, both["before"], both["now"], comparison)


def _turns(
    server: servers.Server,
    subject: subjects.Subject,
    say: Callable[[str], None],
    turns: int,
    tool: Tool | None,
) -> tuple[Mapping[Age, list[float]], Mapping[Age, list[float]]]:
    p50: dict[Age, list[float]] = defaultdict(list)
    per_second: dict[Age, list[float]] = defaultdict(list)
    targets = {
        age: Target(server.url(f"{age}-0"), subject.load, subject.content_type) for age in AGES
    }
    for target in targets.values():
        measure(target, CONNECTIONS, _TURN_S, tool)
    for turn, age in itertools.product(range(turns), AGES):
        age = age if turn % 2 else AGES[1 - AGES.index(age)]  # noqa: PLW2901
        say(f"{subject.name}, turn {turn + 1} of {turns}, {age}")
        p50[age].append(measure(targets[age], 1, _TURN_S, tool).p50_ms)
        per_second[age].append(
            measure(targets[age], CONNECTIONS, _TURN_S, tool).requests_per_second
        )
    return p50, per_second
