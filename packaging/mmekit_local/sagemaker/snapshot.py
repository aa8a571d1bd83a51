"""What an endpoint looks like at one moment: for the page, for Prometheus, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mmekit_local.sagemaker.specification import EndpointId

__all__ = [
    "EndpointStatus",
    "FleetSnapshot",
    "InstanceSnapshot",
    "ModelSnapshot",
    "ParkingSnapshot",
    "VariantSnapshot",
]


# These two by the thousand: a frozen data class takes four times as long to make.


class ParkingSnapshot(NamedTuple):
    """What a container tells of a model that may give back its process while nobody asks it.

    Attributes
    ----------
    since
        When it was parked, in seconds of the epoch; None while it is awake.
    wakes
        How often it has come back.
    """

    since: float | None
    wakes: int


class ModelSnapshot(NamedTuple):
    """A model that an instance has.

    Attributes
    ----------
    target
        The target model; "" for the only model of a single-model endpoint.
    state
        ``loading``, ``loaded``, parked or not, or ``on disk``.
    disk_bytes
        What its files take.
    memory_bytes
        Its processes' proportional memory as the container last told; None when it does not tell.
    age_s, idle_s
        Seconds since it was loaded, and since it was last asked; 0 when it is not loaded.
    in_flight
        Requests that it is answering.
    invocations
        Requests since it was loaded.
    parking
        None where the container tells nothing of it.
    """

    target: str
    state: str
    disk_bytes: int
    memory_bytes: int | None
    age_s: float
    idle_s: float
    in_flight: int
    invocations: int
    parking: ParkingSnapshot | None = None


@dataclass(frozen=True)
class InstanceSnapshot:
    """An instance: its container and what it has loaded.

    Attributes
    ----------
    label
        Endpoint, variant and number, with slashes between.
    state
        ``starting``, ``in service``, ``draining`` or ``dead``.
    memory_limit, memory_bytes
        Bytes that its models may take, and the proportional memory of all its processes; None
        where that is not known.
    disk_limit, disk_bytes
        Likewise for the models' files.
    cpu_percent
        Of all its processes since the snapshot before; 100 is one core.
    """

    label: str
    state: str
    pid: int | None
    memory_limit: int | None
    memory_bytes: int | None
    disk_limit: int | None
    disk_bytes: int
    cpu_percent: float
    in_flight: int
    models: tuple[ModelSnapshot, ...]


@dataclass(frozen=True)
class VariantSnapshot:
    """A production variant and its instances.

    Attributes
    ----------
    data_url
        ModelDataUrl: the archive of its only model, or the prefix of all.
    """

    name: str
    weight: float
    multi_model: bool
    instance_type: str | None
    instances: tuple[InstanceSnapshot, ...]
    data_url: str = ""


@dataclass(frozen=True)
class FleetSnapshot:
    """All instances of an endpoint, those of shadow variants last.

    Attributes
    ----------
    asynchronous
        Whether requests are queued.
    publish_seconds
        How often metrics of instances go to CloudWatch; None where nobody has chosen.
    """

    endpoint: str
    config_name: str
    variants: tuple[VariantSnapshot, ...]
    asynchronous: bool = False
    publish_seconds: float | None = None


@dataclass(frozen=True)
class EndpointStatus:
    """An endpoint that exists, whether it has instances or not: what DescribeEndpoint tells."""

    id: EndpointId
    config_name: str
    status: str
    failure_reason: str | None
