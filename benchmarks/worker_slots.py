"""Plain engine against worker slots, in one run on one machine and in turn.

Cold load, memory, answers and load of four models, on the embedded server, and on the real DJL
Serving when MMEKIT_DJL_HOME names an unpacked distribution. Some 20 minutes with both::

    .venv/bin/python benchmarks/worker_slots.py

A try that shows only that all of it works, in half a minute::

    .venv/bin/python benchmarks/worker_slots.py --quick --models ridge --servers embedded

Writes build/benchmarks/worker_slots.json, .md and .svg; --publish copies them into docs/benchmarks,
and a table into docs/benchmarks.md. SetFit needs what ``make demo`` leaves. Everything runs on
loopback, and is ended at the end.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from reporting import Conditions, publish, published_content, steps_of, try_to_draw
from rich.console import Console
from slot_runs import answers, report, runs, servers, subjects
from slot_runs.report import Results
from slot_runs.runs import Plan, Run
from slot_runs.servers import TITLES, ServerFailure, ServerKind
from slot_runs.subjects import MODES, ROOT, MissingSubjectError, Mode, Trained
from slot_runs.targets import MIB, Pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress, TaskID

    from mmekit_bench import Tool

# Java compiles what is hot while it runs, on the cores that serve: its figures settle later.
_WARM_UP_S: dict[ServerKind, int] = {"embedded": 2, "djl": 8}
_SMALL = ("ridge", "forest", "catboost")


def main() -> int:
    """Measure, print and write; 1 when something failed, or there was nothing to measure."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    console = Console(stderr=True)
    machine = Conditions.this()
    machine.warn_if_busy()
    with (
        tempfile.TemporaryDirectory(prefix="mme-benchmark-") as name,
        steps_of(console) as progress,
    ):
        bench = Bench(arguments, Path(name).resolve(), progress)
        results = bench.results(machine, began)
    if not results.pairs:
        console.print(f"There was nothing to measure: {dict(results.left_out)}")
        return 1
    published = _write(results, arguments, console)
    print(report.markdown(results))
    failed = any("**failed**" in why for why in results.left_out.values())
    return 1 if failed or not published else 0


class Bench:
    """One run of the benchmark.

    Parameters
    ----------
    work
        An empty folder for packages, models and what else is gone afterwards.
    """

    def __init__(self, arguments: argparse.Namespace, work: Path, progress: Progress) -> None:
        self._arguments = arguments
        self._work = work
        self._progress = progress
        self._left_out: dict[str, str] = {}
        self._servers = self._available_servers()
        self._plan = _plan(arguments, self._servers)
        self._task: TaskID = progress.add_task("", total=None)

    def results(self, machine: Conditions, began: float) -> Results:
        """Measure everything that was asked for."""
        arguments = self._arguments
        trained = [one for one in map(self._prepare, arguments.models) if one is not None]
        steps = 3 * len(self._servers) * len(trained)
        steps += bool(trained) and self._plan.checks_generator
        self._progress.update(self._task, total=steps)
        found = [self._pair(server, one) for server in self._servers for one in trained]
        return Results(
            machine=machine,
            plan=self._plan,
            subjects=tuple(one.subject for one in trained),
            pairs=tuple(pair for pair in found if pair is not None),
            generators=self._generators(trained),
            previous=published_content(report.NAME),
            left_out=self._left_out,
            seconds=time.monotonic() - began,
        )

    def _available_servers(self) -> list[ServerKind]:
        wanted: list[ServerKind] = [kind for kind in TITLES if kind in self._arguments.servers]
        reasons = {kind: servers.why_not(kind) for kind in wanted}
        self._left_out |= {TITLES[kind]: why for kind, why in reasons.items() if why}
        return [kind for kind in wanted if reasons[kind] is None]

    def _prepare(self, name: str) -> Trained | None:
        self._say(f"{name}: training")
        try:
            return subjects.prepare(name, subjects.TRAINED, self._work)
        except MissingSubjectError as error:
            self._left_out[name] = str(error)
            return None

    def _pair(self, server: ServerKind, trained: Trained) -> Pair | None:
        try:
            plain, slots = (self._run(server, trained, mode) for mode in MODES)
            in_turn = self._turns(server, trained)
        except ServerFailure as error:
            self._failed(f"{TITLES[server]}, {trained.subject.title}", error)
            return None
        comparison = answers.compare(plain.answers, slots.answers)
        self._progress.console.print(f"  answers: {comparison}")
        return Pair(plain, slots, in_turn, comparison)

    def _run(self, server: ServerKind, trained: Trained, mode: Mode) -> Run:
        name = f"{server}-{trained.subject.name}-{mode}"
        folder = self._work / f"run-{name}"
        folder.mkdir()
        head = f"{TITLES[server]}, {trained.subject.title}, {mode}"
        found = runs.run(
            server, trained, mode, self._plan, folder, lambda text: self._say(f"{head}: {text}")
        )
        shutil.rmtree(folder)
        self._progress.advance(self._task)
        at_load = ", ".join(
            f"{one.load.requests_per_second:,.0f}/s at {one.load.connections}"
            for one in found.measured
        )
        self._progress.console.print(
            f"{head}: cold {found.cold.median_ms:,.1f} ms (first {found.cold.first_ms:,.0f}), "
            f"marginal {found.memory.marginal_private / MIB:.1f} MiB, {at_load} "
            f"[{found.seconds:.0f} s]",
            markup=False,
        )
        return found

    def _turns(self, server: ServerKind, trained: Trained) -> runs.Turns:
        name = f"{server}-{trained.subject.name}-turns"
        folder = self._work / f"run-{name}"
        folder.mkdir()
        head = f"{TITLES[server]}, {trained.subject.title}"
        found = runs.take_turns(
            server, trained, self._plan, folder, lambda text: self._say(f"{head}: {text}")
        )
        shutil.rmtree(folder)
        self._progress.advance(self._task)
        self._progress.console.print(f"  1 connection, p50, slots / plain: {found.ratio:.2f}")
        return found

    def _generators(self, trained: list[Trained]) -> runs.Generators | None:
        if not trained or not self._plan.checks_generator:
            return None
        self._say("our load generator against wrk")
        folder = self._work / "run-generators"
        folder.mkdir()
        try:
            found = runs.check(trained[0], self._plan.seconds, folder)
        except ServerFailure as error:
            self._failed("load generators", error)
            return None
        self._progress.advance(self._task)
        if found is not None and found.ours_was_the_limit:
            self._progress.console.print(
                f"mme bench was the limit: {found.ratio:.2f} of what wrk asked"
            )
        return found

    def _failed(self, what: str, error: ServerFailure) -> None:
        """Go on: the others' figures are worth as much without these."""
        self._left_out[what] = f"**failed**: {error}"
        self._progress.console.print(f"{what} failed: {error}", markup=False)

    def _say(self, text: str) -> None:
        self._progress.update(self._task, description=text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", choices=subjects.NAMES, default=subjects.NAMES)
    parser.add_argument("--servers", nargs="+", choices=tuple(TITLES), default=tuple(TITLES))
    parser.add_argument("--seconds", type=int, default=3, help="of load for each measurement")
    parser.add_argument("--tool", choices=("wrk", "python"), default=None)
    parser.add_argument("--quick", action="store_true", help="few and short measurements")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="copy into docs/benchmarks, and a table into its page",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace, servers: Sequence[ServerKind]) -> Plan:
    tool: Tool | None = arguments.tool
    if arguments.quick:
        return Plan(
            1, {}, (1, 8), seconds=1, warm_up_s={}, turns=1, checks_generator=False, tool=tool
        )
    # Fifty where a load is quick and small, and of the plain engine once, of the cheapest model.
    models: dict[tuple[ServerKind, str, Mode], int] = {
        (server, name, "slots"): 50 for server in servers for name in _SMALL
    }
    if servers:
        models[servers[-1], "ridge", "plain"] = 50
    return Plan(
        10, models, (1, 8, 32), seconds=arguments.seconds, warm_up_s=_WARM_UP_S, turns=9, tool=tool
    )


def _write(results: Results, arguments: argparse.Namespace, console: Console) -> bool:
    output: Path = arguments.output
    report.write(results, output)
    if results.pairs:
        try_to_draw(lambda: report.draw(results, output), console)
    return not arguments.publish or publish(output, report.NAME, console, report.summary)


if __name__ == "__main__":
    sys.exit(main())
