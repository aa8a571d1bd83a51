"""SageMaker's side of a multi-model endpoint, on this machine: one port, unmodified boto3.

``run`` serves until a signal comes. `front` tells apart what comes in; `service` puts the parts
together. Behind the port are two planes. The data plane (`data_plane`) answers ``InvokeEndpoint``
through `instances`: a variant picks an instance, whose model cache downloads, unpacks and loads
the target model on first use, and sends the request on to the instance's container. The control
plane (`control`) lets moto answer everything else, refuses what AWS refuses, and starts, resizes or
stops fleets of instances when endpoints come, change and go. `observability` is metrics, logs and
captured data, `page` what is seen under /_mme/, `state` what outlives a stop.

The containers are processes of their own; this room meets them over HTTP alone, through the
container contract of SageMaker multi-model endpoints. A `ContainerLauncher` is the seam at which
another kind of container plugs in.
"""

from mmekit.endpoint.instances.launcher import (
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
