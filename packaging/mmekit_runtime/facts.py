"""What is known of a column, put together from what several steps or estimators tell of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmekit_runtime.signature import Column

if TYPE_CHECKING:
    from collections.abc import Iterable

# What becomes of a missing value in a step.
STOPS, PASSES, FAILS = "stops", "passes", "fails"


@dataclass(frozen=True)
class Fact:
    """What is known of a column: its type, its values, and what becomes of a missing one."""

    type: str = "any"
    known: tuple[Any, ...] | None = None
    missing: str | None = None
    missing_is: str = "nan"
    used: bool = True
    present: tuple[str, ...] = ()
    categories: tuple[Any, ...] | None = None
    seen: frozenset[str] | None = None
    """The texts that an encoder knows which takes any other, too; only the meter asks for them."""

    def then(self, state: str | None) -> Fact:
        """Return the fact after a further step, which is told what that does with a gap."""
        if self.missing != PASSES:
            return self
        return replace(self, missing=state)


def column_of(name: str, fact: Fact) -> Column:
    """Return a column of a signature."""
    return Column(
        name,
        fact.type,
        required=fact.used,
        dtype=None if fact.categories is None else "category",
        categories=fact.categories,
        known=fact.known,
        missing=fact.missing == STOPS or not fact.used,
        missing_is=fact.missing_is,
        present=fact.present,
    )


def worst(several: list[dict[str, Fact]], names: Iterable[str]) -> dict[str, Fact]:
    """Return what holds of columns that several estimators get."""
    return {name: joined([facts.get(name, Fact()) for facts in several]) for name in names}


def joined(facts: list[Fact]) -> Fact:
    """Return what holds of a column that several steps get."""
    facts = [fact for fact in facts if fact.used] or facts
    if len(facts) == 1:
        return facts[0]
    types = {fact.type for fact in facts} - {"any"}
    known = next((fact.known for fact in facts if fact.known is not None), None)
    states = {fact.missing for fact in facts}
    state = next((one for one in (FAILS, None, PASSES, STOPS) if one in states), None)
    gap = next((fact.missing_is for fact in facts if fact.missing_is != "nan"), "nan")
    return Fact(
        type=types.pop() if len(types) == 1 else "any",
        known=known,
        missing=state,
        missing_is=gap,
        used=any(fact.used for fact in facts),
        present=_present(*facts),
        categories=next((one.categories for one in facts if one.categories is not None), None),
        seen=next((one.seen for one in facts if one.seen is not None), None),
    )


def _present(*facts: Fact) -> tuple[str, ...]:
    return tuple(sorted({text for fact in facts for text in fact.present}))


def passed_on(fact: Fact) -> Fact:
    """Return the fact of a step that takes a gap and leaves it what it is."""
    return replace(fact, missing=PASSES) if fact.missing == STOPS else fact


def further(fact: Fact, told: Fact) -> Fact:
    """Return a fact with what the next step tells of the same column."""
    return replace(
        fact,
        type=told.type if fact.type == "any" else fact.type,
        known=told.known if fact.known is None else fact.known,
        present=_present(fact, told),
        seen=told.seen if fact.seen is None else fact.seen,
    )
