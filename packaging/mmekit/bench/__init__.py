"""Load on an endpoint or a container, and what it found: percentiles, plots, comparisons."""

from mmekit.bench.destination import Destination, listed_targets
from mmekit.bench.generators import Target, Tool, measure
from mmekit.bench.load import put_load
from mmekit.bench.payload import Payload
from mmekit.bench.plan import Plan
from mmekit.bench.result import Load, Result, read_result

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
