"""What SageMaker's instance types have: vCPUs and memory, a processor of another kind.

Source: the tables of Amazon EC2's "Instance types" guide, whose types SageMaker hosting offers
with ``ml.`` before the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["InstanceType", "accelerator_of", "instance_type", "is_graviton"]

_GIB = 1 << 30
_MEMORY = {  # GiB for each vCPU
    2.0: "c5 c5d c6g c6gd c6gn c6i c6in c7g c7i c8g",
    4.0: "m4 m5 m5d m6g m6gd m6i m7i m8g t2",
    8.0: "r5 r5d r6g r6gd r6i r7gd r7i r8g",
    1.875: "c4",
}
_PER_VCPU = {family: gib for gib, families in _MEMORY.items() for family in families.split()}
_EXCEPTIONS = {"t2.medium": (2, 4), "c4.8xlarge": (36, 60)}
_SIZES = {"medium": 1, "large": 2, "xlarge": 4}
_VCPUS_OF_AN_XLARGE = 4
_SPELLED = re.compile(r"ml\.(?P<family>[a-z0-9]+)\.(?P<size>(?P<times>\d+)?[a-z]+)")


@dataclass(frozen=True)
class InstanceType:
    """What an instance of a type has.

    Attributes
    ----------
    vcpus
        Virtual CPUs.
    memory_bytes
        Memory in all.
    """

    vcpus: int
    memory_bytes: int


def instance_type(name: str) -> InstanceType | None:
    """Return what an instance type has; None for one that is not in the tables.

    Examples
    --------
    >>> instance_type("ml.m6i.large")
    InstanceType(vcpus=2, memory_bytes=8589934592)
    >>> instance_type("ml.c5.9xlarge").vcpus
    36
    >>> instance_type("ml.g5.xlarge") is None
    True
    """
    spelled = _SPELLED.fullmatch(name)
    if spelled is None or spelled["family"] not in _PER_VCPU:
        return None
    if (exception := _EXCEPTIONS.get(name.removeprefix("ml."))) is not None:
        vcpus, gib = exception
        return InstanceType(vcpus, gib * _GIB)
    if spelled["times"]:
        vcpus = int(spelled["times"]) * _VCPUS_OF_AN_XLARGE
    elif spelled["size"] in _SIZES:
        vcpus = _SIZES[spelled["size"]]
    else:
        return None
    return InstanceType(vcpus, int(vcpus * _PER_VCPU[spelled["family"]] * _GIB))


_KIND = re.compile(r"ml\.(?P<kind>[a-z]+)\d+(?P<options>[a-z]*)(-[a-z0-9]+)?\.")
_ACCELERATORS = {
    "p": "GPU",
    "g": "GPU",
    "gr": "GPU",
    "inf": "Inferentia",
    "trn": "Trainium",
    "dl": "Gaudi",
}


def is_graviton(name: str) -> bool:
    """Say whether an instance type has AWS's own processors, which are arm64.

    Examples
    --------
    >>> is_graviton("ml.c6gn.large"), is_graviton("ml.m7i.large"), is_graviton("ml.g5.xlarge")
    (True, False, False)
    """
    spelled = _KIND.match(name)
    return spelled is not None and spelled["options"].startswith("g")


def accelerator_of(name: str) -> str | None:
    """Return what an instance type computes with beside its CPU; None for a CPU type.

    Examples
    --------
    >>> accelerator_of("ml.p6-b200.48xlarge"), accelerator_of("ml.inf2.xlarge")
    ('GPU', 'Inferentia')
    >>> accelerator_of("ml.m6g.large") is None
    True
    """
    spelled = _KIND.match(name)
    return None if spelled is None else _ACCELERATORS.get(spelled["kind"])
