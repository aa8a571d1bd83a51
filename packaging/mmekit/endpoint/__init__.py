"""SageMaker's side of a multi-model endpoint, on this machine: one port, unmodified boto3.

``run`` serves until a signal comes. Behind the port (`front`) are two planes. The data plane
(`data_plane`) answers ``InvokeEndpoint``: it picks an instance (`router`), whose `model_cache`
downloads, unpacks and loads the target model on first use, and sends the request on to the
instance's container (`container_client`). The control plane (`control_plane`) lets moto (`aws`)
answer everything else and starts or stops containers (`launcher`) when endpoints come and go.

The containers are processes of their own; this room meets them over HTTP alone, through the
container contract of SageMaker multi-model endpoints. A `ContainerLauncher` is the seam at which
another kind of container plugs in.
"""

from mmekit.endpoint.launcher import (
    CommandLauncher,
    Container,
    ContainerLauncher,
    Placement,
)
from mmekit.endpoint.options import EndpointOptions, Limits
from mmekit.endpoint.run import run

__all__ = [
    "CommandLauncher",
    "Container",
    "ContainerLauncher",
    "EndpointOptions",
    "Limits",
    "Placement",
    "run",
]
