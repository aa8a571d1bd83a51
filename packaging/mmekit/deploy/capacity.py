"""How many of the models an instance has room for at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.errors import DeployError
from mmekit.instance_types import instance_type
from mmekit_runtime.layers.listing import KINDS, LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mmekit.archive import Manifest
    from mmekit.deploy.models import PackedModel

__all__ = ["Capacity", "capacity_of"]

_MIB = 1 << 20
_MIB_OF_A_GIB = 1 << 10
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
    bodies_mb
        How much of it are bodies that models share: each is in memory once.
    fits
        How many of those are in memory at once, the smallest first; None when it is not known.
    alike
        How many models like these would be, if there were more.
    disk_mb
        What all models take on an instance's disk, each layer once.
    volume_gb
        How large that is; None when it is not known.
    """

    instance_type: str
    vcpus: int | None
    memory_mb: int | None
    models: int
    measured: int
    needed_mb: int
    bodies_mb: int
    fits: int | None
    alike: int | None
    disk_mb: int
    volume_gb: int | None

    def lines(self) -> list[str]:
        """Return it as text."""
        return [*self._of_memory(), *self._of_disk()]

    def _of_disk(self) -> list[str]:
        if self.volume_gb is None:
            return []
        room = self.volume_gb * _MIB_OF_A_GIB
        if self.disk_mb <= room:
            text = f"all models take {self.disk_mb} of {room} MiB"
        else:
            text = (
                f"all models would take {self.disk_mb} MiB, of {room}: the least recently used are "
                "deleted, and fetched again when they are asked for"
            )
        return [f"disk: {text}"]

    def _of_memory(self) -> list[str]:
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
        if self.bodies_mb:
            lines.append(f"  {self.bodies_mb} MiB of it are bodies that models share, loaded once")
        if self.measured < self.models:
            lines.append(f"  {self.models - self.measured} say nothing about their memory")
        return lines


def capacity_of(
    name: str, models: Sequence[PackedModel], *, volume_gb: int | None = None
) -> Capacity:
    """Reckon how many of the models fit into the memory of an instance, and whether on its disk.

    With worker slots a model takes what it needs beyond the libraries and beyond the body that it
    shares. Libraries are in memory once for all models that import the same, a body once for those
    that also have the same code. Without worker slots it takes a whole process.

    Raises
    ------
    DeployError
        A model does not fit even alone: every load of it would be refused.
    """
    has = instance_type(name)
    manifests = {model.key: model.manifest for model in models if model.manifest is not None}
    needs = {key: _need_mb(manifest) for key, manifest in manifests.items()}
    bodies = _bodies_mb(manifests.values())
    shared = _libraries_mb(manifests.values()) + bodies
    needed, disk = sum(needs.values()) + shared, _disk_mb(models)
    if has is None:
        return Capacity(
            name, None, None, len(models), len(needs), needed, bodies, None, None, disk, volume_gb
        )
    memory_mb = has.memory_bytes // _MIB
    for key, manifest in manifests.items():
        alone = needs[key] + _libraries_mb([manifest]) + _bodies_mb([manifest])
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
        needed,
        bodies,
        fits,
        int(room / mean) if mean else None,
        disk,
        volume_gb,
    )


def _need_mb(manifest: Manifest) -> int:
    memory = manifest.measured.memory
    return memory.required_with_slots_mb if manifest.worker_slots else memory.required_mb


def _body_mb(manifest: Manifest) -> int:
    shared = manifest.measured.memory.shared if manifest.worker_slots else None
    return math.ceil((shared or 0) / _MIB)


def _libraries_mb(manifests: Iterable[Manifest]) -> int:
    by_libraries: dict[tuple[str | None, ...], int] = {}
    for manifest in manifests:
        imports = manifest.measured.preload if manifest.worker_slots else ()
        libraries = (_layer_of(manifest, LIBRARIES), *imports)
        own = _need_mb(manifest) + _body_mb(manifest)
        beyond = max(0, manifest.measured.memory.required_mb - own)
        by_libraries[libraries] = max(by_libraries.get(libraries, 0), beyond)
    return sum(by_libraries.values())


def _bodies_mb(manifests: Iterable[Manifest]) -> int:
    by_body: dict[object, int] = {}
    for manifest in manifests:
        if _body_mb(manifest):
            # Code and runtime, too: models of other bytes are forked from another process.
            code = frozenset(
                (name, digest.sha256)
                for name, digest in manifest.files.items()
                if name.endswith(".py")
            )
            layers = tuple(_layer_of(manifest, kind) for kind in KINDS)
            body = (code, layers, manifest.measured.preload)
            by_body[body] = max(by_body.get(body, 0), _body_mb(manifest))
    return sum(by_body.values())


def _layer_of(manifest: Manifest, kind: str) -> str | None:
    return next((layer.sha256 for layer in manifest.layers if layer.kind == kind), None)


def _disk_mb(models: Sequence[PackedModel]) -> int:
    files, layers = 0, {}
    for model in models:
        if model.manifest is None:
            files += model.size  # at least; `mme pack` stores
        else:
            files += sum(digest.size for digest in model.manifest.files.values())
        layers.update({layer.entry.sha256: layer.entry.bytes for layer in model.layers})
    return math.ceil((files + sum(layers.values())) / _MIB)
