"""One container: SageMaker's contract in front of DJL's Python engine."""

from mmekit_local.server.djl import require_djl, run_djl
from mmekit_local.server.run import ServerOptions, run

__all__ = ["ServerOptions", "require_djl", "run", "run_djl"]
