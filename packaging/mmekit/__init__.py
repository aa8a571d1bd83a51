"""Package Python models for DJL Serving and rehearse SageMaker multi-model endpoints locally.

The rooms: `mmekit.archive` turns a package folder into a checked archive, `mmekit.server` serves
archives as one multi-model container, `mmekit.endpoint` is SageMaker's side of it. What they have
in common is in `mmekit.errors`, `mmekit.settings` and `mmekit.engine`.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
