"""The embedded server's figures: against DJL Serving, its own part, a hundred models at once.

In one run on one machine and in turn. Some 8 minutes; without DJL Serving, which is measured when
MMEKIT_DJL_HOME names an unpacked distribution, half of that::

    .venv/bin/python benchmarks/server.py

A try that shows only that all of it works, in half a minute::

    .venv/bin/python benchmarks/server.py --quick --servers embedded

Writes build/benchmarks/server.json, .md and .svg; --publish copies them into docs/benchmarks.
Everything runs on loopback, and is ended at the end.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reporting import Conditions, publish, try_to_draw
from rich.console import Console
from server_runs import report
from server_runs.crowd import Crowd, ask_crowd
from server_runs.duel import Bout, Effort, fight
from server_runs.overhead import Overhead, measure_overhead
from server_runs.report import Results
from slot_runs import servers, subjects
from slot_runs.servers import TITLES, ServerFailure
from slot_runs.subjects import MODES, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from slot_runs.servers import ServerKind
    from slot_runs.subjects import Trained

PARTS = ("duel", "overhead", "crowd")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes
    ----------
    blocks
        Hundreds of requests, for what the front adds.
    models, connections, crowd_s, crowd_warm_up_s
        Of the crowd.
    """

    effort: Effort
    blocks: int
    models: int
    connections: int
    crowd_s: int
    crowd_warm_up_s: int


def main() -> int:
    """Measure, print and write; 1 when something failed or missed its target."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console(stderr=True)
    machine = Conditions.this()
    machine.warn_if_busy()
    with (
        tempfile.TemporaryDirectory(prefix="mme-benchmark-") as name,
        console.status("training") as status,
    ):
        bench = Bench(arguments, Path(name).resolve(), status.update)
        results = bench.results(machine)
    _write(results, arguments, console)
    print(report.markdown(results))
    met = all(one.met for one in results.outcomes)
    failed = any("**failed**" in why for why in results.left_out.values())
    return 1 if failed or not (met or arguments.quick) else 0


class Bench:
    """One run of the benchmark.

    Parameters
    ----------
    work
        An empty folder for packages, models and what else is gone afterwards.
    say
        Is told what is being done.
    """

    def __init__(
        self, arguments: argparse.Namespace, work: Path, say: Callable[[str], None]
    ) -> None:
        self._arguments = arguments
        self._work = work
        self._say = say
        self._plan = _plan(arguments)
        self._left_out: dict[str, str] = {}

    def results(self, machine: Conditions) -> Results:
        """Measure everything that was asked for."""
        began = time.monotonic()
        trained = subjects.prepare("ridge", subjects.TRAINED, self._work)
        return Results(
            machine=machine,
            bouts=tuple(self._duels(trained)),
            overhead=self._overhead(),
            crowd=self._crowd(trained),
            left_out=self._left_out,
            seconds=time.monotonic() - began,
        )

    def _duels(self, trained: Trained) -> list[Bout]:
        found: list[Bout] = []
        if "duel" not in self._arguments.parts:
            return found
        kinds = self._available()
        for mode in MODES:
            try:
                found += fight(
                    kinds, mode, trained, self._plan.effort, self._folder(mode), self._say
                )
            except ServerFailure as error:
                self._left_out[mode] = f"**failed**: {error}"
        return found

    def _available(self) -> list[ServerKind]:
        wanted: list[ServerKind] = [kind for kind in TITLES if kind in self._arguments.servers]
        reasons = {kind: servers.why_not(kind) for kind in wanted}
        self._left_out |= {TITLES[kind]: why for kind, why in reasons.items() if why}
        return [kind for kind in wanted if reasons[kind] is None]

    def _overhead(self) -> Overhead | None:
        if "overhead" not in self._arguments.parts:
            return None
        self._say("what the front adds")
        try:
            return measure_overhead(self._plan.blocks, self._folder("overhead"))
        except ServerFailure as error:
            self._left_out["what the front adds"] = f"**failed**: {error}"
            return None

    def _crowd(self, trained: Trained) -> Crowd | None:
        plan = self._plan
        if "crowd" not in self._arguments.parts:
            return None
        try:
            return ask_crowd(
                trained,
                plan.models,
                plan.connections,
                plan.crowd_s,
                plan.crowd_warm_up_s,
                self._folder("crowd"),
                lambda text: self._say(f"{plan.models} models: {text}"),
            )
        except ServerFailure as error:
            self._left_out[f"{plan.models} models"] = f"**failed**: {error}"
            return None

    def _folder(self, name: str) -> Path:
        folder = self._work / f"run-{name}"
        folder.mkdir()
        return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--servers", nargs="+", choices=tuple(TITLES), default=tuple(TITLES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tool", choices=("wrk", "python"), default=None)
    parser.add_argument("--quick", action="store_true", help="few and short measurements")
    parser.add_argument("--publish", action="store_true", help="copy into docs/benchmarks")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> Plan:
    tool = arguments.tool
    if arguments.quick:
        return Plan(Effort((1, 8), 1, 1, 1, tool), 5, 10, 16, 3, 1)
    return Plan(Effort((1, 8, 32), 3, 5, 8, tool), 100, 100, 64, 60, 10)


def _write(results: Results, arguments: argparse.Namespace, console: Console) -> None:
    output: Path = arguments.output
    report.write(results, output)
    if results.bouts:
        try_to_draw(lambda: report.draw(results, output), console)
    if arguments.publish:
        publish(output, report.NAME, console)


if __name__ == "__main__":
    sys.exit(main())
