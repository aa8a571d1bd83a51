"""Which parent forks the processes of which model."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from mmekit_runtime.slots.channel import Channel


_LESSONS = 2


@dataclass(eq=False)
class Parent:
    """A process of `nursery` and what it has imported.

    Attributes
    ----------
    imports
        Everything that it was asked to import, its ancestors' included; what failed or was dropped
        counts as there, since trying again would end the same.
    own_ms
        Milliseconds that its own imports took.
    used_at
        When a model process that it forked was last there, or it was asked for one.
    wanted, forking
        Forks that it is still to be asked for, and who waits for each; how many it is at.
    since
        When it was started, was asked for a fork or has forked last, by the monotonic clock.
    spare, is_sparing
        A process that it has forked ahead: its id and a channel to it; whether it is about to.
    lessons, written
        From how many model processes it has learned what those write to that it forks; that, as in
        `pages`.
    """

    number: int
    imports: frozenset[str]
    channel: Channel | None = None
    pid: int = 0
    ready: bool = False
    own_ms: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    used_at: float = field(default_factory=time.monotonic)
    wanted: deque[tuple[dict[str, Any], Callable[[int, Channel | None], None]]] = field(
        default_factory=deque
    )
    forking: int = 0
    since: float = field(default_factory=time.monotonic)
    spare: tuple[int, Channel] | None = None
    is_sparing: bool = False
    lessons: int = 0
    written: list[tuple[int, int]] = field(default_factory=list)

    @property
    def knows_enough(self) -> bool:
        """Whether it need not learn from further model processes."""
        return self.lessons >= _LESSONS


class Tree:
    """The parents of one fork server."""

    def __init__(self) -> None:
        self._parents: dict[int, Parent] = {}
        self._numbers = 0

    def __iter__(self) -> Iterator[Parent]:
        """Yield the parents, oldest first."""
        return iter(list(self._parents.values()))

    def add(self, imports: Iterable[str]) -> Parent:
        """Add a parent that is not started yet."""
        self._numbers += 1
        parent = Parent(self._numbers, frozenset(imports))
        self._parents[parent.number] = parent
        return parent

    def remove(self, parent: Parent) -> None:
        """Forget a parent that has ended."""
        self._parents.pop(parent.number, None)

    def get(self, number: int) -> Parent | None:
        """Return a parent by its number."""
        return self._parents.get(number)

    def exact(self, wanted: frozenset[str]) -> Parent | None:
        """Return the parent, ready or not, that has just these imports."""
        for parent in self._parents.values():
            if parent.imports == wanted:
                return parent
        return None

    def widened(self, wanted: frozenset[str]) -> frozenset[str]:
        """Add what a parent for other models of the same libraries has imported already.

        Other modules of a library that a model uses anyway cost it nothing: they are shared. So
        all models of one library hang on one chain of parents, each adding the little it lacks.
        """
        packages = _packages(wanted)
        related = [
            parent for parent in self._parents.values() if _packages(parent.imports) <= packages
        ]
        nearest = max(related, key=lambda parent: len(parent.imports), default=None)
        return wanted | nearest.imports if nearest else wanted

    def plan(self, wanted: frozenset[str]) -> tuple[Parent | None, list[frozenset[str]]]:
        """Say from which parent, and over which steps, one with these imports is made.

        Returns
        -------
        ancestor, steps
            The parent that has the most of it and nothing else (None: none has), and the imports
            of each parent to fork in turn. With another set that shares more than the ancestor
            has, what they share is a step of its own.
        """
        subsets = [parent for parent in self._parents.values() if parent.imports <= wanted]
        ancestor = max(subsets, key=lambda parent: len(parent.imports), default=None)
        has = ancestor.imports if ancestor else frozenset()
        shared = max(
            (parent.imports & wanted for parent in self._parents.values()), key=len, default=has
        )
        steps = [wanted]
        if has < shared < wanted:
            steps.insert(0, shared)
        return ancestor, steps


def _packages(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}
