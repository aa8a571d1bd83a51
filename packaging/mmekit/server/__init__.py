"""One multi-model container on loopback: SageMaker's contract in front of DJL's Python engine."""

from mmekit.server.run import ServerOptions, run

__all__ = ["ServerOptions", "run"]
