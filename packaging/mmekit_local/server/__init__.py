"""One container: SageMaker's contract in front of DJL's Python engine.

`run` starts a server, `api` answers the contract's routes: for a load and an unload by `registry`,
which asks `memory` whether there is enough; for an invocation by the model's `pool`, its workers
and the queue in front of them. A `worker` is a process of DJL's engine, or one of the `slots` that
the `fork_servers` have. `load_plan` is what a model's folder asks for; `environments` makes what
its `requirements` lack. `djl` starts the real DJL Serving in place of all that.
"""

from mmekit.extras import program_libraries

with program_libraries("mmekit_local.server"):
    from mmekit_local.server.djl import require_djl, run_djl
    from mmekit_local.server.run import ServerOptions, run

__all__ = ["ServerOptions", "require_djl", "run", "run_djl"]
