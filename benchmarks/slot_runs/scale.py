"""Handlers that wait, parked models and very many: what was found, and what was to be."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter
from reporting import (
    Conditions,
    IncompleteRunError,
    milliseconds,
    table,
)

from slot_runs.container import Container  # noqa: TC001
from slot_runs.crowd import Crowd  # noqa: TC001
from slot_runs.parked import Parked  # noqa: TC001
from slot_runs.servers import TITLES, ServerKind
from slot_runs.subjects import MODES
from slot_runs.targets import GIB, MIB, Outcome, to_reach
from slot_runs.waiting import CONNECTIONS, WAIT_MS, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    _Found = TypeVar("_Found", Waiting, Parked, Crowd)

NAME = "at_scale"
_LEAST_RATIO = 0.95
_MOST_PRIVATE = 0.3 * MIB
_WAKE_MS: dict[ServerKind, int] = {"embedded": 10, "djl": 25}


@dataclass(frozen=True)
class Scale:
    """What was found; empty or None where nothing was asked for."""

    waiting: tuple[Waiting, ...] = ()
    parked: tuple[Parked, ...] = ()
    crowds: tuple[Crowd, ...] = ()
    container: Container | None = None

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.waiting or self.parked or self.crowds or self.container)

    def outcomes(self) -> list[Outcome]:
        """Return the lines of the table of what was to be reached."""
        found = [_of_waiting(one) for one in self.waiting]
        found += [outcome for one in self.parked for outcome in _of_parked(one)]
        found += [_of_crowd(one) for one in self.crowds]
        return found if self.container is None else [*found, _of_container(self.container)]

    def lines(self) -> list[str]:
        """Return a section of the report for each."""
        sections = [_waiting(one) for one in self.waiting]
        sections += [_parked(one) for one in self.parked]
        sections += [_crowd(one) for one in self.crowds]
        if self.container is not None:
            sections.append(_container(self.container))
        return [line for section in sections for line in section]

    def titles(self) -> set[str]:
        """Return what was measured, as what is left out is called."""
        found = {"waiting": self.waiting, "parked": self.parked, "crowd": self.crowds}
        titles = {f"{part}, {TITLES[one.server]}" for part, of in found.items() for one in of}
        container = self.container
        return titles if container is None else titles | {f"container, {TITLES[container.server]}"}

    def content(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            "waiting": [{**asdict(one), "ratio": one.ratio} for one in self.waiting],
            "parked": [
                {**asdict(one), "wake_p50_ms": one.wake_p50_ms, "warm_p50_ms": one.warm_p50_ms}
                for one in self.parked
            ],
            "crowds": [asdict(one) for one in self.crowds],
            "container": self.container and asdict(self.container),
        }


@dataclass(frozen=True)
class Results:
    """All that a run of the benchmark found, and those that it has resumed.

    Attributes
    ----------
    left_out
        What was not measured, and why.
    seconds
        How long it took, those before it included.
    """

    machine: Conditions
    scale: Scale
    left_out: dict[str, str]
    seconds: float

    def with_more(self, later: Results) -> Results:
        """Return these with what a later run has found, or has left out, in the place of theirs."""
        theirs, its = self.scale, later.scale
        scale = Scale(
            waiting=_renewed(theirs.waiting, its.waiting),
            parked=_renewed(theirs.parked, its.parked),
            crowds=_renewed(theirs.crowds, its.crowds),
            container=its.container or theirs.container,
        )
        measured = its.titles()
        former = {what: why for what, why in self.left_out.items() if what not in measured}
        seconds = self.seconds + later.seconds
        return Results(later.machine, scale, {**former, **later.left_out}, seconds)


_RESULTS = TypeAdapter(Results)


def _renewed(former: tuple[_Found, ...], later: tuple[_Found, ...]) -> tuple[_Found, ...]:
    by_server = {one.server: one for one in (*former, *later)}
    return tuple(by_server[kind] for kind in TITLES if kind in by_server)


def read(folder: Path) -> Results | None:
    """Read what was written; None when there is nothing, or it is of another version."""
    try:
        content = json.loads((folder / f"{NAME}.json").read_text())
        return _RESULTS.validate_python({**content, "scale": content})
    except (OSError, ValueError):
        return None


def write(results: Results, folder: Path) -> None:
    """Write at_scale.json and at_scale.md."""
    content = {
        "machine": asdict(results.machine),
        "seconds": results.seconds,
        "outcomes": [asdict(one) for one in results.scale.outcomes()],
        **results.scale.content(),
        "left_out": results.left_out,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / f"{NAME}.md").write_text(markdown(results))


def markdown(results: Results) -> str:
    """Return all tables."""
    machine = results.machine
    circumstances = (
        f"`benchmarks/at_scale.py` on {machine}, {machine.busy_percent:.0f} % busy with other "
        f"things when it began. It took {results.seconds / 60:.0f} minutes."
    )
    lines = [
        "# Worker slots at scale",
        "",
        circumstances,
        "",
        *to_reach(results.scale.outcomes()),
        *results.scale.lines(),
    ]
    if results.left_out:
        lines += ["## Not measured", ""]
        lines += [f"- {what}: {why}" for what, why in results.left_out.items()]
        lines += [""]
    return "\n".join(lines)


def _of_waiting(one: Waiting) -> Outcome:
    errors = one.slots.errors + one.plain.errors
    return Outcome(
        what=f"a handler that waits {WAIT_MS} ms, {CONNECTIONS} connections, slots / plain",
        target=f"at least {_LEAST_RATIO}",
        server=one.server,
        reached=(
            f"{one.ratio:.2f} ({one.slots.requests_per_second:,.0f} / "
            f"{one.plain.requests_per_second:,.0f} a second), p99 {one.slots.p99_ms:.0f} ms "
            f"(plain: {one.plain.p99_ms:.0f})" + (f"; {errors} errors" if errors else "")
        ),
        met=one.ratio >= _LEAST_RATIO and not errors,
    )


def _of_parked(one: Parked) -> list[Outcome]:
    most_ms = _WAKE_MS[one.server]
    return [
        Outcome(
            what="private memory of a parked model, everything of ours included",
            target=f"at most {_MOST_PRIVATE / MIB:g} MiB",
            server=one.server,
            reached=f"{one.private / MIB:.2f} MiB",
            met=one.private <= _MOST_PRIVATE,
        ),
        Outcome(
            what="answer of a parked ridge, p50",
            target=f"at most {most_ms} ms",
            server=one.server,
            reached=(
                f"{one.wake_p50_ms:.1f} ms, p95 {one.wake_p95_ms:.1f} (warm: {one.warm_p50_ms:.1f})"
            ),
            met=one.wake_p50_ms <= most_ms,
        ),
    ]


def _of_crowd(one: Crowd) -> Outcome:
    reached = (
        f"{one.answered:,} of {one.wanted:,} answer, {one.proportional / GIB:.1f} GiB "
        f"(MemAvailable: {one.available / GIB:.1f}), loaded in {one.load_s:.0f} s"
    )
    return Outcome(
        what=f"{one.wanted:,} ridge models loaded at once, each answering",
        target="yes",
        server=one.server,
        reached=reached if one.failure is None else f"{reached}; {one.failure}",
        met=one.complete,
    )


def _of_container(one: Container) -> Outcome:
    bad = f"{one.errors} errors, {one.dropped} not asked, {one.kills} killed by the kernel"
    reached = (
        f"{one.loaded:,} loaded, {one.answered:,} answers, {bad}; p50 {one.p50_ms:.1f}, "
        f"p99 {one.p99_ms:.0f} ms"
    )
    return Outcome(
        what=(
            f"{one.models:,} ridge models in {one.limit / GIB:g} GiB, as Zipf has it, "
            f"{one.seconds / 60:.0f} minutes of {one.rate:g} requests a second"
        ),
        target="no error",
        server=one.server,
        reached=reached if one.failure is None else f"{reached}; {one.failure}",
        met=one.complete,
    )


def _section(title: str, facts: tuple[str, ...], failure: str | None = None) -> list[str]:
    lines = [f"## {title}", "", *(f"- {fact}" for fact in facts)]
    if failure:
        lines.append(f"- **failed**: {failure}")
    return [*lines, ""]


def _waiting(one: Waiting) -> list[str]:
    facts = tuple(
        f"{name}: {load.requests_per_second:,.0f} requests a second, p50 {load.p50_ms:.1f}, "
        f"p99 {load.p99_ms:.1f} ms, {load.errors} errors"
        for name, load in (("plain engine, 16 workers", one.plain), ("16 slots", one.slots))
    )
    return _section(f"A handler that waits {WAIT_MS} ms, {TITLES[one.server]}", facts)


def _parked(one: Parked) -> list[str]:
    own = "" if one.server == "embedded" else ", which is not ours, besides"
    facts = (
        f"private memory of each after the first: {one.private / 1024:,.0f} KiB",
        f"of it, the server's own process: {one.server_private / 1024:,.0f} KiB{own}",
        f"{len(one.wake_ms)} asked: p50 {one.wake_p50_ms:.1f}, p95 {one.wake_p95_ms:.1f} ms",
        f"the slowest: {max(one.wake_ms):.1f} ms",
        f"asked again at once: p50 {one.warm_p50_ms:.2f} ms",
    )
    return _section(f"{one.models:,} parked models, {TITLES[one.server]}", facts)


def _crowd(one: Crowd) -> list[str]:
    each = ", ".join(f"{ms:.0f}" for ms in one.load_ms)
    loads = f"{one.loaded:,} in {one.load_s:.1f} s, four at a time"
    asked = f"{one.answered:,} in {one.answer_s:.1f} s, one after the other"
    first = f"{one.answer_p50_ms:.1f} ms (p99 {one.answer_p99_ms:.1f} ms)"
    memory = f"{one.proportional / MIB:,.0f} MiB (PSS)"
    facts = (
        f"loaded: {loads}; median of each hundred: {each} ms",
        f"answered: {asked}; a first request took {first}",
        f"awake when all had answered: {one.awake:,}, the others parked",
        f"memory of all {one.processes:,} processes of the server: {memory}",
        f"MemAvailable shrank by {one.available / MIB:,.0f} MiB",
        f"descriptors open in one process: {one.descriptors:,}",
        f"unloading one: {one.unload_ms:.1f} ms (median of up to a hundred)",
    )
    return _section(f"{one.wanted:,} models, {TITLES[one.server]}", facts, one.failure)


def _container(one: Container) -> list[str]:
    facts = (
        f"loaded: {one.loaded:,} in {one.load_s:.0f} s, four at a time",
        f"asked for {one.seconds:.0f} s, {one.rate:g} requests a second at random moments",
        f"different models that were asked: {one.asked:,}",
        f"answered: {one.answered:,}; errors: {one.errors}",
        f"not asked, as too many waited: {one.dropped}; killed by the kernel: {one.kills}",
        f"p50 {one.p50_ms:.1f}, p95 {one.p95_ms:.1f}, p99 {one.p99_ms:.1f} ms",
        f"awake at the end: {one.awake:,}; in use, file pages included: {one.used / MIB:,.0f} MiB",
    )
    title = f"{one.models:,} models in {one.limit / GIB:g} GiB, {TITLES[one.server]}"
    return _section(title, facts, one.failure)


def summary(content: Mapping[str, Any]) -> str:
    """Return a row for each figure and a column for each server, and a line for very many models.

    Raises
    ------
    IncompleteRunError
        Handlers that wait, or parked models, are missing on a server.
    """
    for server, title in TITLES.items():
        for part in ("waiting", "parked"):
            if server not in [one["server"] for one in content[part]]:
                raise IncompleteRunError(f"{part} on {title}")
    return table(("",), list(TITLES.values()), _rows(content)) + _of_many(content)


def _rows(scale: Mapping[str, Any]) -> list[list[str]]:
    waiting, parked = (
        {one["server"]: one for one in scale[part]} for part in ("waiting", "parked")
    )

    def row(what: str, text: Callable[[ServerKind], str]) -> list[str]:
        return [what, *(text(server) for server in TITLES)]

    def per_second(server: ServerKind) -> str:
        loads = [waiting[server][mode] for mode in MODES]
        return " → ".join(f"{one['requests'] / one['seconds']:,.0f}" for one in loads)

    return [
        row(
            f"a handler that waits {WAIT_MS} ms, {CONNECTIONS} connections, requests/s", per_second
        ),
        row(
            "a parked model, private memory",
            lambda server: f"{parked[server]['private'] / (1 << 20):.2f} MiB",
        ),
        row(
            "its first answer, p50",
            lambda server: milliseconds(parked[server]["wake_p50_ms"]),
        ),
    ]


def _of_many(scale: Mapping[str, Any]) -> str:
    lines = []
    for crowd in scale["crowds"]:
        gib = crowd["proportional"] / (1 << 30)
        lines.append(
            f"{crowd['wanted']:,} ridge models at once on {_where(crowd)}: loaded in "
            f"{crowd['load_s']:.0f} s, {crowd['answered']:,} of them answer, {gib:.1f} GiB in all."
        )
    container = scale["container"]
    if container is None:
        return "".join(f"\n{line}\n" for line in lines)
    bad = container["errors"] + container["kills"]
    unsent = f", {container['dropped']:,} not sent in time" if container["dropped"] else ""
    lines.append(
        f"{container['loaded']:,} in {container['limit'] / (1 << 30):g} GiB on "
        f"{_where(container)}, asked {container['rate']:g} times a second for "
        f"{container['seconds'] / 60:.0f} minutes (Zipf): "
        f"{container['answered']:,} answers, {bad} errors{unsent}."
    )
    return "".join(f"\n{line}\n" for line in lines)


def _where(found: Mapping[str, Any]) -> str:
    kind: ServerKind = found["server"]
    return TITLES[kind] if kind == "djl" else f"the {TITLES[kind]}"
