"""One container: SageMaker's contract in front of DJL's Python engine."""

from mmekit.server.djl import require_djl, run_djl
from mmekit.server.run import ServerOptions, run

__all__ = ["ServerOptions", "require_djl", "run", "run_djl"]
