"""Which variant and which instance serve a request."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit_local.sagemaker.instances.instance import Instance
    from mmekit_local.sagemaker.instances.variant import Variant

__all__ = ["pick_instance", "pick_spill", "pick_variant"]


def pick_variant(variants: Sequence[Variant]) -> Variant:
    """Return a variant, at random by weight."""
    if len(variants) == 1:
        return variants[0]
    weights = [variant.weight for variant in variants]
    if not any(weights):
        return random.choice(variants)  # noqa: S311 - this is no cryptography
    return random.choices(variants, weights)[0]  # noqa: S311 - likewise


def pick_instance(instances: Sequence[Instance], target: str) -> Instance:
    """Return the least busy instance that has the target model.

    When none has it: the one that is loading it; else the best place for it
    (`Instance.crowding`).
    """
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
    return min(instances, key=lambda instance: instance.crowding)


def pick_spill(instances: Sequence[Instance], target: str, bound: int) -> Instance | None:
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
    return min(others, key=lambda instance: instance.crowding) if others else None
