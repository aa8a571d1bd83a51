"""The results as tables, as JSON and as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from reporting import Conditions, milliseconds, table
from slot_runs.servers import TITLES as SERVERS
from slot_runs.targets import MIB

from layer_runs.customers import TITLES
from layer_runs.targets import Outcome, judge
from mmekit_bench.plot import figure_written_to

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from layer_runs.first_call import FirstCall
    from layer_runs.libraries import Libraries
    from layer_runs.many import Many
    from layer_runs.one_more import Found
    from layer_runs.unchanged import Unchanged

NAME = "layers"
_MET = {True: "yes", False: "**no**", None: ""}
_ABOUT_ONE_MORE = (
    "Customers of all forms on one server, loaded in turn: each has the same sentence model and a "
    "head of its own. The very first of a form brings in libraries and body. Memory is the mean of "
    "those after it, when each has answered, of all processes that belong to a model. Without "
    "layers, and on the plain engine, they are packed by the code of the commit before layers."
)
_ABOUT_CALLS = (
    "Download, unpack, load and answer, seen from boto3 at `mme up`; customers of all forms on one "
    "endpoint, in turn. The very first of a form brings in libraries and layers."
)
_ABOUT_LIBRARIES = (
    "The real DJL Serving, whose workers run in a Python environment with what the image's table "
    "has. Each round has a new one, and a new server: the first load is that of a new instance. "
    "pip runs at each load; after the first it finds everything installed."
)
_ABOUT_UNCHANGED = (
    "Packed by the code before layers (*before*) and by this code (*now*), loaded into one server "
    "in turn. Medians; memory is the mean."
)


@dataclass(frozen=True)
class Results:
    """All that one run of the benchmark found; what was not asked for is empty.

    Attributes
    ----------
    left_out
        What was not measured, and why.
    """

    machine: Conditions
    one_more: tuple[Found, ...] = ()
    many: tuple[Many, ...] = ()
    first_calls: tuple[FirstCall, ...] = ()
    libraries: tuple[Libraries, ...] = ()
    unchanged: tuple[Unchanged, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def outcomes(self) -> list[Outcome]:
        """What is to be reached, and what was."""
        forms = [one for found in self.one_more for one in found.forms]
        answers = [one for found in self.one_more for one in found.answers]
        return judge(forms, answers, self.many, self.first_calls, self.libraries, self.unchanged)


def write(results: Results, folder: Path) -> None:
    """Write layers.json and layers.md."""
    folder.mkdir(parents=True, exist_ok=True)
    content = asdict(results) | {"outcomes": [asdict(one) for one in results.outcomes]}
    (folder / f"{NAME}.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / f"{NAME}.md").write_text(markdown(results))


def markdown(results: Results) -> str:
    """Return all tables."""
    machine = results.machine
    lines = [
        "# Layers",
        "",
        (
            f"One run of `benchmarks/layers.py` on {machine}, {machine.busy_percent:.0f} % busy "
            f"with other things when it began. It took {results.seconds / 60:.1f} minutes."
        ),
        "",
        f"![What the tables say]({NAME}.svg)",
        "",
    ]
    rows = [(one.what, one.target, one.reached, _MET[one.met]) for one in results.outcomes]
    lines += ["## To reach", "", table(("", "target", "reached", "met"), (), rows)]
    lines += _one_more(results.one_more)
    lines += _many(results.many)
    lines += _first_calls(results.first_calls)
    lines += _libraries(results.libraries)
    lines += _unchanged(results.unchanged)
    if results.left_out:
        lines += ["## Not measured", ""]
        lines += [f"- {what}: {why}" for what, why in results.left_out.items()]
        lines += [""]
    return "\n".join(lines)


def _one_more(found: Sequence[Found]) -> list[str]:
    if not found:
        return []
    rows = [
        (
            SERVERS[one.server],
            TITLES[one.form],
            milliseconds(one.first_ms),
            *_spread(one.loads_ms, one.median_ms),
            len(one.loads_ms),
            f"{one.private / MIB:.1f} MiB",
            f"{one.proportional / MIB:.1f} MiB",
        )
        for of_server in found
        for one in of_server.forms
    ]
    figures = ("very first", "median", "fastest", "slowest", "of", "private", "proportional")
    texts = ("server", "")
    return [
        *("## SetFit: cold load and memory of one more customer", "", _ABOUT_ONE_MORE, ""),
        table(texts, figures, rows),
    ]


def _spread(values: Sequence[float], median: float) -> tuple[str, str, str]:
    return milliseconds(median), milliseconds(min(values)), milliseconds(max(values))


def _many(many: Sequence[Many]) -> list[str]:
    lines = []
    for one in many:
        later = (
            f"{one.asked_later:,} of them woken in {one.at_once_s:.1f} s"
            if one.parked
            else f"all asked again from 16 connections in {one.at_once_s:.1f} s"
        )
        kind = "parked ones included" if one.parked else "at once"
        share = f"{one.private / MIB:.2f} MiB"
        together = f"{one.proportional / MIB:,.0f} MiB"
        points = (
            f"loaded: {one.loaded:,}, two at a time, each asked at once, in {one.seconds:.0f} s",
            f"the median load: {milliseconds(one.load_ms)}",
            later,
            f"answered with nothing but their own answers: {one.own:,}",
            f"the most similar two differ by {one.apart:.1e}",
            f"private memory of each after the first, everything of the server included: {share}",
            f"all processes together: {together}",
            f"MemAvailable shrank by {one.available / MIB:,.0f} MiB",
            f"with a process of their own: {one.awake:,}",
        )
        lines += [f"## {one.wanted:,} SetFit customers {kind}, {SERVERS[one.server]}", ""]
        lines += [f"- {point}" for point in points]
        lines += [f"- failure: {one.failure}"] if one.failure else []
        lines += [""]
    return lines


def _first_calls(calls: Sequence[FirstCall]) -> list[str]:
    if not calls:
        return []
    rows = [
        (
            TITLES[one.form],
            milliseconds(one.first_ms),
            *_spread(one.calls_ms, one.median_ms),
            len(one.calls_ms),
            milliseconds(one.warm_ms),
            f"{one.archive_bytes / 1e3:,.1f} KB",
            f"{one.layer_bytes / 1e6:,.1f} MB" if one.layer_bytes else "",
        )
        for one in calls
    ]
    names = ("very first", "median", "fastest", "slowest", "of", "next call", "archive", "layers")
    head = "## SetFit: the first call of one more customer on the local endpoint"
    return [head, "", _ABOUT_CALLS, "", table(("",), names, rows)]


def _libraries(libraries: Sequence[Libraries]) -> list[str]:
    if not libraries:
        return []
    rows = [
        (
            one.way,
            milliseconds(one.first_median_ms),
            *_spread(one.further_ms, one.further_median_ms),
            len(one.first_ms),
            f"{one.archive_bytes / 1e6:,.1f} MB",
        )
        for one in libraries
    ]
    names = ("first load", "one more", "fastest", "slowest", "rounds", "archive")
    head = "## CatBoost in a container that has no catboost"
    return [head, "", _ABOUT_LIBRARIES, "", table(("",), names, rows)]


def _unchanged(unchanged: Sequence[Unchanged]) -> list[str]:
    if not unchanged:
        return []
    import statistics

    rows = [
        (
            SERVERS[pair.server],
            pair.subject,
            one.age,
            milliseconds(statistics.median(one.loads_ms)),
            f"{one.private / MIB:.2f} MiB",
            f"{statistics.median(one.p50_ms):.2f} ms",
            f"{statistics.median(one.per_second):,.0f}",
            f"{one.archive_bytes / 1024:,.0f} KiB",
        )
        for pair in unchanged
        for one in (pair.before, pair.now)
    ]
    names = ("cold load", "private", "p50, 1 connection", "requests/s, 8", "archive")
    head = "## Models without layers"
    return [head, "", _ABOUT_UNCHANGED, "", table(("server", "model", ""), names, rows)]


_GREY, _BLUE, _GREEN, _RED = "#9a9fa6", "#0969da", "#1a7f37", "#cf222e"
_COLOURS = {"now": _GREY, "inline": _BLUE, "thin": _GREEN}
_WIDTH = 0.27


def draw(results: Results, folder: Path) -> None:
    """Write layers.svg: every axis of values begins at zero.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    panels: list[Callable[[Any], None]] = []
    if results.one_more:
        panels += [
            lambda axes: _bars_of_servers(axes, results.one_more, "private"),
            lambda axes: _bars_of_servers(axes, results.one_more, "load"),
        ]
    if results.first_calls:
        panels.append(lambda axes: _bars_of_calls(axes, results.first_calls))
    if results.libraries:
        panels.append(lambda axes: _bars_of_libraries(axes, results.libraries))
    if not panels:
        return
    with figure_written_to(folder / f"{NAME}.svg", (4.2 * len(panels), 3.6)) as figure:
        (row,) = figure.subplots(1, len(panels), squeeze=False)
        for axes, panel in zip(row, panels, strict=True):
            # Room for the legend above the bars.
            axes.margins(y=0.4)
            panel(axes)
            axes.set_ylim(bottom=0)


def _bars_of_servers(axes: Any, found: Sequence[Found], what: str) -> None:
    by_form = {
        form: [one for of_server in found for one in of_server.forms if one.form == form]
        for form in _COLOURS
    }
    for place, (form, ones) in enumerate(by_form.items()):
        heights = [_height(one, what) for one in ones]
        _bars(axes, [at + (place - 1) * _WIDTH for at in range(len(ones))], heights, form)
    plain = [one for of_server in found for one in of_server.forms if one.form == "plain"]
    # As a bar it would leave nothing of the others.
    axes.set_xticks(
        range(len(plain)),
        [f"{SERVERS[one.server]}\n(plain engine: {_height(one, what):,.0f})" for one in plain],
    )
    title = "memory of one more, MiB" if what == "private" else "cold load of one more, ms"
    axes.set_title(f"SetFit: {title}")
    limit = 8 if what == "private" else 50
    axes.axhline(limit, color=_RED, linewidth=0.8, linestyle="--", label="target")


def _height(one: Any, what: str) -> float:
    return float(one.private / MIB if what == "private" else one.median_ms)


def _bars(axes: Any, places: Sequence[float], heights: Sequence[float], form: str) -> None:
    label = TITLES[form]  # type: ignore[index]
    bars = axes.bar(places, heights, _WIDTH, color=_COLOURS[form], label=label)
    axes.bar_label(bars, [f"{height:,.0f}" for height in heights], padding=2, fontsize=8)


def _bars_of_calls(axes: Any, calls: Sequence[FirstCall]) -> None:
    for place, one in enumerate(calls):
        _bars(axes, [place], [one.median_ms], one.form)
    axes.set_xticks(
        range(len(calls)),
        [f"{TITLES[one.form]}\n{_size(one.archive_bytes)} each" for one in calls],
    )
    axes.set_title("SetFit: first call at the endpoint, ms")


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} KB"  # noqa: PLR2004


def _bars_of_libraries(axes: Any, libraries: Sequence[Libraries]) -> None:
    for offset, colour, label, values in (
        (-0.2, _GREY, "first load", [one.first_median_ms / 1000 for one in libraries]),
        (0.2, _BLUE, "one more", [one.further_median_ms / 1000 for one in libraries]),
    ):
        bars = axes.bar(
            [place + offset for place in range(len(libraries))],
            values,
            0.38,
            color=colour,
            label=label,
        )
        axes.bar_label(bars, [f"{value:.2g}" for value in values], padding=2, fontsize=8)
    axes.set_xticks(range(len(libraries)), [one.way for one in libraries])
    axes.set_title("CatBoost where it is missing: load, s")
