"""What the one who starts the endpoint service may choose."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["EndpointOptions", "Limits"]


@dataclass(frozen=True)
class Limits:
    """The limits that SageMaker sets; all times are seconds.

    Sources: AWS's quotas page for SageMaker endpoints (body, target model) and the developer
    guide's "Invoke a multi-model endpoint" (an answer within 60 s, a load within 360 s) and
    "Custom inference code with hosting services" (30 s between SIGTERM and SIGKILL).
    """

    body_bytes: int = 6 * 1024 * 1024
    target_model_characters: int = 1024
    invoke_seconds: float = 60.0
    load_seconds: float = 360.0
    start_seconds: float = 300.0
    stop_seconds: float = 30.0


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
        Bytes of memory for each container; None leaves it to the container.
    limits
        What SageMaker limits; changed in tests only.
    """

    port: int = 8950
    host: str = "127.0.0.1"
    server: str = "embedded"
    instances: int | None = None
    memory: int | None = None
    limits: Limits = field(default_factory=Limits)
