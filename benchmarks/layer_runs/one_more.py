"""What one more customer costs: its load, its memory, and whether its answers are the same."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slot_runs import answers, servers
from slot_runs.answers import Answers, Comparison
from slot_runs.servers import ServerKind, ask, running

from layer_runs.customers import FORMS, Form, unpacked_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from slot_runs.servers import Server

    from layer_runs.customers import Customers

_APART_S = 0.25
"""Between loads: each is that of a model that somebody asks for just then."""
_LAYERS_VARIABLE = "MMEKIT_LAYERS"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    loads
        Loads of each form after its first.
    plain
        The same of the plain engine, each of which takes seconds and half a GiB.
    compared
        Customers whose answers are compared.
    requests
        Different requests to each of them.
    """

    loads: int = 10
    plain: int = 2
    compared: int = 3
    requests: int = 24


@dataclass(frozen=True)
class OneMore:
    """Customers of one form on one server.

    Attributes
    ----------
    first_ms
        The load of the first: it brings in the libraries and, where there is a layer, the body.
    loads_ms
        Those after it, in turn with those of the other forms.
    private
        Bytes of private memory of each after the first, when it has answered: of all processes
        that belong to it; the mean.
    proportional
        The same with its share of what it shares.
    """

    server: ServerKind
    form: Form
    first_ms: float
    loads_ms: tuple[float, ...]
    private: int
    proportional: int

    @property
    def median_ms(self) -> float:
        """The median of the loads after the first."""
        return statistics.median(self.loads_ms)


@dataclass(frozen=True)
class SameAnswers:
    """Whether a form's customers answer as those without layers."""

    server: ServerKind
    form: Form
    comparison: Comparison


@dataclass(frozen=True)
class Found:
    """All of one server."""

    forms: tuple[OneMore, ...]
    answers: tuple[SameAnswers, ...]


def measure(
    kind: ServerKind, work: Path, say: Callable[[str], None], *, customers: Customers, sizes: Sizes
) -> Found:
    """Load customers of all forms into one server, in turn."""
    layers = unpacked_layers(customers.packed("thin", 1), work / "ready-layers")
    folders: dict[Form, list[Path]] = defaultdict(list)
    times: dict[Form, list[float]] = defaultdict(list)
    (work / "models").mkdir()
    with running(kind, {_LAYERS_VARIABLE: str(layers)}) as server:
        for number in range(sizes.loads + 1):
            for form in FORMS:
                if form == "plain" and number > sizes.plain:
                    continue
                say(f"load {number + 1} of {sizes.loads + 1}, {form}")
                name = f"{form}-{number}"
                folder = customers.folder(form, number, work / "models" / name)
                time.sleep(_APART_S)
                times[form].append(server.load(name, folder))
                subject = customers.subject
                server.invoke(name, subject.load, subject.content_type)
                folders[form].append(folder)
        say("memory")
        found = [_one_more(server, form, times[form], folders[form]) for form in FORMS]
        say("answers")
        collected = {
            form: _answers(server, customers, form, min(sizes.compared, len(folders[form])), sizes)
            for form in FORMS
        }
    return Found(tuple(found), tuple(_compared(kind, collected)))


def _one_more(server: Server, form: Form, times: list[float], folders: list[Path]) -> OneMore:
    footprints = servers.of_models(server, folders)[1:]
    return OneMore(
        server=server.kind,
        form=form,
        first_ms=times[0],
        loads_ms=tuple(times[1:]),
        private=sum(one.private for one in footprints) // len(footprints),
        proportional=sum(one.proportional for one in footprints) // len(footprints),
    )


def _answers(
    server: Server, customers: Customers, form: Form, count: int, sizes: Sizes
) -> list[bytes]:
    subject = customers.subject
    with contextlib.closing(server.connect()) as connection:
        return [
            ask(connection, "POST", f"/models/{form}-{number}/invoke", body, subject.content_type)
            for number in range(count)
            for body in subject.requests[: sizes.requests]
        ]


def _compared(kind: ServerKind, collected: Mapping[Form, Sequence[bytes]]) -> list[SameAnswers]:
    # Single requests: those that meet in a batch differ in the last digits, with layers or without.
    today = collected["now"]
    return [
        SameAnswers(
            kind,
            form,
            answers.compare(Answers(tuple(today[: len(one)]), ()), Answers(tuple(one), ())),
        )
        for form, one in collected.items()
        if form != "now"
    ]
