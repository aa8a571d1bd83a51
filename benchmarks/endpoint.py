"""The local endpoint measured: what it adds, a thousand models, failures, serverless.

In one run, on loopback, side by side where it compares. Some 15 minutes::

    .venv/bin/python benchmarks/endpoint.py

A try that shows only that all of it works, in a minute or two::

    .venv/bin/python benchmarks/endpoint.py --quick

Writes build/benchmarks/endpoint.json, .md and .svg; --publish copies them into docs/benchmarks.
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

from endpoint_runs import events, report
from endpoint_runs.crowd import run_crowds
from endpoint_runs.overhead import measure_overhead
from endpoint_runs.report import Results
from reporting import Conditions, publish, steps_of, try_to_draw
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rich.progress import Progress, TaskID

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("overhead", "crowd", "together", "killed", "serverless")


def main() -> int:
    """Measure, print and write; 1 when a part failed or a target was missed."""
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
        results = Bench(arguments, Path(name).resolve(), progress).results(machine, began)
    _write(results, arguments, console)
    print(report.markdown(results))
    met = all(one.met for one in report.outcomes(results))
    return 0 if met and not results.left_out else 1


class Bench:
    """One run of the benchmark.

    Parameters
    ----------
    work
        An empty folder for archives, logs and what else is gone afterwards.
    """

    def __init__(self, arguments: argparse.Namespace, work: Path, progress: Progress) -> None:
        self._arguments = arguments
        self._work = work
        self._progress = progress
        self._left_out: dict[str, str] = {}
        self._task: TaskID = progress.add_task("", total=len(arguments.parts))

    def results(self, machine: Conditions, began: float) -> Results:
        """Measure everything that was asked for."""
        given = self._arguments
        quick = given.quick
        return Results(
            machine=machine,
            overheads=tuple(
                self._part(
                    "overhead",
                    lambda work: measure_overhead(
                        work,
                        connections=(1, 8) if quick else (1, 8, 32),
                        seconds=1 if quick else given.load_seconds,
                        rounds=1 if quick else 5,
                        say=self._say,
                    ),
                )
                or ()
            ),
            crowds=tuple(
                self._part(
                    "crowd",
                    lambda work: list(
                        run_crowds(
                            work,
                            count=40 if quick else given.models,
                            fitting=24 if quick else given.fitting,
                            seconds=5 if quick else given.seconds,
                            rates={"Zipf": given.zipf_rate, "uniform": given.uniform_rate},
                            say=self._say,
                        )
                    ),
                )
                or ()
            ),
            together=self._part("together", lambda work: events.first_calls(work, 64)),
            killed=self._part(
                "killed", lambda work: events.kill_one(work, 8 if quick else 16, 1 if quick else 5)
            ),
            serverless=self._part("serverless", lambda work: events.serverless(work, 150, 160)),
            left_out=self._left_out,
            seconds=time.monotonic() - began,
        )

    def _part(self, name: str, measure: Callable[[Path], Any]) -> Any:
        if name not in self._arguments.parts:
            return None
        self._say(name)
        work = self._work / name
        work.mkdir()
        try:
            return measure(work)
        except Exception as error:  # noqa: BLE001  the other parts are worth as much without it
            logs = sorted(work.glob("service-*.log"))
            said = logs[-1].read_text(errors="replace")[-2000:] if logs else ""
            self._progress.console.print(f"{name} failed: {error}\n{said}", markup=False)
            self._left_out[name] = f"**failed**: {type(error).__name__}: {error}"
            return None
        finally:
            shutil.rmtree(work, ignore_errors=True)
            self._progress.advance(self._task)

    def _say(self, text: str) -> None:
        self._progress.update(self._task, description=text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="few and short measurements")
    parser.add_argument("--load-seconds", type=int, default=5, help="of each closed-loop load")
    parser.add_argument("--seconds", type=float, default=300, help="of each kind of arrivals")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--fitting", type=int, default=300, help="models that fit into memory")
    parser.add_argument("--zipf-rate", type=float, default=50, help="arrivals a second")
    parser.add_argument("--uniform-rate", type=float, default=20, help="likewise")
    parser.add_argument("--publish", action="store_true", help="copy into docs/benchmarks")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    return parser.parse_args()


def _write(results: Results, arguments: argparse.Namespace, console: Console) -> None:
    output: Path = arguments.output
    report.write(results, output)
    if results.overheads or results.crowds:
        try_to_draw(lambda: report.draw(results, output), console)
    if arguments.publish:
        publish(output, report.NAME, console)


if __name__ == "__main__":
    sys.exit(main())
