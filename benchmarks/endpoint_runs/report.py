"""The results as tables, as JSON and as a picture, and which targets were reached."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from reporting import table

from endpoint_runs.crowd import PERCENTILES
from endpoint_runs.models import CLASSES
from endpoint_runs.overhead import MODES
from mmekit_bench.plot import figure_written_to

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from reporting import Conditions

    from endpoint_runs.crowd import Crowd
    from endpoint_runs.events import Killed, Serverless, Together
    from endpoint_runs.overhead import Overhead

NAME = "endpoint"
_AT = 8
_MOST_P50_MS, _MOST_P99_MS, _LEAST_RATIO = 0.5, 2.0, 0.6
_POINTS = 2.0
_STRENGTH_S = 5.0
_MET = {True: "yes", False: "**no**"}
_HEADERS = tuple(f"p{share:g}" for share in PERCENTILES)


@dataclass(frozen=True)
class Results:
    """All that one run of the benchmark found.

    Attributes
    ----------
    left_out
        What was not measured, and why.
    """

    machine: Conditions
    overheads: tuple[Overhead, ...]
    crowds: tuple[Crowd, ...]
    together: Together | None
    killed: Killed | None
    serverless: Serverless | None
    left_out: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A target and what was reached."""

    what: str
    target: str
    reached: str
    met: bool


def outcomes(results: Results) -> list[Outcome]:
    """Return every target that was measured."""
    found = [one for overhead in results.overheads for one in _of_overhead(overhead)]
    found += [one for crowd in results.crowds for one in _of_crowd(crowd)]
    if results.together is not None:
        one = results.together
        found.append(
            Outcome(
                f"{one.calls} first calls at once",
                f"{one.calls} answers, 1 download, 1 load",
                f"{one.answers} answers, {one.downloads:g} downloads, {one.loads:g} loads",
                (one.answers, one.downloads, one.loads) == (one.calls, 1, 1),
            )
        )
    if results.killed is not None:
        found += _of_killed(results.killed)
    if results.serverless is not None:
        found += _of_serverless(results.serverless)
    return found


def _of_overhead(one: Overhead) -> list[Outcome]:
    name = f"{MODES[one.mode]}, {one.connections} connections"
    found = [
        Outcome(
            f"throughput, {name}",
            f"at least {_LEAST_RATIO} of the container's",
            f"{one.ratio:.2f}",
            one.ratio >= _LEAST_RATIO,
        )
    ]
    if one.connections == _AT:
        found += [
            Outcome(f"added to {share}, {name}", f"at most {most} ms", f"{added:.2f} ms", met)
            for share, most, added, met in (
                ("p50", _MOST_P50_MS, one.added_p50_ms, one.added_p50_ms <= _MOST_P50_MS),
                ("p99", _MOST_P99_MS, one.added_p99_ms, one.added_p99_ms <= _MOST_P99_MS),
            )
        ]
    return found


def _of_crowd(one: Crowd) -> list[Outcome]:
    name = f"{one.models:,} models, {one.traffic}"
    apart = 100 * (one.ideal_hit_rate - one.hit_rate)
    return [
        Outcome(f"errors, {name}", "0", f"{one.errors} of {one.requests:,}", one.errors == 0),
        Outcome(
            f"cache hits, {name}",
            f"within {_POINTS:g} points of an ideal LRU",
            f"{100 * one.hit_rate:.1f} % against {100 * one.ideal_hit_rate:.1f} %",
            apart <= _POINTS,
        ),
    ]


def _of_killed(one: Killed) -> list[Outcome]:
    failed = sum(one.failed.values())
    strength = one.strength_s
    return [
        Outcome(
            "kill -9 of one of two instances: requests that fail",
            f"at most {one.in_flight}, what was in flight",
            f"{failed} of {one.requests:,}{_listed(one.failed)}",
            failed <= one.in_flight,
        ),
        Outcome(
            "back to two instances",
            f"within {_STRENGTH_S:g} s",
            "never" if strength is None else f"{strength:.1f} s",
            strength is not None and strength <= _STRENGTH_S,
        ),
    ]


def _of_serverless(one: Serverless) -> list[Outcome]:
    name = f"serverless, MaxConcurrency {one.concurrency}, {one.clients} clients"
    surplus = one.clients - one.concurrency
    exactly = {"200": one.concurrency, "ThrottlingException": surplus}
    return [
        Outcome(
            f"{name}, no retries",
            f"{one.concurrency} answers, {surplus} ThrottlingException",
            _listed(one.without_retries).strip(" ()"),
            one.without_retries == exactly,
        ),
        Outcome(
            f"{name}, 100 attempts",
            f"{one.clients} answers",
            _listed(one.with_retries).strip(" ()"),
            one.with_retries == {"200": one.clients},
        ),
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{what}: {count}' for what, count in counts.items())})" if counts else ""


def write(results: Results, folder: Path) -> None:
    """Write endpoint.json and endpoint.md."""
    folder.mkdir(parents=True, exist_ok=True)
    content = asdict(results) | {"outcomes": [asdict(one) for one in outcomes(results)]}
    (folder / f"{NAME}.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / f"{NAME}.md").write_text(markdown(results))


def markdown(results: Results) -> str:
    """Return all tables."""
    machine = results.machine
    lines = [
        "# The local endpoint",
        "",
        (
            f"One run of `benchmarks/endpoint.py` on {machine}, {machine.busy_percent:.0f} % busy "
            f"with other things when it began. It took {results.seconds / 60:.1f} minutes. Load, "
            "endpoint and containers share the cores."
        ),
        "",
    ]
    if results.overheads or results.crowds:
        lines += [f"![What the tables say]({NAME}.svg)", ""]
    rows = [(one.what, one.target, one.reached, _MET[one.met]) for one in outcomes(results)]
    lines += ["## To reach", "", table(("", "target", "reached", "met"), (), rows)]
    lines += _overheads(results.overheads)
    lines += _crowds(results.crowds)
    if results.left_out:
        lines += ["## Not measured", ""]
        lines += [f"- {what}: {why}" for what, why in results.left_out.items()]
        lines += [""]
    return "\n".join(lines)


def _overheads(overheads: Sequence[Overhead]) -> list[str]:
    if not overheads:
        return []
    rows = []
    for one in overheads:
        for what, load in (("container", one.container), ("endpoint", one.endpoint)):
            rows.append(
                (
                    MODES[one.mode],
                    one.connections,
                    what,
                    f"{load.requests_per_second:,.0f}",
                    f"{load.p50_ms:.2f}",
                    f"{load.p99_ms:.2f}",
                    load.errors,
                    f"{one.cpu_us:.0f}" if what == "endpoint" else "",
                )
            )
    tool = overheads[0].container.tool
    return [
        "## The endpoint against its container",
        "",
        (
            f"A ridge regression, asked by {tool} at the container's own port and through the "
            "endpoint in turn; of several rounds the one with the middle ratio. Milliseconds."
        ),
        "",
        table(
            ("", "connections", "", "requests/s", "p50", "p99", "errors", "endpoint's CPU, us"),
            (),
            rows,
        ),
    ]


def _crowds(crowds: Sequence[Crowd]) -> list[str]:
    if not crowds:
        return []
    first = crowds[0]
    rows = [
        (
            one.traffic,
            f"{one.rate:g}",
            f"{one.requests:,}",
            f"{one.fitted:g}",
            f"{one.loads:,.0f}",
            f"{100 * one.warm_rate:.1f} %",
            kind,
            f"{share:.1f}",
            *(f"{value:,.1f}" for value in values),
        )
        for one in crowds
        for kind, share, values in (
            ("warm", 100 * (1 - one.cold / one.requests), one.warm_ms),
            ("cold", 100 * one.cold / one.requests, one.cold_ms),
        )
    ]
    names = (
        "",
        "arrivals/s",
        "requests",
        "in memory",
        "loads",
        "ModelCacheHit",
        "",
        "%",
        *_HEADERS,
    )
    return [
        f"## {first.models:,} models of four classes, two instances",
        "",
        (
            f"Classes: {', '.join(CLASSES)}, with worker slots. Each container may "
            f"take {first.memory_mib:,.0f} MiB. Arrivals at a fixed rate for {first.seconds:g} s, "
            "whatever is still unanswered; response times in milliseconds from when a request was "
            "due. Cold is whoever waited for a load. *In memory* is the median number of models on "
            "both instances, and the capacity of the ideal LRU, which is one cache over both, and "
            "whose loads take no time: a hit is whatever needed no load of its own."
        ),
        "",
        table(names, (), rows),
    ]


_CONTAINER, _ENDPOINT = "#9a9fa6", "#0969da"
_WIDTH = 0.38


def draw(results: Results, folder: Path) -> None:
    """Write endpoint.svg.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    panels = (1 if results.overheads else 0) + len(results.crowds)
    with figure_written_to(folder / f"{NAME}.svg", (4.5 * panels, 3.6)) as figure:
        axes = figure.subplots(1, panels, squeeze=False)
        row = list(axes[0])
        if results.overheads:
            _throughput(row.pop(0), results.overheads)
        for panel, crowd in zip(row, results.crowds, strict=True):
            _response_times(panel, crowd)


def _throughput(axes: Any, overheads: Sequence[Overhead]) -> None:
    places = range(len(overheads))
    for offset, colour, name in (
        (-_WIDTH / 2, _CONTAINER, "container"),
        (_WIDTH / 2, _ENDPOINT, "endpoint"),
    ):
        heights = [getattr(one, name).requests_per_second for one in overheads]
        axes.bar([place + offset for place in places], heights, _WIDTH, color=colour, label=name)
    labels = [f"{MODES[one.mode].split(',')[0]}\n{one.connections}" for one in overheads]
    axes.set_xticks(list(places), labels, fontsize=7)
    axes.set_title("requests/s by connections (more is better)")


def _response_times(axes: Any, crowd: Crowd) -> None:
    seconds = [start for start, _, _ in crowd.slices]
    for values, colour, label in (
        ([p50 for _, p50, _ in crowd.slices], _CONTAINER, "p50"),
        ([p99 for _, _, p99 in crowd.slices], _ENDPOINT, "p99"),
    ):
        axes.plot(seconds, values, color=colour, label=label, linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("seconds")
    axes.set_title(f"{crowd.models:,} models, {crowd.traffic}, {crowd.rate:g}/s: ms")
