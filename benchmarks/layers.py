"""Layers: what one more customer costs with them, without them, and on the plain engine.

SetFit customers that share a sentence model, on the embedded server and on the real DJL Serving
(when MMEKIT_DJL_HOME names an unpacked distribution), hundreds and thousands of them, their first
call on the local endpoint; CatBoost in a container that lacks it; and models without layers, packed
by the code before layers and by this. Some 20 minutes::

    .venv/bin/python benchmarks/layers.py

A part, or a try that shows only that all of it works::

    .venv/bin/python benchmarks/layers.py --parts one-more first-call
    .venv/bin/python benchmarks/layers.py --quick

Needs what ``make demo`` leaves, and git, for the code before layers. Writes
build/benchmarks/layers.json, .md and .svg; --publish copies them into docs/benchmarks. Everything
runs on loopback (pip and uv ask their index), and is ended at the end.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layer_runs import first_call, former, libraries, many, one_more, report, unchanged
from layer_runs.customers import Customers
from layer_runs.one_more import Sizes
from layer_runs.report import Results
from reporting import Conditions, publish, steps_of, try_to_draw
from rich.console import Console
from slot_runs import servers, subjects
from slot_runs.servers import TITLES, ServerKind
from slot_runs.subjects import ROOT, MissingSubjectError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from layer_runs.former import Code
    from rich.progress import Progress, TaskID

    _Found = TypeVar("_Found")

PARTS = ("one-more", "many", "first-call", "libraries", "unchanged")

_SAID = 600
"""Characters of a failure that a report tells."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes
    ----------
    at_once, parked
        Customers; the latter on the embedded server alone.
    calls
        First calls of each form, after the very first.
    rounds
        New containers for each way to have CatBoost.
    loads, turns
        Of each archive of a model without layers.
    """

    sizes: Sizes
    at_once: int
    parked: int
    calls: int
    rounds: int
    loads: int
    turns: int


_WHOLE = Plan(Sizes(), at_once=200, parked=2000, calls=10, rounds=2, loads=10, turns=5)
_QUICK = Plan(
    Sizes(loads=3, plain=1, compared=2, requests=4),
    at_once=10,
    parked=20,
    calls=3,
    rounds=1,
    loads=3,
    turns=1,
)


def main() -> int:
    """Measure, print and write; 1 when a part failed or a target was missed."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console(stderr=True)
    machine = Conditions.this()
    machine.warn_if_busy()
    with (
        tempfile.TemporaryDirectory(prefix="mme-benchmark-") as name,
        steps_of(console) as progress,
    ):
        bench = Bench(arguments, Path(name).resolve(), progress, machine)
        results = bench.results()
    print(report.markdown(results))
    try_to_draw(lambda: report.draw(results, arguments.output), console)
    if arguments.publish:
        publish(arguments.output, report.NAME, console)
    missed = any(one.met is False for one in results.outcomes)
    return 1 if missed or bench.has_failed or not results.outcomes else 0


class Bench:
    """One run of the benchmark.

    Parameters
    ----------
    work
        An empty folder for archives, models and what else is gone afterwards.

    Attributes
    ----------
    has_failed
        Whether a part could not be measured, although all is here that it needs.
    """

    def __init__(
        self, arguments: argparse.Namespace, work: Path, progress: Progress, machine: Conditions
    ) -> None:
        self.has_failed = False
        self._arguments = arguments
        self._plan = _QUICK if arguments.quick else _WHOLE
        self._work = work
        self._progress = progress
        self._began = time.monotonic()
        self._left_out: dict[str, str] = {}
        self._kinds = self._available_servers()
        self._task: TaskID = progress.add_task("", total=None)
        self._results = Results(machine)

    def results(self) -> Results:
        """Measure everything that was asked for; what is found is written after each step."""
        try:
            code = former.code_of(self._arguments.before, self._work / "former")
        except former.NoFormerCodeError as error:
            self._left_out["everything"] = f"**failed**: no code before layers: {error}"
            self.has_failed = True
            self._keep()
            return self._results
        parts: set[str] = set(self._arguments.parts)
        if parts & {"one-more", "many", "first-call"}:
            self._of_setfit(code, parts)
        if "libraries" in parts:
            self._of_libraries(code)
        if "unchanged" in parts:
            self._of_unchanged(code)
        return self._results

    def _of_setfit(self, code: Code, parts: set[str]) -> None:
        work = self._work / "customers"
        work.mkdir()
        try:
            customers = Customers(code, work, partial(self._say, "SetFit"))
        except MissingSubjectError as error:
            self._left_out["SetFit"] = str(error)
            return
        plan = self._plan
        for kind in self._kinds if "one-more" in parts else ():
            measure = partial(one_more.measure, kind, customers=customers, sizes=plan.sizes)
            found = self._step(f"one more customer, {TITLES[kind]}", measure)
            if found is not None:
                self._keep(replace(self._results, one_more=(*self._results.one_more, found)))
        if "first-call" in parts:
            call = partial(first_call.measure, customers=customers, count=plan.calls)
            calls = self._step("first calls", call)
            self._keep(replace(self._results, first_calls=calls or ()))
        crowds = [(kind, plan.at_once, False) for kind in self._kinds]
        crowds += [(kind, plan.parked, True) for kind in self._kinds if kind == "embedded"]
        for kind, count, parked in crowds if "many" in parts else ():
            gather = partial(many.measure, kind, customers=customers, count=count, parked=parked)
            crowd = self._step(f"{count:,} customers, {TITLES[kind]}", gather)
            if crowd is not None:
                self._keep(replace(self._results, many=(*self._results.many, crowd)))
        shutil.rmtree(work, ignore_errors=True)

    def _of_libraries(self, code: Code) -> None:
        title = "CatBoost in a container without it"
        if "djl" not in self._kinds:
            self._left_out[title] = "it is measured on DJL Serving, where pip runs"
            return
        found = self._step(title, partial(libraries.measure, former=code, rounds=self._plan.rounds))
        self._keep(replace(self._results, libraries=found or ()))

    def _of_unchanged(self, code: Code) -> None:
        trained = {}
        for name in unchanged.NAMES:
            try:
                trained[name] = subjects.prepare(name, subjects.TRAINED, self._work)
            except MissingSubjectError as error:
                self._left_out[name] = str(error)
        archives = unchanged.Archives(code, self._work / "archives")
        for kind in self._kinds:
            compare = partial(
                unchanged.compare,
                kind,
                trained=trained,
                archives=archives,
                loads=self._plan.loads,
                turns=self._plan.turns,
                tool=self._arguments.tool,
            )
            found = self._step(f"models without layers, {TITLES[kind]}", compare)
            self._keep(replace(self._results, unchanged=(*self._results.unchanged, *(found or ()))))

    def _available_servers(self) -> list[ServerKind]:
        wanted: list[ServerKind] = [kind for kind in TITLES if kind in self._arguments.servers]
        reasons = {kind: servers.why_not(kind) for kind in wanted}
        self._left_out |= {TITLES[kind]: why for kind, why in reasons.items() if why}
        return [kind for kind in wanted if reasons[kind] is None]

    def _step(
        self, title: str, measure: Callable[[Path, Callable[[str], None]], _Found]
    ) -> _Found | None:
        """Measure; None when that failed: the others' figures are worth as much without it."""
        began = time.monotonic()
        # A short name, as sockets lie below it.
        folder = self._work / "step"
        folder.mkdir()
        try:
            return measure(folder, partial(self._say, title))
        except Exception as error:  # noqa: BLE001  the other parts are worth as much without it
            self._left_out[title] = f"**failed**: {' '.join(str(error).split())[:_SAID]}"
            self.has_failed = True
            said = "".join(traceback.format_exception(error))
            self._progress.console.print(f"{title} failed: {said}", markup=False)
            self._keep()
            return None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            seconds = time.monotonic() - began
            self._progress.console.print(f"{title} [{seconds:.0f} s]", markup=False)

    def _keep(self, results: Results | None = None) -> None:
        seconds = time.monotonic() - self._began
        self._results = replace(
            results or self._results, left_out=dict(self._left_out), seconds=seconds
        )
        report.write(self._results, self._arguments.output)

    def _say(self, title: str, text: str) -> None:
        self._progress.update(self._task, description=f"{title}: {text}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--servers", nargs="+", choices=tuple(TITLES), default=tuple(TITLES))
    parser.add_argument("--before", default=former.BEFORE, help="the commit before layers")
    parser.add_argument("--tool", choices=("wrk", "python"), default=None)
    parser.add_argument("--quick", action="store_true", help="few and short measurements")
    parser.add_argument("--publish", action="store_true", help="copy into docs/benchmarks")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
