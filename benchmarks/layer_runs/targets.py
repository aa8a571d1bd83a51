"""What is to be reached, and what was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reporting import milliseconds
from slot_runs.servers import TITLES as SERVERS
from slot_runs.targets import MIB

from layer_runs.customers import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slot_runs.servers import ServerKind

    from layer_runs.customers import Form
    from layer_runs.first_call import FirstCall
    from layer_runs.libraries import Libraries
    from layer_runs.many import Many
    from layer_runs.one_more import OneMore, SameAnswers
    from layer_runs.unchanged import Unchanged

LAYERED: tuple[Form, ...] = ("inline", "thin")
MOST_PRIVATE = 8 * MIB
MOST_LOAD_MS = 50
MOST_THIN_BYTES = 50_000
MOST_CALL_MS: dict[Form, int] = {"thin": 60, "inline": 400}
LEAST_FASTER = 20
# What a run of the same thing twice may differ by on a machine with two cores.
MOST_SLOWER = 1.05


@dataclass(frozen=True)
class Outcome:
    """One line of the table.

    Attributes
    ----------
    met
        None where there is nothing to be met.
    """

    what: str
    target: str
    reached: str
    met: bool | None


def judge(
    forms: Sequence[OneMore],
    answers: Sequence[SameAnswers],
    many: Sequence[Many],
    calls: Sequence[FirstCall],
    libraries: Sequence[Libraries],
    unchanged: Sequence[Unchanged],
) -> list[Outcome]:
    """Return the lines for whatever was measured."""
    kinds = list(dict.fromkeys(one.server for one in forms))
    outcomes = [_private(kind, forms) for kind in kinds]
    outcomes += [_load(kind, forms) for kind in kinds]
    outcomes += [_of_many(one) for one in many]
    outcomes += _of_calls(calls)
    outcomes += _of_libraries(libraries)
    outcomes += _of_answers(answers)
    for kind in dict.fromkeys(one.server for one in unchanged):
        outcomes += _of_unchanged(kind, [one for one in unchanged if one.server == kind])
    return outcomes


def _private(kind: ServerKind, forms: Iterable[OneMore]) -> Outcome:
    by_form = {one.form: one for one in forms if one.server == kind}
    return Outcome(
        f"SetFit: private memory of one more customer, {SERVERS[kind]}",
        "at most 8 MiB",
        "; ".join(f"{TITLES[form]} {by_form[form].private / MIB:.1f} MiB" for form in LAYERED)
        + f" (without layers: {by_form['now'].private / MIB:.1f}, plain engine: "
        f"{by_form['plain'].private / MIB:.0f})",
        all(by_form[form].private <= MOST_PRIVATE for form in LAYERED),
    )


def _load(kind: ServerKind, forms: Iterable[OneMore]) -> Outcome:
    by_form = {one.form: one for one in forms if one.server == kind}
    return Outcome(
        f"SetFit: cold load of one more customer, {SERVERS[kind]}",
        f"at most {MOST_LOAD_MS} ms",
        "; ".join(f"{TITLES[form]} {milliseconds(by_form[form].median_ms)}" for form in LAYERED)
        + f" (without layers: {milliseconds(by_form['now'].median_ms)}, plain engine: "
        f"{milliseconds(by_form['plain'].median_ms)})",
        all(by_form[form].median_ms <= MOST_LOAD_MS for form in LAYERED),
    )


def _of_many(one: Many) -> Outcome:
    kind = "parked ones included" if one.parked else "at once"
    reached = (
        f"{one.own:,} of {one.loaded:,} loaded gave their own answers; "
        f"{one.private / MIB:.2f} MiB each, {one.proportional / MIB:,.0f} MiB all together"
    )
    return Outcome(
        f"{one.wanted:,} SetFit customers {kind}, {SERVERS[one.server]}",
        "each answers, and the answer is its own",
        reached if one.failure is None else f"{reached}; {one.failure.splitlines()[0][:200]}",
        one.complete,
    )


def _of_calls(calls: Sequence[FirstCall]) -> list[Outcome]:
    by_form = {one.form: one for one in calls}
    if not by_form:
        return []
    today, thin = by_form["now"], by_form["thin"]
    outcomes = [
        Outcome(
            "SetFit: bytes fetched for one more customer, thin",
            "at most 50 KB",
            f"{thin.archive_bytes / 1e3:,.1f} KB (without layers: {today.archive_bytes / 1e6:,.1f} "
            f"MB); its layers, once: {thin.layer_bytes / 1e6:,.1f} MB",
            thin.archive_bytes <= MOST_THIN_BYTES,
        )
    ]
    return outcomes + [
        Outcome(
            f"SetFit: first call of one more customer on the local endpoint, {TITLES[form]}",
            f"at most {most} ms",
            f"{milliseconds(by_form[form].median_ms)} "
            f"(without layers: {milliseconds(today.median_ms)})",
            by_form[form].median_ms <= most,
        )
        for form, most in MOST_CALL_MS.items()
    ]


def _of_libraries(libraries: Sequence[Libraries]) -> list[Outcome]:
    by_way = {one.way: one for one in libraries}
    if not by_way:
        return []
    layer, pip, local = (by_way[way] for way in ("layer", "pip", "pip, wheels at hand"))
    lines = (
        ("first load, pip asks its index", layer.first_median_ms, pip.first_median_ms, True),
        (
            "first load, pip has the wheels at hand",
            layer.first_median_ms,
            local.first_median_ms,
            False,
        ),
        ("one more load", layer.further_median_ms, pip.further_median_ms, True),
    )
    outcomes = [
        Outcome(
            f"CatBoost in a container without catboost, pip / layer: {what}",
            f"at least {LEAST_FASTER}" if is_target else "",
            f"{theirs / ours:.1f} ({milliseconds(theirs)} / {milliseconds(ours)})",
            theirs / ours >= LEAST_FASTER if is_target else None,
        )
        for what, ours, theirs, is_target in lines
    ]
    equal = all(one.equal for one in libraries)
    what = "answers of CatBoost, with a layer and with pip"
    return [*outcomes, Outcome(what, "equal, bit for bit", "equal" if equal else "differ", equal)]


def _of_answers(answers: Sequence[SameAnswers]) -> list[Outcome]:
    return [
        Outcome(
            f"answers of SetFit, {TITLES[one.form]} against without layers, {SERVERS[one.server]}",
            "equal, bit for bit",
            str(one.comparison),
            one.comparison.equal,
        )
        for one in answers
    ]


def _of_unchanged(kind: ServerKind, pairs: Sequence[Unchanged]) -> list[Outcome]:
    server = SERVERS[kind]
    most = f"at most {MOST_SLOWER}"

    def line(what: str, target: str, values: Sequence[float], *, met: bool) -> Outcome:
        found = zip(pairs, values, strict=True)
        reached = "; ".join(f"{pair.subject} {value:.2f}" for pair, value in found)
        return Outcome(f"without layers, now / before: {what}, {server}", target, reached, met)

    cold, p50 = [one.cold for one in pairs], [one.p50 for one in pairs]
    private, throughput = [one.private for one in pairs], [one.throughput for one in pairs]
    sizes = [one.now.archive_bytes - one.before.archive_bytes for one in pairs]
    equal = all(one.comparison.equal for one in pairs)
    return [
        line("cold load", most, cold, met=max(cold) <= MOST_SLOWER),
        line("private memory", most, private, met=max(private) <= MOST_SLOWER),
        line("response time at p50, 1 connection", most, p50, met=max(p50) <= MOST_SLOWER),
        line(
            "requests a second, 8 connections",
            f"at least {1 / MOST_SLOWER:.2f}",
            throughput,
            met=min(throughput) >= 1 / MOST_SLOWER,
        ),
        Outcome(
            f"without layers, now / before: answers, {server}",
            "equal, bit for bit",
            "; ".join(f"{one.subject}: {one.comparison}" for one in pairs),
            equal,
        ),
        Outcome(
            f"without layers: more bytes of an archive than before, {server}",
            "",
            "; ".join(
                f"{one.subject} {size:+,} bytes of {one.before.archive_bytes:,}"
                for one, size in zip(pairs, sizes, strict=True)
            ),
            None,
        ),
    ]
