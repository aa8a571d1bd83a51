"""Which variant and which instance serve a request."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RoutedInstance", "WeightedVariant", "pick_instance", "pick_spill", "pick_variant"]


class WeightedVariant(Protocol):
    """What the router looks at in a variant.

    Attributes
    ----------
    weight
        Its share of the traffic, relative to the other variants'.
    """

    weight: float


class RoutedInstance(Protocol):
    """What the router looks at in an instance.

    Attributes
    ----------
    in_flight
        How many requests it is answering.
    """

    in_flight: int

    @property
    def placement_cost(self) -> tuple[float, ...]:
        """What to compare when a new model needs a place: the least is the best place."""
        ...

    def has(self, target: str) -> bool:
        """Say whether the target model is loaded."""
        ...

    def is_loading(self, target: str) -> bool:
        """Say whether the target model is about to be loaded."""
        ...

    def in_flight_of(self, target: str) -> int:
        """Return how many requests the target model is answering."""
        ...


_V = TypeVar("_V", bound=WeightedVariant)
_I = TypeVar("_I", bound=RoutedInstance)


def pick_variant(variants: Sequence[_V]) -> _V:
    """Return a variant, at random by weight."""
    if len(variants) == 1:
        return variants[0]
    weights = [variant.weight for variant in variants]
    if not any(weights):
        return random.choice(variants)  # noqa: S311 - this is no cryptography
    return random.choices(variants, weights)[0]  # noqa: S311 - likewise


def pick_instance(instances: Sequence[_I], target: str) -> _I:
    """Return the least busy instance that has the target model.

    When none has it: the one that is loading it; else the best place for it
    (`placement_cost`).
    """
    # Elsewhere it would take memory that other models need; `pick_spill` does that for hot ones.
    holders = [instance for instance in instances if instance.has(target)]
    if len(holders) == 1:
        return holders[0]
    if holders:
        least = min([instance.in_flight for instance in holders])
        # Of those that are equally busy each gets its share.
        return random.choice([one for one in holders if one.in_flight == least])  # noqa: S311
    for instance in instances:
        if instance.is_loading(target):
            return instance
    return min(instances, key=lambda instance: instance.placement_cost)


def pick_spill(instances: Sequence[_I], target: str, bound: int) -> _I | None:
    """Return the instance that shall load a hot target model as well; None when none shall.

    A model is hot when every instance that has it is answering at least `bound` of its requests.
    One instance at a time takes it up.
    """
    others = []
    for instance in instances:
        if instance.is_loading(target):
            return None
        if not instance.has(target):
            others.append(instance)
        elif instance.in_flight_of(target) < bound:
            return None
    return min(others, key=lambda instance: instance.placement_cost) if others else None
