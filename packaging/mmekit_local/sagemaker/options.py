"""What the one who starts the endpoint service may choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EndpointLimits", "EndpointOptions"]


@dataclass(frozen=True)
class EndpointLimits:
    """The limits that SageMaker sets; all times are seconds.

    Sources: AWS's quotas page for SageMaker endpoints (body, target model) and the developer
    guide's "Invoke a multi-model endpoint" (an answer within 60 s, a load within 360 s) and
    "Custom inference code with hosting services" (30 s between SIGTERM and SIGKILL); a response
    stream of eight minutes is that of the quotas page. Where AWS tells no number, ours is below.

    Attributes
    ----------
    waiting_requests
        How many may wait for one model's load; the next gets ModelNotReadyException. Ours.
    busy_requests
        So many requests of one model in flight at every instance that has it make it spill to
        one more. Ours.
    disk_bytes
        What the models of an instance may take of the disk before the least recently used ones
        are deleted; None takes nine tenths of what is free when the instance starts. Ours.
    health_seconds
        Between two looks at /ping; the third failure in a row replaces an instance. Ours.
    serverless_idle_seconds
        Without a request for so long, a serverless variant has no container. Ours.
    """

    body_bytes: int = 6 * 1024 * 1024
    target_model_characters: int = 1024
    invoke_seconds: float = 60.0
    load_seconds: float = 360.0
    start_seconds: float = 300.0
    stop_seconds: float = 30.0
    stream_seconds: float = 480.0
    serverless_body_bytes: int = 4 * 1024 * 1024
    serverless_idle_seconds: float = 300.0
    waiting_requests: int = 1000
    busy_requests: int = 8
    disk_bytes: int | None = None
    health_seconds: float = 5.0


@dataclass(frozen=True)
class EndpointOptions:
    """How the local endpoint service is set up.

    Parameters
    ----------
    port
        The one port for every AWS service.
    host
        The address to bind to; loopback unless the user says otherwise.
    server
        The kind of container that serves the models: ``embedded`` or ``djl``.
    instances
        Containers for each variant; None takes InitialInstanceCount from the endpoint's config.
    memory
        Bytes of memory for each container; None takes those of its instance type.
    limits
        What SageMaker limits; changed in tests only.
    state
        The folder that keeps buckets, models and endpoints for the next start; None keeps nothing.
    state_seconds
        How long an endpoint is at least Creating, Updating and Deleting.
    autoscaling_minute
        How many seconds a minute of Application Auto Scaling lasts.
    """

    port: int = 8950
    host: str = "127.0.0.1"
    server: str = "embedded"
    instances: int | None = None
    memory: int | None = None
    limits: EndpointLimits = field(default_factory=EndpointLimits)
    state: Path | None = None
    state_seconds: float = 0.0
    autoscaling_minute: float = 60.0
