"""AWS around SageMaker: one port, told apart by what a request is signed for.

``run`` serves until a signal comes. `service` puts the parts together, `front` tells apart what
comes in: SageMaker's two planes, CloudFormation (`cloudformation`), Lambda (`functions`), and the
rest, which is moto's (`moto`). `state` is what outlives a stop. Who cares for multi-model endpoints
alone need not come here.
"""

from mmekit_local.aws.run import run

__all__ = ["run"]
