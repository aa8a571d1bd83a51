"""A load and what it found, on which machine, as it is kept in a file."""

from __future__ import annotations

import csv
import io
import os
import platform
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path

import psutil
from pydantic import TypeAdapter, ValidationError

from mmekit.errors import MmekitError
from mmekit_bench.plan import LoadPlan  # noqa: TC001 - pydantic reads it
from mmekit_bench.recording import Recording, Second

__all__ = [
    "PERCENTILES",
    "Load",
    "LoadResult",
    "Machine",
    "read_result",
    "this_machine",
    "versions",
]

PERCENTILES = (50, 66, 75, 80, 90, 95, 98, 99, 99.9, 99.99, 100)
"""Those of locust's table, which published load tests of SageMaker endpoints show."""

FORMAT = 1

_PACKAGES = ("mmekit", "boto3", "httptools", "numpy", "uvloop")


@dataclass(frozen=True)
class Load:
    """What a load generator found, in short.

    Attributes
    ----------
    tool
        Its name.
    connections
        How many requests were under way at any time.
    requests
        Answers, those that are no success included.
    p50_ms, p95_ms, p99_ms, p999_ms
        Percentiles of the times until an answer; the last is that of 99.9 %.
    errors
        Requests without a successful answer.
    """

    tool: str
    connections: int
    requests: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    errors: int

    @property
    def requests_per_second(self) -> float:
        """Answers in a second."""
        return self.requests / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Machine:
    """On what a load was run: without it, figures say little.

    Attributes
    ----------
    processor
        Its processor's name.
    cores
        How many of them this process may use.
    memory_gib
        All there is.
    load
        How many processes wanted a core in the minute before, on average.
    """

    system: str
    processor: str
    cores: int
    memory_gib: float
    load: float


@dataclass(frozen=True)
class LoadResult:
    """All there is to know about a load.

    Attributes
    ----------
    format
        Of the file.
    started
        When, by UTC, as ISO 8601 writes it.
    interrupted
        Whether Ctrl-C ended it early.
    check
        None when no other generator was asked.
    """

    format: int
    started: str
    plan: LoadPlan
    recording: Recording
    machine: Machine
    versions: dict[str, str]
    interrupted: bool = False
    check: Load | None = None

    @property
    def limits(self) -> tuple[str, ...]:
        """How the client shows in the figures, in sentences; empty when it does not."""
        return self.recording.own_time.limits(self.recording.later.percentile(50))

    @property
    def load(self) -> Load:
        """The figures that any load generator has."""
        recording = self.recording
        p50, p95, p99, p999 = (recording.later.percentile(one) for one in (50, 95, 99, 99.9))
        return Load(
            tool="python",
            connections=self.plan.connections,
            requests=recording.answered + recording.failed,
            seconds=recording.seconds,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            p999_ms=p999,
            errors=recording.failed,
        )

    def to_json(self) -> bytes:
        """Return the file's content."""
        return _RESULT.dump_json(self, indent=1)

    def to_csv(self) -> str:
        """Return the series: a header, and a line for every second."""
        text = io.StringIO()
        names = [field.name for field in fields(Second)]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for second in self.recording.series:
            values = (getattr(second, name) for name in names)
            writer.writerow(round(value, 4) for value in values)
        return text.getvalue()


_RESULT: TypeAdapter[LoadResult] = TypeAdapter(LoadResult)


def read_result(path: Path) -> LoadResult:
    """Read a file that `mme bench` wrote.

    Raises
    ------
    MmekitError
        It is none.
    OSError
        It cannot be read.
    """
    try:
        result = _RESULT.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MmekitError(
            f"This is no result of mme bench: {place + ': ' if place else ''}{first['msg']}.",
            where=str(path),
            remedy="Write one: mme bench … --output RESULT.json.",
        ) from None
    if result.format != FORMAT:
        raise MmekitError(
            f"The result is of format {result.format}, and this is mmekit for format {FORMAT}.",
            where=str(path),
            remedy="Measure again.",
        )
    return result


def this_machine() -> Machine:
    """Describe the machine that the load comes from."""
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        load=round(psutil.getloadavg()[0], 2),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of what the load generator is made of."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
