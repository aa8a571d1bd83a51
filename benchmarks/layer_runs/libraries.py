"""CatBoost in a container that has no catboost: from a layer, or by pip at the load."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from slot_runs import subjects
from slot_runs.servers import ServerFailure, running

from layer_runs.former import NOW, Job
from layer_runs.stock import StockImage, download
from mmekit.archive import unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layer_runs.former import Code
    from layer_runs.stock import Container

Way = Literal["layer", "pip", "pip, wheels at hand"]
WAYS: tuple[Way, ...] = ("layer", "pip", "pip, wheels at hand")
_FURTHER = 3
_APART_S = 0.25


@dataclass(frozen=True)
class Libraries:
    """Loads in one way, each round in a new container with a new server.

    pip has no cache, as on a new instance; or it finds all wheels in a folder and asks nobody,
    which is what a full cache comes to at best.

    Attributes
    ----------
    first_ms
        Of the first model of each container.
    further_ms
        Of those after it.
    archive_bytes
        Of the archive.
    equal
        Whether each answered as it does where a layer brings the libraries.
    """

    way: Way
    first_ms: tuple[float, ...]
    further_ms: tuple[float, ...]
    archive_bytes: int
    equal: bool

    @property
    def first_median_ms(self) -> float:
        """The median of the first loads."""
        return statistics.median(self.first_ms)

    @property
    def further_median_ms(self) -> float:
        """The median of the loads after them."""
        return statistics.median(self.further_ms)


def measure(
    work: Path, say: Callable[[str], None], *, former: Code, rounds: int
) -> tuple[Libraries, ...]:
    """Load CatBoost models into the real DJL Serving.

    Parameters
    ----------
    former
        The code before layers, whose archives ask for pip.
    """
    trained = subjects.prepare("catboost", subjects.TRAINED, work)
    subject = trained.subject
    at_hand: Way = "pip, wheels at hand"
    say("packing")
    options: dict[Way, tuple[Code, dict[str, Any]]] = {
        "layer": (NOW, {"layers": True}),
        "pip": (former, {}),
    }
    folders: dict[Way, Path] = {}
    sizes: dict[Way, int] = {}
    for way, (code, given) in options.items():
        artifacts = subjects.copy(subject.artifacts, work / f"artifacts-{way}")
        archive = work / f"{way}.tar.gz"
        (sizes[way],) = code.pack([Job(subject.package, artifacts, archive, given)])
        folders[way] = work / f"unpacked-{way}"
        unpack(archive, folders[way])
    folders[at_hand], sizes[at_hand] = folders["pip"], sizes["pip"]
    say("making the stand-in of the stock image")
    image = StockImage(work)
    wheels = work / "wheels"
    say("downloading what pip installs")
    requirements = folders["pip"] / "requirements.txt"
    # All that it comes to: offline, as it is started here, DJL Serving has pip ask for no
    # dependencies. Not having to find them out is for pip's good.
    found = download(image.container(), requirements, wheels)
    requirements.write_text("".join(f"{one}\n" for one in found))
    first: dict[Way, list[float]] = defaultdict(list)
    further: dict[Way, list[float]] = defaultdict(list)
    answers: dict[Way, list[bytes]] = defaultdict(list)
    for number in range(rounds):
        for way in WAYS:
            say(f"{way}, round {number + 1} of {rounds}")
            models = work / f"models-{WAYS.index(way)}-{number}"
            models.mkdir()
            targets = [
                subjects.copy(folders[way], models / f"m{one}") for one in range(_FURTHER + 1)
            ]
            container = image.container()
            refuse_catboost(container)
            with running("djl", container.variables(wheels if way == at_hand else None)) as to:
                times = []
                for target in targets:
                    time.sleep(_APART_S)
                    times.append(to.load(target.name, target))
                    answers[way] += [
                        to.invoke(target.name, body, subject.content_type)
                        for body in subject.requests[:8]
                    ]
            first[way].append(times[0])
            further[way] += times[1:]
    expected = answers["layer"]
    return tuple(
        Libraries(
            way, tuple(first[way]), tuple(further[way]), sizes[way], equal=answers[way] == expected
        )
        for way in WAYS
    )


def refuse_catboost(container: Container) -> None:
    """See that a container has no catboost.

    Raises
    ------
    ServerFailure
        It has.
    """
    if list(container.folder.glob("lib/python*/site-packages/catboost*")):
        raise ServerFailure("the stand-in of the stock image has catboost")
