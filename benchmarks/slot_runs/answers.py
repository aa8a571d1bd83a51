"""Whether two modes answer the same."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slot_runs.servers import ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slot_runs.servers import Server
    from slot_runs.subjects import Subject

THREADS = 16
ROUNDS = 2


@dataclass(frozen=True)
class Answers:
    """What a model answered.

    Attributes
    ----------
    single
        The answer to each of the subject's requests, one after the other.
    concurrent
        Those to the same requests, several times, from many connections at once; each list is as
        long as ``single`` and in its order.
    """

    single: tuple[bytes, ...]
    concurrent: tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True)
class Comparison:
    """How the answers of worker slots compare with those of the plain engine.

    Attributes
    ----------
    compared, differing
        Answers looked at, and those that are not the same bytes.
    differing_single
        Those among them to requests that came alone.
    largest_difference
        Between two numbers in the same place; infinite where the answers have not the same form,
        or differ in a text.
    labels_differing
        Answers whose predictions differ, not only their probabilities.
    """

    compared: int
    differing: int
    differing_single: int
    largest_difference: float
    labels_differing: int

    @property
    def equal(self) -> bool:
        """Whether all are equal, bit for bit."""
        return self.differing == 0

    def __str__(self) -> str:
        """Return it in words."""
        if self.equal:
            return f"equal, bit for bit ({self.compared} answers)"
        return (
            f"{self.differing} of {self.compared} differ ({self.differing_single} of single "
            f"requests), by {self.largest_difference:.1e} at most; "
            f"{self.labels_differing} predictions differ"
        )


def collect(server: Server, model: str, subject: Subject) -> Answers:
    """Ask a model everything, in turn and all at once."""
    single = _in_turn(server, model, subject, range(len(subject.requests)))
    rounds = []
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(ROUNDS):
            shares = [range(i, len(subject.requests), THREADS) for i in range(THREADS)]
            found = list(pool.map(lambda share: _in_turn(server, model, subject, share), shares))
            by_request = [b""] * len(subject.requests)
            for share, answers in zip(shares, found, strict=True):
                for number, answer in zip(share, answers, strict=True):
                    by_request[number] = answer
            rounds.append(tuple(by_request))
    return Answers(tuple(single), tuple(rounds))


def _in_turn(server: Server, model: str, subject: Subject, numbers: Sequence[int]) -> list[bytes]:
    path = f"/models/{model}/invoke"
    with contextlib.closing(server.connect()) as connection:
        return [
            ask(connection, "POST", path, subject.requests[number], subject.content_type)
            for number in numbers
        ]


def compare(plain: Answers, slots: Answers) -> Comparison:
    """Compare with what the plain engine answers to single requests."""
    pairs = list(zip(plain.single, slots.single, strict=True))
    differing_single = sum(expected != found for expected, found in pairs)
    for one in slots.concurrent:
        pairs += zip(plain.single, one, strict=True)
    differing = [(json.loads(a), json.loads(b)) for a, b in pairs if a != b]
    return Comparison(
        compared=len(pairs),
        differing=len(differing),
        differing_single=differing_single,
        largest_difference=max((difference(a, b) for a, b in differing), default=0.0),
        labels_differing=sum(a["predictions"] != b["predictions"] for a, b in differing),
    )


def difference(expected: Any, found: Any) -> float:
    """Return the largest difference between numbers in two JSON values.

    Examples
    --------
    >>> difference({"predictions": [1.0, 2.0]}, {"predictions": [1.0, 2.5]})
    0.5
    >>> difference([1.0], [1.0, 2.0])
    inf
    """
    if expected == found:
        return 0.0
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return max(difference(a, b) for a, b in zip(expected, found, strict=True))
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return max(difference(expected[key], found[key]) for key in expected)
    if isinstance(expected, (int, float)) and isinstance(found, (int, float)):
        return abs(expected - found)
    return float("inf")
