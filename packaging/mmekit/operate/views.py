"""What there is to see of an endpoint at one moment, whoever tells it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmekit.operate.causes import FailureCause

__all__ = ["EndpointView", "InstanceView", "ModelView"]


@dataclass(frozen=True)
class InstanceView:
    """An instance; None is what its source does not tell.

    Attributes
    ----------
    variant, instance
        The names of the variant and of the instance.
    memory_bytes, memory_limit
        What it takes, and what it has for models.
    loaded, parked
        How many models are loaded, and how many of them are parked.
    """

    variant: str
    instance: str
    memory_bytes: int | None = None
    memory_limit: int | None = None
    loaded: float | None = None
    parked: int | None = None


@dataclass(frozen=True)
class ModelView:
    """A model; None is what its source does not tell.

    Attributes
    ----------
    target
        The target model; from log lines, the name that it was packed with.
    where
        Pairs of an instance and a state: ``loaded``, ``parked``, ``loading``, ``disk``.
    requests, errors, hits, cold_loads
        In the window.
    p50_ms, p99_ms
        Of the whole request, or from log lines of the handler's call.
    memory_bytes
        What it takes.
    """

    target: str
    where: tuple[tuple[str, str], ...] = ()
    requests: int | None = None
    errors: int | None = None
    hits: int | None = None
    cold_loads: int | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    memory_bytes: int | None = None

    @property
    def is_of_interest(self) -> bool:
        """Whether anything is to be seen of it: loaded, asked or failed."""
        return bool(self.where or self.requests or self.errors)


@dataclass(frozen=True)
class EndpointView:
    """An endpoint at one moment.

    Attributes
    ----------
    endpoint, status
        Its name and EndpointStatus.
    at
        When, in seconds of the epoch.
    window_s
        Over how long figures are counted.
    source
        Who told it: ``service`` or ``cloudwatch``.
    requests, errors, cold_loads
        Of all models; None where it is not told.
    hit_rate
        The share of requests that found their model loaded; None without requests.
    p50_ms, p99_ms
        Of the models' latency at all of the endpoint, where the source tells it.
    failures
        By cause, the latest first.
    notes
        What is not to be seen, and how it would be, a sentence each.
    """

    endpoint: str
    status: str
    at: float
    window_s: int
    source: str
    instances: tuple[InstanceView, ...] = ()
    models: tuple[ModelView, ...] = ()
    failures: tuple[FailureCause, ...] = ()
    requests: int | None = None
    errors: int | None = None
    cold_loads: int | None = None
    hit_rate: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    notes: tuple[str, ...] = ()

    def members(self) -> dict[str, Any]:
        """Return it as JSON's types, named as the local service names them."""
        members = {_camel(name): value for name, value in asdict(self).items()}
        members["windowSeconds"] = members.pop("windowS")
        members["errorCount"] = members.pop("errors")
        members["errors"] = members.pop("failures")
        for name in ("instances", "models"):
            members[name] = [
                {_camel(key): value for key, value in one.items()} for one in members[name]
            ]
        for one in members["models"]:
            one["where"] = [{"instance": name, "state": state} for name, state in one["where"]]
        return members


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))
