"""How many of the models an instance has room for at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.errors import DeployError
from mmekit.instance_types import instance_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mmekit.archive import Manifest
    from mmekit.deploy.models import PackedModel

__all__ = ["Capacity", "capacity_of"]

_MIB = 1 << 20
_RESERVED_MB = 500  # DJL Serving's reserved_memory_mb


@dataclass(frozen=True)
class Capacity:
    """What an instance has, and what the models take of it.

    Attributes
    ----------
    instance_type
        Its name.
    vcpus, memory_mb
        What it has; None for a type that is not in the table.
    models
        How many there are.
    measured
        How many of them say what they need.
    needed_mb
        What those need together.
    fits
        How many of those are in memory at once, the smallest first; None when it is not known.
    alike
        How many models like these would be, if there were more.
    """

    instance_type: str
    vcpus: int | None
    memory_mb: int | None
    models: int
    measured: int
    needed_mb: int
    fits: int | None
    alike: int | None

    def lines(self) -> list[str]:
        """Return it as text."""
        if self.memory_mb is None:
            return [f"capacity: unknown, {self.instance_type} is not in the table"]
        has = f"{self.instance_type} has {self.vcpus} vCPUs and {self.memory_mb} MiB"
        if not self.measured:
            return [f"capacity: {has}; no archive says what its model needs"]
        lines = [
            (
                f"capacity: {has}; {self.fits} of {self.measured} measured models are in memory at "
                f"once ({self.needed_mb} MiB for all), about {self.alike} like them would be"
            )
        ]
        if self.fits is not None and self.fits < self.measured:
            lines.append(
                "  the others are loaded when they are asked for, and the least recently used "
                "makes room"
            )
        if self.measured < self.models:
            lines.append(f"  {self.models - self.measured} say nothing about their memory")
        return lines


def capacity_of(name: str, models: Sequence[PackedModel]) -> Capacity:
    """Reckon how many of the models fit into the memory of an instance.

    With worker slots a model takes what it needs beyond the libraries, and these are in memory
    once for all models that import the same; without, it takes a whole process.

    Raises
    ------
    DeployError
        A model does not fit even alone: every load of it would be refused.
    """
    has = instance_type(name)
    manifests = {model.key: model.manifest for model in models if model.manifest is not None}
    needs = {key: _need_mb(manifest) for key, manifest in manifests.items()}
    shared = _shared_mb(manifests.values())
    if has is None:
        return Capacity(name, None, None, len(models), len(needs), sum(needs.values()), None, None)
    memory_mb = has.memory_bytes // _MIB
    for key, manifest in manifests.items():
        alone = needs[key] + _shared_mb([manifest])
        if alone > memory_mb - _RESERVED_MB:
            raise DeployError(
                f"{key} needs {alone} MiB, and {name} has {memory_mb} MiB, of which "
                f"{_RESERVED_MB} stay free: every load of it would be refused.",
                where=name,
                remedy="Choose an `instance_type` with more memory.",
            )
    room = memory_mb - _RESERVED_MB - shared
    fits, taken = 0, 0
    for need in sorted(needs.values()):
        taken += need
        fits += taken <= room
    mean = sum(needs.values()) / len(needs) if needs else 0
    return Capacity(
        name,
        has.vcpus,
        memory_mb,
        len(models),
        len(needs),
        sum(needs.values()) + shared,
        fits,
        int(room / mean) if mean else None,
    )


def _need_mb(manifest: Manifest) -> int:
    memory = manifest.measured.memory
    return memory.required_with_slots_mb if manifest.worker_slots else memory.required_mb


def _shared_mb(manifests: Iterable[Manifest]) -> int:
    by_libraries: dict[tuple[str, ...], int] = {}
    for manifest in manifests:
        libraries = manifest.measured.preload if manifest.worker_slots else ()
        beyond = max(0, manifest.measured.memory.required_mb - _need_mb(manifest))
        by_libraries[libraries] = max(by_libraries.get(libraries, 0), beyond)
    return sum(by_libraries.values())
