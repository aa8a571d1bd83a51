"""One server under load for minutes, with faults all the while.

Every few seconds something breaks: a process is killed, a client misbehaves, descriptors run out.
The soak says which errors were no hit of such a fault, and whether memory grew from the fifth
minute (the middle of a shorter run) to the end::

    .venv/bin/python benchmarks/soak.py --minutes 20

Ends with 1 when there was such an error, or memory grew by more than 2 %. Writes
build/benchmarks/soak.json, and the server's log beside it. Everything runs on loopback, and is
ended at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from slot_runs.servers import TITLES, Server, ServerFailure, family, running
from soak_run import faults, models
from soak_run.traffic import Traffic

from mmekit_local.server.memory import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
ALLOWED_GROWTH = 0.02
_SETTLED_MINUTES = 5.0
_SAMPLES = 5
_SAMPLE_S = 1.0
_HEAL_S = 60.0
_PAUSE_S = (1.0, 4.0)
_HURRIED = 0.7


@dataclass(frozen=True)
class Memory:
    """What a server uses at one moment: the medians of a few samples.

    Attributes
    ----------
    server, tree
        Proportional anonymous bytes (PSS) of the server's process, and of it and all that it
        started.
    """

    minute: float
    server: int
    tree: int
    processes: int


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes
    ----------
    hits
        Requests that failed because a fault hit them.
    unexplained
        Errors that no fault explains.
    """

    server: str
    minutes: float
    requests: int
    faults: dict[str, int]
    hits: int
    unexplained: tuple[str, ...]
    settled: Memory
    end: Memory

    @property
    def growth(self) -> dict[str, float]:
        """Shares by which memory has grown."""
        return {
            "server": self.end.server / self.settled.server - 1,
            "tree": self.end.tree / self.settled.tree - 1,
        }

    @property
    def is_good(self) -> bool:
        """Whether every error is explained, and memory has not grown."""
        return not self.unexplained and max(self.growth.values()) <= ALLOWED_GROWTH


def main() -> int:
    """Soak, print and write; 1 when something was lost that no fault hit, or memory grew."""
    arguments = _arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("{task.description}"))
    with (
        tempfile.TemporaryDirectory(prefix="mme-soak-") as name,
        Progress(*columns, console=console) as progress,
    ):
        try:
            outcome = _soak(arguments, Path(name).resolve(), progress)
        except ServerFailure as error:
            console.print(f"the server failed: {error}", markup=False)
            return 1
    content = {**asdict(outcome), "growth": outcome.growth, "seed": arguments.seed}
    (arguments.output / "soak.json").write_text(json.dumps(content, indent=2) + "\n")
    _print(outcome)
    return 0 if outcome.is_good else 1


def _soak(arguments: argparse.Namespace, work: Path, progress: Progress) -> Outcome:
    chance = random.Random(arguments.seed)  # noqa: S311  so that a run can be repeated
    seconds = arguments.minutes * 60
    task = progress.add_task("starting", total=seconds)
    with running(arguments.server) as server:
        loaded = models.load_all(server, work)
        traffic = Traffic(server, loaded, arguments.clients)
        hurt = faults.Faults(server, loaded, chance)
        began = time.monotonic()
        settle_at = min(_SETTLED_MINUTES * 60, seconds / 2)
        settled: Memory | None = None
        with _stopped_at_the_end(traffic):
            while (elapsed := time.monotonic() - began) < seconds:
                if settled is None and elapsed >= settle_at:
                    settled = _measure(server, hurt, traffic, began)
                    progress.console.print(_line(settled))
                name = hurt.one()
                progress.update(
                    task,
                    completed=elapsed,
                    description=f"{traffic.requests:,} requests, {len(traffic.errors)} errors, "
                    f"{sum(hurt.counts.values())} faults, now: {name}",
                )
                # Without a pause at first: memory is to have had its peaks when it is measured.
                if elapsed > settle_at * _HURRIED:
                    time.sleep(chance.uniform(*_PAUSE_S))
            end = _measure(server, hurt, traffic, began)
            progress.console.print(_line(end))
        shutil.copyfile(server.log, arguments.output / "soak.log")
        hits, unexplained = hurt.explain(traffic.errors)
    return Outcome(
        server=TITLES[arguments.server],
        minutes=arguments.minutes,
        requests=traffic.requests,
        faults=dict(hurt.counts),
        hits=hits,
        unexplained=tuple(unexplained),
        settled=settled or end,
        end=end,
    )


@contextlib.contextmanager
def _stopped_at_the_end(traffic: Traffic) -> Iterator[None]:
    try:
        yield
    finally:
        traffic.stop()


def _measure(server: Server, hurt: faults.Faults, traffic: Traffic, began: float) -> Memory:
    """Measure at rest, when what was broken is whole again."""
    samples = []
    with traffic.paused():
        hurt.wait_until_whole(_HEAL_S)
        for _ in range(_SAMPLES):
            time.sleep(_SAMPLE_S)
            samples.append({one.pid: _anonymous(one.pid) for one in family(server)})
    return Memory(
        minute=(time.monotonic() - began) / 60,
        server=int(statistics.median(one[server.pid] for one in samples)),
        tree=int(statistics.median(sum(one.values()) for one in samples)),
        processes=int(statistics.median(map(len, samples))),
    )


def _anonymous(pid: int) -> int:
    """Return a process's share of memory that is in no file, in bytes; 0 when it has ended.

    Its share of a library's file depends on what else this machine happens to run.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))


def _line(memory: Memory) -> str:
    return (
        f"minute {memory.minute:.1f}: server {memory.server / MIB:.1f} MiB, all "
        f"{memory.processes} processes {memory.tree / MIB:.1f} MiB"
    )


def _print(outcome: Outcome) -> None:
    print(
        f"{outcome.server}, {outcome.minutes:g} minutes: {outcome.requests:,} requests, "
        f"{sum(outcome.faults.values())} faults, {outcome.hits} requests hit by them, "
        f"{len(outcome.unexplained)} other errors"
    )
    kinds = Counter(outcome.unexplained).most_common(20)
    others = (f"{count} x {what}" for what, count in kinds)
    for line in (_line(outcome.settled), _line(outcome.end), *others):
        print(line)
    growth = ", ".join(f"{name} {share:+.1%}" for name, share in outcome.growth.items())
    print(f"memory grew by: {growth} ({'good' if outcome.is_good else 'NOT GOOD'})")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--server", choices=tuple(TITLES), default="embedded")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
