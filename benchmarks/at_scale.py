"""Worker slots at scale: a handler that waits, parked models, very many models, a small container.

On the embedded server, and on the real DJL Serving when MMEKIT_DJL_HOME names an unpacked
distribution. Some 40 minutes with both::

    .venv/bin/python benchmarks/at_scale.py

A part, or a try that shows only that all of it works::

    .venv/bin/python benchmarks/at_scale.py --parts waiting parked
    .venv/bin/python benchmarks/at_scale.py --quick --servers embedded

What is found is written after each part. A run that adds to that of an earlier one::

    .venv/bin/python benchmarks/at_scale.py --resume --parts crowd container --publish

Writes build/benchmarks/at_scale.json and .md; --publish copies them into docs/benchmarks, and a
table into docs/benchmarks.md. Everything runs on loopback, and is ended at the end.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reporting import Conditions, publish, steps_of
from rich.console import Console
from slot_runs import container, crowd, parked, scale, servers, subjects, waiting
from slot_runs.container import NoControlGroupError
from slot_runs.scale import Results, Scale, summary
from slot_runs.servers import TITLES, ServerFailure, ServerKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from rich.progress import Progress, TaskID

    _Found = TypeVar("_Found")

PARTS = ("waiting", "parked", "crowd", "container")
_PARKED, _CROWD, _CONTAINED, _MINUTES, _SECONDS = 200, 3000, 2000, 10.0, 3
_QUICK = {"parked": 20, "crowd": 20, "contained": 20, "minutes": 0.1, "seconds": 1}


def main() -> int:
    """Measure, print and write; 1 when something failed, or there was nothing to measure."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    console = Console(stderr=True)
    machine = Conditions.this()
    machine.warn_if_busy()
    former = scale.read(arguments.output) if arguments.resume else None
    with (
        tempfile.TemporaryDirectory(prefix="mme-benchmark-") as name,
        steps_of(console) as progress,
    ):
        bench = Bench(arguments, Path(name).resolve(), progress)

        def keep(found: Scale) -> None:
            now = Results(machine, found, bench.left_out, time.monotonic() - began)
            scale.write(now if former is None else former.with_more(now), arguments.output)

        bench.run(keep)
    results = scale.read(arguments.output)
    if results is None or not results.scale:
        console.print(f"There was nothing to measure: {bench.left_out}")
        return 1
    print(scale.markdown(results))
    published = not arguments.publish or publish(arguments.output, scale.NAME, console, summary)
    return 0 if published and not bench.has_failed else 1


class Bench:
    """One run of the benchmark.

    Parameters
    ----------
    work
        An empty folder for packages, models and what else is gone afterwards.

    Attributes
    ----------
    left_out
        What was not measured, and why.
    has_failed
        Whether that was a failure.
    """

    def __init__(self, arguments: argparse.Namespace, work: Path, progress: Progress) -> None:
        self.left_out: dict[str, str] = {}
        self.has_failed = False
        self._arguments = arguments
        self._work = work
        self._progress = progress
        wanted: list[ServerKind] = [kind for kind in TITLES if kind in arguments.servers]
        reasons = {kind: servers.why_not(kind) for kind in wanted}
        self.left_out |= {TITLES[kind]: why for kind, why in reasons.items() if why}
        self._servers = [kind for kind in wanted if reasons[kind] is None]
        steps = len(self._servers) * len({*arguments.parts} - {"container"})
        steps += "container" in arguments.parts
        self._task: TaskID = progress.add_task("", total=steps)

    def run(self, keep: Callable[[Scale], None]) -> None:
        """Measure everything that was asked for; ``keep`` gets all of it after each part."""
        arguments, sizes = self._arguments, self._sizes()
        ridge = subjects.prepare("ridge", subjects.TRAINED, self._work)
        compare = partial(
            waiting.compare,
            trained=waiting.prepare(self._work),
            seconds=int(sizes["seconds"]),
            tool=arguments.tool,
        )
        measure = partial(parked.measure, trained=ridge, models=int(sizes["parked"]))
        load = partial(crowd.load_many, trained=ridge, most=int(sizes["crowd"]))
        serve = partial(
            container.serve, trained=ridge, count=int(sizes["contained"]), minutes=sizes["minutes"]
        )
        # A container is what DJL Serving runs in, where there is one.
        last = self._servers[-1:]
        found = Scale()
        keep(found)
        keep(found := replace(found, waiting=self._each("waiting", compare, self._servers)))
        keep(found := replace(found, parked=self._each("parked", measure, self._servers)))
        keep(found := replace(found, crowds=self._each("crowd", load, self._servers)))
        contained = next(iter(self._each("container", serve, last)), None)
        keep(replace(found, container=contained))

    def _sizes(self) -> dict[str, float]:
        if self._arguments.quick:
            return dict(_QUICK)
        return {
            "parked": _PARKED,
            "crowd": self._arguments.models,
            "contained": _CONTAINED,
            "minutes": self._arguments.minutes,
            "seconds": _SECONDS,
        }

    def _each(
        self,
        part: str,
        measure: Callable[[ServerKind, Path, Callable[[str], None]], _Found],
        kinds: Sequence[ServerKind],
    ) -> tuple[_Found, ...]:
        """Measure on each server; the others' figures are worth as much without one that failed."""
        if part not in self._arguments.parts:
            return ()
        results = []
        for kind in kinds:
            title = f"{part}, {TITLES[kind]}"
            folder = self._work / f"run-{part}-{kind}"
            folder.mkdir()
            try:
                results.append(measure(kind, folder, partial(self._say, title)))
            except ServerFailure as error:
                self.left_out[title] = f"**failed**: {error}"
                self.has_failed = True
                self._progress.console.print(f"{title} failed: {error}", markup=False)
            except NoControlGroupError as error:
                self.left_out[title] = str(error)
            self._progress.advance(self._task)
            shutil.rmtree(folder, ignore_errors=True)
        return tuple(results)

    def _say(self, title: str, text: str) -> None:
        self._progress.update(self._task, description=f"{title}: {text}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--servers", nargs="+", choices=tuple(TITLES), default=tuple(TITLES))
    parser.add_argument("--models", type=int, default=_CROWD, help="that are loaded at once")
    parser.add_argument(
        "--minutes", type=float, default=_MINUTES, help="that models in a container are asked"
    )
    parser.add_argument("--tool", choices=("wrk", "python"), default=None)
    parser.add_argument(
        "--resume", action="store_true", help="keep what earlier runs have found, and add to it"
    )
    parser.add_argument("--quick", action="store_true", help="few models and short loads")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="copy into docs/benchmarks, and a table into its page",
    )
    parser.add_argument("--output", type=Path, default=subjects.ROOT / "build" / "benchmarks")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
