"""Which variant and which instance serve a request."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.endpoint.fleet import Variant
    from mmekit.endpoint.instance import Instance

__all__ = ["pick_instance", "pick_variant"]


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

    When none has it: the one with the fewest models, the least busy of these.
    """
    if len(instances) == 1:
        return instances[0]
    holders = [instance for instance in instances if instance.has(target)]
    if holders:
        return min(holders, key=lambda instance: instance.in_flight)
    return min(instances, key=lambda instance: (instance.loaded_models, instance.in_flight))
