"""The same four models on mmekit's server and on others, in turn on this machine.

Cold load, memory for 1, 10 and 50 models, throughput and percentiles at 1, 8 and 32 connections.
Needs what ``make demo`` leaves. The peers' environments are made on first use, in
build/peers/environments; DJL Serving is measured where MMEKIT_DJL_HOME names an unpacked
distribution. 25 minutes::

    .venv/bin/python benchmarks/peers.py

Some of it, and the rest of a run that was interrupted::

    .venv/bin/python benchmarks/peers.py --peer mlserver litserve --model linear_regression
    .venv/bin/python benchmarks/peers.py --resume

What each model on each peer gave is kept in build/peers/found, and the report is made from all
that is there. Writes build/benchmarks/peers.json, .md and .svg; --publish copies them into
docs/benchmarks, and a table into docs/benchmarks.md. Everything runs on loopback, and is ended at
the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from peer_runs import loopback, plot, processes, report, subjects
from peer_runs.cells import Kept
from peer_runs.environments import PeerUnavailable
from peer_runs.measurement import Plan, measure_cell, unavailable
from peer_runs.peers import PEERS
from peer_runs.report import Results
from reporting import Conditions, publish, steps_of, try_to_draw
from rich.console import Console
from slot_runs.subjects import ROOT, TRAINED, MissingSubjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from peer_runs.cells import Cell
    from peer_runs.peer import Peer
    from peer_runs.subjects import Subject
    from rich.progress import Progress

_LEAST_S = 30.0
_OPEN = "it listens on every interface, and this machine lets no process have a network of its own"
_MIB = 1 << 20


def main() -> int:
    """Make what the peers need, and start again where there is no network but loopback."""
    arguments = _arguments()
    if arguments.missing is not None:
        return _measure(arguments)
    with Console(stderr=True).status("") as status:
        names = dict.fromkeys(name for name, _ in _wanted(arguments, Kept(arguments.found)))
        missing = {name: _why_not(PEERS[name], status.update) for name in names}
    # From here on nothing needs a network, and some peers would listen on all there are.
    return _measured_apart(missing)


def _measured_apart(missing: Mapping[str, str]) -> NoReturn:
    again = [sys.executable, *sys.argv, "--missing", json.dumps(missing)]
    os.execv(sys.executable, [sys.executable, loopback.__file__, *again])  # noqa: S606


def _measure(arguments: argparse.Namespace) -> int:
    """Measure, print and write; 1 when there is nothing to tell."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console(stderr=True)
    machine = Conditions.this()
    machine.warn_if_busy()
    processes.adopt_orphans()
    kept = Kept(arguments.found)
    missing = dict(arguments.missing)
    if not loopback.alone():
        missing |= {name: _OPEN for name in missing if PEERS[name].listens_everywhere}
    with (
        # A short name, as sockets lie below it.
        tempfile.TemporaryDirectory(prefix="mme-peers-") as name,
        steps_of(console) as progress,
    ):
        bench = Bench(arguments, Path(name).resolve(), kept, progress)
        try:
            bench.run(_wanted(arguments, kept), missing)
        except KeyboardInterrupt:
            console.print("Interrupted: --resume measures the rest.")
    return _write(machine, kept, arguments, console)


class Bench:
    """One run of the benchmark.

    Parameters
    ----------
    work
        An empty folder for models and what else is gone afterwards.
    kept
        Gets every cell as soon as it is there.
    """

    def __init__(
        self, arguments: argparse.Namespace, work: Path, kept: Kept, progress: Progress
    ) -> None:
        self._arguments = arguments
        self._work = work
        self._kept = kept
        self._progress = progress
        self._task = progress.add_task("", total=None)
        self._plan = Plan(
            counts=tuple(arguments.models), seconds=arguments.seconds, tool=arguments.tool
        )

    def run(self, wanted: Sequence[tuple[str, str]], missing: Mapping[str, str]) -> None:
        """Measure peers with models.

        Parameters
        ----------
        wanted
            The names of both.
        missing
            Why a peer cannot be had; empty where it can.
        """
        self._progress.update(self._task, total=len(wanted))
        prepared = {model: self._prepare(model) for model in dict.fromkeys(m for _, m in wanted)}
        deadline = time.monotonic() + 60 * self._arguments.minutes
        for number, (name, model) in enumerate(wanted):
            subject = prepared[model]
            if subject is not None:
                share = (deadline - time.monotonic()) / (len(wanted) - number)
                cell = self._cell(PEERS[name], subject, missing[name], max(share, _LEAST_S))
                self._kept.put(cell)
                self._progress.console.print(_told(cell), markup=False, highlight=False)
            self._progress.advance(self._task)

    def _prepare(self, model: str) -> Subject | None:
        self._say(f"{model}: preparing")
        try:
            return subjects.prepare(model, TRAINED, self._work)
        except MissingSubjectError as error:
            self._progress.console.print(f"{model}: {error}", markup=False)
            return None

    def _cell(self, peer: Peer, subject: Subject, why_not: str, budget_s: float) -> Cell:
        if why_not:
            return unavailable(peer, subject, why_not)
        folder = self._work / "c"
        folder.mkdir()
        head = f"{peer.title}, {subject.title}"
        try:
            return measure_cell(
                peer,
                subject,
                self._plan,
                budget_s,
                folder,
                lambda text: self._say(f"{head}: {text}"),
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _say(self, text: str) -> None:
        self._progress.update(self._task, description=text)


def _wanted(arguments: argparse.Namespace, kept: Kept) -> list[tuple[str, str]]:
    return [
        (peer, model)
        for model in arguments.model
        for peer in arguments.peer
        if not (arguments.resume and (cell := kept.get(peer, model)) and cell.complete)
    ]


def _why_not(peer: Peer, say: Callable[[str], None]) -> str:
    """Make what a peer needs; say why it cannot be had, if so."""
    try:
        peer.prepare(lambda text: say(f"{peer.title}: {text}"))
    except PeerUnavailable as error:
        return str(error)
    return ""


def _told(cell: Cell) -> str:
    """Return a line about a cell."""
    parts = []
    if cell.cold is not None:
        parts.append(f"{cell.cold.kind} {cell.cold.median_ms:,.1f} ms")
    parts += [
        f"{'≈ ' if one.extrapolated else ''}{one.proportional // _MIB:,} MiB for {one.models}"
        for one in cell.memory
    ]
    parts += [f"{one.requests_per_second:,.0f}/s at {one.connections}" for one in cell.loads]
    parts += [f"no {what}: {why}" for what, why in cell.missing.items()]
    return f"{PEERS[cell.peer].title}, {cell.model}: {'; '.join(parts)} [{cell.seconds:.0f} s]"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer", nargs="+", choices=tuple(PEERS), default=tuple(PEERS))
    parser.add_argument("--model", nargs="+", choices=subjects.NAMES, default=subjects.NAMES)
    parser.add_argument(
        "--resume", action="store_true", help="measure only what is not there yet, or failed"
    )
    parser.add_argument("--minutes", type=float, default=25, help="of measuring, at most")
    parser.add_argument("--seconds", type=int, default=3, help="of load for each measurement")
    parser.add_argument(
        "--models", nargs="+", type=int, default=Plan.counts, help="numbers of models at once"
    )
    parser.add_argument("--tool", choices=("wrk", "python"), default=None)
    parser.add_argument("--missing", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument(
        "--publish",
        action="store_true",
        help="copy into docs/benchmarks, and a table into its page",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--found", type=Path, default=ROOT / "build" / "peers" / "found")
    return parser.parse_args()


def _write(machine: Conditions, kept: Kept, arguments: argparse.Namespace, console: Console) -> int:
    output: Path = arguments.output
    cells = [kept.get(peer, model) for model in subjects.NAMES for peer in PEERS]
    found = tuple(cell for cell in cells if cell is not None)
    if not found:
        console.print("There was nothing to measure.")
        return 1
    results = Results(machine, found, arguments.seconds)
    report.write(results, output)
    try_to_draw(lambda: plot.draw(results, output), console)
    published = not arguments.publish or publish(output, report.NAME, console, report.summary)
    print(report.markdown(results))
    return 0 if published else 1


if __name__ == "__main__":
    sys.exit(main())
