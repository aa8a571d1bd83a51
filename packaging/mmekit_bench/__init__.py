"""Load on an endpoint or a container, and what it found: percentiles, plots, comparisons."""

from mmekit_bench.destination import Destination, listed_targets
from mmekit_bench.generators import Target, Tool, measure
from mmekit_bench.load import put_load
from mmekit_bench.payload import Payload
from mmekit_bench.plan import Plan
from mmekit_bench.result import Load, Result, read_result

__all__ = [
    "Destination",
    "Load",
    "Payload",
    "Plan",
    "Result",
    "Target",
    "Tool",
    "listed_targets",
    "measure",
    "put_load",
    "read_result",
]
