"""SageMaker's side of a multi-model endpoint.

The data plane (`data_plane`) answers ``InvokeEndpoint`` through `instances`: a variant picks an
instance, whose model cache downloads, unpacks and loads the target model on first use, and sends
the request on to the instance's container. The control plane (`control`) refuses what AWS refuses,
and starts, resizes or stops fleets of instances when endpoints come, change and go.
`observability` is metrics, logs and captured data, `asynchronous` the queues of asynchronous
endpoints, `page` what is seen under /_mme/.

What passes between them: requests and replies (`api`, `errors`), what an endpoint shall be
(`specification`), what it looks like (`snapshot`) and what happened to it (`event_log`). The rest
of AWS is what `aws_client` asks for, whoever plays it.

The containers are processes of their own; this room meets them over HTTP alone, through the
container contract of SageMaker multi-model endpoints. A `ContainerLauncher` is the seam at which
another kind of container plugs in.
"""

from mmekit_local.sagemaker.instances.launcher import (
    CommandLauncher,
    Container,
    ContainerLauncher,
    Placement,
)
from mmekit_local.sagemaker.options import EndpointLimits, EndpointOptions

__all__ = [
    "CommandLauncher",
    "Container",
    "ContainerLauncher",
    "EndpointLimits",
    "EndpointOptions",
    "Placement",
]
