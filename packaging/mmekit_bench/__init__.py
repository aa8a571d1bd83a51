"""Load on an endpoint or a container, and what it found: percentiles, plots, comparisons."""

from mmekit_bench.load import Target, Tool, measure, put_load
from mmekit_bench.plan import Destination, LoadPlan, Payload, listed_targets
from mmekit_bench.result import Load, LoadResult, read_result

__all__ = [
    "Destination",
    "Load",
    "LoadPlan",
    "LoadResult",
    "Payload",
    "Target",
    "Tool",
    "listed_targets",
    "measure",
    "put_load",
    "read_result",
]
